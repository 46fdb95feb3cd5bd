"""Chat templates: what real ones need, and what hostile ones must not get."""

from __future__ import annotations

import time
from enum import Enum
from typing import Any

import pytest

from llmq.errors import ChatTemplateError
from llmq.text import sandbox
from llmq.text.template import NAMED_TEMPLATES, ChatTemplate, chat_template_of
from llmq.text.tokenizer import Tokenizer

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <b>"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]

LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""


def render(source: str, messages: Any = CHAT, **values: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages, **values)


def test_real_features() -> None:
    assert render(NAMED_TEMPLATES["chatml"], CHAT[:1]) == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\n"
    assert render(LLAMA3, CHAT[1:2], add_generation_prompt=False) == (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi <b><|eot_id|>"
    )
    counted = "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    assert render(counted) == "4"
    assert render("{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{{ loop.index0 }}{% endfor %}") == "01"
    assert render("{{ tools | tojson(indent=1) }}", tools=[{"é": [1, None]}]) == '[\n {\n  "é": [\n   1,\n   null\n  ]\n }\n]'
    assert render("{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join(', ') }}") == "Hi <b>, Bye"
    assert render("{% macro m(x, y='!') %}{{ x ~ y }}{% endmacro %}{{ m('a') + m('b', y=messages|length) }}") == "a!b4"
    assert render("a\n  {% if true %}\nb\n{% endif %}\nc") == "a\nb\nc"  # trim_blocks and lstrip_blocks
    assert render("{{ messages[1:][::-1][0].content }}") == "Bye"
    assert render("{{ 'x' in 'xyz' and messages[0].tool_calls is not defined }}") == "True"
    assert render("{% generation %}{{ enable_thinking }}{% endgeneration %}", enable_thinking=False) == "False"
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10
    assert render("{{ '%s and {}'.format(1) % 'a' }}") == "a and 1"
    assert render("{{ messages[0].items()|list|length }} {{ 'a,b'.split(',')[-1] }}") == "2 b"


def test_many_messages() -> None:
    assert render(LLAMA3, CHAT * 500).count("<|eot_id|>") == 2000


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a\n\n{{ raise_exception('roles must alternate') }}", "line 3: 'roles must alternate'"),
        ("a\n{{ 1 / 0 }}", "line 2: ZeroDivisionError"),
        ("a\n{% if %}", "line 2"),
        ("{{ messages.nothing.more }}", "line 1"),
        ("x" * 300_000, "at most"),
    ],
)
def test_failures_name_the_line(source: str, words: str) -> None:
    with pytest.raises(ChatTemplateError, match=words):
        render(source)


BIG = "{% set x = 'a' * 4000000 %}"
LOOP = "{% for i in range(99999) %}"
HOSTILE = [
    # out of the sandbox
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0[__class__]}'.format(1) }}",
    "{{ '{x.__init__}'.format_map({'x': 1}) }}",
    "{{ ''|attr('__class__') }}",
    "{{ [1]|map(attribute='__class__')|list }}",
    "{{ cycler.__init__.__globals__.os.system('id') }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__globals__ }}",
    "{{ namespace(__class__=1) }}",
    "{% set ns = namespace() %}{% set ns.__init__ = 1 %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{% include 'x' %}",
    "{% extends '/etc/passwd' %}",
    "{% import 'x' as y %}",
    "{% block b %}{% endblock %}",
    "{{ lipsum(100) }}",
    "{{ [-10]|map(' tick')|list }}",
    # much from little
    "{{ range(10**9) }}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * [0] }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ 9 ** 999 ** 999 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%(a)1000000000d' % {'a': 1} }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ ('\\t' * 1000).expandtabs(10**9) }}",
    "{{ 'a'|indent(10**9) }}",
    "{{ 'a'|center(10**9) }}",
    "{{ 1.5|round(10**9) }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{{ 'a'.encode() }}",
    "{{ (1).to_bytes(10**9, 'big') }}",
    "{{ 'a'.translate({97: 'a'}) }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{{ [[1]]|tojson(indent=10**9) }}",
    "{{ range(99999)|list|tojson(separators=('" + "x" * 1000 + "', '')) }}",
    BIG + "{{ x + x }}",
    BIG + "{{ x ~ x }}",
    BIG + "{{ x.replace('a', x) }}",
    BIG + "{{ x|replace('a', x) }}",
    BIG + "{{ [x, x]|join }}",
    BIG + "{{ ''.join([x, x]) }}",
    BIG + "{{ x.join(['', '', '']) }}",
    BIG + "{% set y %}" + LOOP + "{{ x }}{% endfor %}{% endset %}",
    "{% set y %}" + LOOP + "y" * 100_000 + "{% endfor %}{% endset %}",
    BIG + "{% set y = range(99999)|map('default', x)|list %}{% for z in y %}{{ [x] * 1000 }}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}" + LOOP + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}",
    "{% set ns = namespace(x='a') %}" + LOOP + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    # no end
    LOOP + LOOP + "{% endfor %}{% endfor %}",
    LOOP + LOOP + "{{ i * i }}{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(100) }}",
    "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    LOOP + "{% if 'a' in range(99999) %}{% endif %}{% endfor %}",
    LOOP + "{% set x = range(99999)|list|sort %}{% endfor %}",
    LOOP + "{% set x = range(99999)|map('string')|list %}{% endfor %}",
    # hard to read
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "[" * 500 + "]" * 500 + " }}",
    "{{ " + "-" * 5000 + "1 }}",
    "{{ " + "9" * 5000 + " }}",
    "{{ " + " and ".join(["1"] * 5000) + " }}",
    "{% if true %}" * 3000 + "{% endif %}" * 3000,
    "{% for x in messages %}" * 30 + "{% endfor %}" * 30,
]


@pytest.mark.parametrize("source", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_templates_are_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_MAX_SECONDS", 0.2)  # instead of 1.5; the suite has no hours
    before = time.thread_time()
    with pytest.raises(ChatTemplateError):
        render(source)
    assert time.thread_time() - before < 20  # seconds of CPU: no timing, but a bound that an endless loop never keeps


TYPED = """{% for m in messages %}{{ m.role }}:
{%- for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% elif part.type == 'image' %}<image>{% endif %}
{%- endfor %};{% endfor %}"""


def test_contents_in_parts() -> None:
    """A template gets contents in the form that it shows: parts as lines of a text, a text as one part."""
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    either = "{% for m in messages %}{{ m.content if m.content is string else m.content|map(attribute='text')|join }}"
    either += "{% endfor %}"
    written_out = "{% for m in messages %}{{ m.content | trim }}{% endfor %}"  # as Python writes lists
    wanted = {NAMED_TEMPLATES["chatml"]: "user\na\nb<", written_out: "a\nb", either: "ab", TYPED: "user:ab;"}
    for source, want in wanted.items():
        assert want in render(source, parts)
    for source in (TYPED, "{% if tools is not none %}{{ raise_exception('tools') }}{% endif %}" + TYPED):
        assert render(source, [{"role": "user", "content": "Hi"}]) == "user:Hi;"
    assert render(TYPED, [{"role": "user", "content": [{"type": "image"}, *parts[0]["content"]]}]) == "user:<image>ab;"
    for part in ({"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, 5):
        with pytest.raises(ChatTemplateError, match=r"messages\[0\].content has a part of type"):
            render(LLAMA3, [{"role": "user", "content": [part]}])
    assert "assistant\n<|im_end|>" in render(NAMED_TEMPLATES["chatml"], [{"role": "assistant", "content": None}])


class Role(str, Enum):
    USER = "user"


def test_arguments_are_plain_data() -> None:
    class Sneaky(dict):  # type: ignore[type-arg]
        def pwn(self) -> str:
            return "pwned"

    assert "pwned" not in render("{{ messages[0].pwn }}", [Sneaky(role="user")])
    for bad in [[{"role": object()}], [{1: "x"}], [{"role": b"x"}]]:
        with pytest.raises(TypeError):
            render("x", bad)
    assert render("{% for m in messages %}{{ m.role }}{% endfor %}", (m for m in [{"role": Role.USER}])) == "user"
    for bad in ["text", {"role": "user"}, ["text"], None]:
        with pytest.raises(TypeError, match="messages"):
            render("x", bad)
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ChatTemplateError, match="deep"):
        render("x", [{"content": deep}])


def test_templates_of_models() -> None:
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": ["a", "<|end|>"]}
    without = Tokenizer.from_metadata(metadata)
    with pytest.raises(ChatTemplateError, match="chat_template="):
        chat_template_of(without)
    with pytest.raises(ChatTemplateError, match="chatml"):
        chat_template_of(without, "no-such-name")
    assert chat_template_of(without, "chatml").render(CHAT[:1]).startswith("<|im_start|>system")
    templates = {"tokenizer.chat_template": "{{ eos_token }}", "tokenizer.chat_template.rag": "{{ 1 }}"}
    brings = Tokenizer.from_metadata({**metadata, **templates, "tokenizer.ggml.eos_token_id": 1})
    assert chat_template_of(brings).render(CHAT) == "<|end|>"
    assert chat_template_of(brings, "rag").render(CHAT) == "1"
    assert chat_template_of(brings, "{{ 2 }}").render(CHAT) == "2"
