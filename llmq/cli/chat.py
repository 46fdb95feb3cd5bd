"""Talk with a model in the terminal.

/exit (or Ctrl-D) ends, /reset forgets the conversation, Ctrl-C stops a reply. Lines may also come from a pipe, one turn each.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import sys
from pathlib import Path

from llmq.cli import _common
from llmq.model import LLM
from llmq.results import Chunk
from llmq.sampling import Sampling

_HISTORY = Path("~/.llmq_history")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a GGUF file or a Hugging Face folder with a chat template")
    parser.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    parser.add_argument("--chat-template", metavar="NAME|FILE", help="chatml or a Jinja file, in place of the model's own")
    _common.add_sampling_arguments(parser)
    _common.add_load_arguments(parser)


def run(args: argparse.Namespace) -> int:
    template = args.chat_template
    if template is not None and Path(template).is_file():
        template = Path(template).read_text(encoding="utf-8")
    sampling = _common.sampling_of(args)
    with _common.open_model(args, args.model, chat_template=template) as llm:
        first = [{"role": "system", "content": _common.given_text(args.system)}] if args.system else []
        llm.render([*first, {"role": "user", "content": "?"}])  # says at once when the model cannot chat
        if sys.stdin.isatty():
            _remember_lines()
            if not args.json:
                sys.stderr.write(f"{llm.name}; /exit ends, /reset forgets, Ctrl-C stops a reply\n")
        messages = list(first)
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "")
            except EOFError:
                break
            if line.strip() == "/exit":
                break
            if line.strip() == "/reset":
                messages = list(first)
            elif line.startswith("/") and line.strip().isascii() and " " not in line.strip():
                sys.stderr.write(f"unknown command {line.strip()}; there are /exit and /reset\n")
            elif line.strip():
                messages.append({"role": "user", "content": line})
                messages.append({"role": "assistant", "content": _reply(llm, messages, sampling, args.json)})
    return 0


def _reply(llm: LLM, messages: list[dict[str, str]], sampling: Sampling, as_json: bool) -> str:
    if as_json:
        reply = llm.chat(messages, sampling)
        sys.stdout.write(json.dumps(_common.as_json(reply, message=reply.message), ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return reply.text
    text = ""
    last: Chunk | None = None
    with llm.chat_stream(messages, sampling) as stream:
        try:
            for last in stream:
                text += last.text
                sys.stdout.write(last.text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
    sys.stdout.write("\n")
    sys.stdout.flush()
    if last is not None and sys.stderr.isatty():
        sys.stderr.write(f"[{_common.speed_line(last.usage, last.timings)}]\n")
    return text


def _remember_lines() -> None:
    """Line editing, and a history kept between sessions where the home folder can be written."""
    try:
        import readline  # noqa: PLC0415 - not everywhere
    except ImportError:
        return
    path = _HISTORY.expanduser()

    def save() -> None:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)

    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    atexit.register(save)
