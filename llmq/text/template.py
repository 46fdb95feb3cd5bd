"""Chat templates: a conversation to the text of a prompt, with the template that the model brings, in the sandbox.

Templates are those of Hugging Face transformers (`apply_chat_template`): jinja2 with trim_blocks and lstrip_blocks, loop
controls, and the names messages, tools, documents, add_generation_prompt, bos_token, eos_token, raise_exception, strftime_now,
namespace, tojson.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError

from llmq.errors import ChatTemplateError, quoted
from llmq.text.sandbox import MAX_TEXT, Budget, Sandbox, budget

if TYPE_CHECKING:
    from llmq.text.tokenizer import Tokenizer

__all__ = ["NAMED_TEMPLATES", "ChatTemplate", "chat_template_of"]

log = logging.getLogger(__name__)

_MAX_SOURCE = 256 << 10
_MAX_DEPTH = 32  # of messages and tools

NAMED_TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
}
"""Formats that can be asked for by name."""


class ChatTemplate:
    """A compiled template. `variables` are names it may use besides the messages (bos_token, eos_token, …). Immutable, usable
    from many threads."""

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        """Raises ChatTemplateError, naming the line, for a source of more than 256 KiB or that does not compile."""
        if len(source.encode("utf-8", "surrogatepass")) > _MAX_SOURCE:
            raise ChatTemplateError(f"the chat template has {len(source)} characters; at most {_MAX_SOURCE} bytes are allowed")
        self.source = source
        self.variables = dict(variables or {})
        try:
            self._template = Sandbox().from_string(source)
        except TemplateSyntaxError as error:
            raise ChatTemplateError(f"chat template, line {error.lineno}: {quoted(error.message, 400)}") from None
        except (ValueError, SyntaxError, RecursionError, MemoryError, TemplateError) as error:
            reason = f"{type(error).__name__}: {quoted(str(error), 400)}"
            raise ChatTemplateError(f"the chat template does not compile: {reason}") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt for `messages` ({"role": …, "content": …}). Everything passed must be plain JSON data; TypeError
        otherwise. A content is a text or, as OpenAI has it, a list of parts ({"type": "text", "text": …}); the template gets it
        in the form that it shows, parts as lines of a text.

        Raises ChatTemplateError, naming the line, when the template fails, refuses the messages (raise_exception), or asks for
        more than 4 MiB of text, 1.5 s of CPU time, or what the sandbox does not give."""
        turns = list(messages) if isinstance(messages, Iterable) and not isinstance(messages, Mapping | str) else [None]
        if not all(isinstance(turn, Mapping) for turn in turns):
            raise TypeError('messages must be a list of {"role": …, "content": …}')
        given: dict[str, Any] = {"messages": turns, "tools": tools, "documents": documents} | variables
        values = {name: _plain(value, name) for name, value in given.items()}
        for at, turn in enumerate(values["messages"]):
            if isinstance(turn.get("content"), list) and not self._shown[1]:
                turn["content"] = _joined(turn["content"], at)
            elif isinstance(turn.get("content"), str) and self._shown == (False, True):
                turn["content"] = _parts(turn["content"])
        return self._run(values, add_generation_prompt=add_generation_prompt)

    @cached_property
    def _shown(self) -> tuple[bool, bool]:
        """Whether the template shows a content that is a text, and one that is a list of parts; it is tried out. Some go
        through the letters of a text as if they were parts, others write a list out as Python does."""
        probe, found = "a?b", []
        for content in (probe, _parts(probe)):
            given = {"messages": [{"role": "user", "content": content}], "tools": None, "documents": None}
            try:
                text = self._run(given, add_generation_prompt=False)
            except ChatTemplateError:
                text = ""
            found.append(probe in text and f"'{probe}'" not in text and f'"{probe}"' not in text)
        return found[0], found[1]

    def _run(self, given: Mapping[str, Any], *, add_generation_prompt: bool) -> str:
        values = {**self.variables, **given}
        token = budget.set(Budget())
        try:
            return "".join(self._template.generate(**values, add_generation_prompt=add_generation_prompt))
        except Exception as error:  # whatever a template's code can raise: TypeError, ZeroDivisionError, RecursionError, …
            kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            raise ChatTemplateError(f"chat template, line {_line_of(error)}: {kind}{quoted(str(error), 400)}") from None
        finally:
            budget.reset(token)


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _joined(parts: list[Any], at: int) -> str:
    """The texts of a content's parts, as lines; ChatTemplateError for a part of another kind."""
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise ChatTemplateError(f"messages[{at}].content has a part of type {quoted(kind)}; this template shows text only")
        texts.append(text)
    return "\n".join(texts)


def _line_of(error: Exception) -> int:
    """The line of the template where an error came up; jinja2 puts it into the traceback."""
    line, frame = 1, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return line


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of JSON-like data in exact dict, list, str, int, float, bool, None: no object with methods reaches a template."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            if isinstance(value, str) and len(value) > MAX_TEXT:
                raise ChatTemplateError(f"{where} has {len(value)} characters; a chat may have at most {MAX_TEXT}")
            return str.__str__(value) if isinstance(value, str) else kind(value)  # str() of an enumeration's is its name
    if depth > _MAX_DEPTH:
        raise ChatTemplateError(f"{where} is more than {_MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item, f"{where}[{at}]", depth + 1) for at, item in enumerate(value)]
    raise TypeError(f"{where[:200]} is a {type(value).__name__}; a chat template takes plain JSON data only")


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where[:200]} has the key {key!r:.80}; keys must be strings")
    return str(key)


def chat_template_of(tokenizer: Tokenizer, chosen: str | None = None) -> ChatTemplate:
    """The template of a model, or `chosen`: the source of another, or a name ("chatml", or of one that the model brings beside
    its own).

    Raises ChatTemplateError when there is none."""
    known = NAMED_TEMPLATES | tokenizer.chat_templates
    source = tokenizer.chat_template if chosen is None else known.get(chosen, chosen)
    if source is None:
        raise ChatTemplateError(
            "this model brings no chat template, so it is probably no chat model; use generate(), or pass chat_template= "
            f"with the source of a template or one of the names {', '.join(sorted(known))}"
        )
    if chosen is not None and chosen not in known and "{" not in chosen:
        raise ChatTemplateError(f"{quoted(chosen)} is neither the source of a template nor one of: {', '.join(sorted(known))}")
    tokens = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "unk": tokenizer.unk_id, "pad": tokenizer.pad_id}
    variables = {f"{name}_token": "" if id is None else tokenizer.token(id) for name, id in tokens.items()}
    return ChatTemplate(source, variables)
