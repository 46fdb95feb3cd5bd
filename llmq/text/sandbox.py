"""The jinja2 sandbox that chat templates run in. A template is untrusted: it can fail, it cannot reach Python, hang, or fill
the memory.

On top of jinja2's `ImmutableSandboxedEnvironment` (no private attributes, no mutation, a sandboxed str.format):

- no loader, no include, import, extends or block; a fixed set of filters, methods and globals;
- a budget per rendering. The parsed template is instrumented: every statement, loop iteration, comparison, filter, call and
operator is
  counted, with the size of what it makes, so work and memory are bounded whatever the template computes;
- what can make much from little ('a' * n, '%*d', |indent, |replace, …) is checked before it runs.

A value's weight is its number of nodes as a tree (a shared part counts each time it is reached) plus its characters / 64.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, pass_context

__all__ = ["MAX_TEXT", "BudgetError", "Sandbox", "budget"]

MAX_TEXT = 4 << 20  # characters of one string, and of the output
_MAX_WEIGHT = 1 << 20  # of everything one rendering makes
_MAX_SECONDS = 1.5  # of CPU time
_MAX_DEPTH = 64  # of a value
_MAX_NESTING = 200  # of the template's syntax tree
_MAX_WIDTH = 1000  # of a formatted field, an indentation
_MAX_BITS = 1024  # of an integer


class BudgetError(TemplateError):
    """The template asks for more than any chat needs."""


class Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self.left = _MAX_WEIGHT
        self.output = MAX_TEXT
        self.end = time.thread_time() + _MAX_SECONDS

    def charge(self, weight: int = 1) -> None:
        self.left -= weight
        if self.left < 0:
            raise BudgetError("the template makes more data than allowed")
        if time.thread_time() > self.end:
            raise BudgetError(f"the template ran for {_MAX_SECONDS:g} s")

    def emit(self, characters: int) -> None:
        self.output -= characters
        if self.output < 0:
            raise BudgetError(f"the template writes more than {MAX_TEXT} characters")

    def made(self, value: Any) -> Any:
        """Charges a new value, and gives it back."""
        self.charge(1 + _weight(value)[0])
        return value


budget: ContextVar[Budget] = ContextVar("budget")

_VIEWS: tuple[type[Collection[Any]], ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS: tuple[type[Collection[Any]], ...] = (dict, list, tuple, set, frozenset, *_VIEWS)


def _weight(value: Any) -> tuple[int, int]:
    """(weight, depth) of a value. Raises BudgetError beyond the limits, without looking at all of it."""
    total, deepest = 0, 0
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        total += 1
        if isinstance(item, str):
            _check_length(len(item))
            total += len(item) >> 6
        elif isinstance(item, _CONTAINERS):
            deepest = max(deepest, depth + 1)
            if depth >= _MAX_DEPTH:
                raise BudgetError(f"a value is more than {_MAX_DEPTH} levels deep")
            if total + len(waiting) + len(item) > _MAX_WEIGHT:
                raise BudgetError("a value is too large")
            waiting.extend((part, depth + 1) for part in item)
            if isinstance(item, dict):
                waiting.extend((part, depth + 1) for part in item.values())
        elif isinstance(item, int) and item.bit_length() > _MAX_BITS:
            raise BudgetError("an integer is too large")
    return total, deepest


def _check_length(characters: int) -> None:
    if characters > MAX_TEXT:
        raise BudgetError(f"a string of {characters} characters; at most {MAX_TEXT} are allowed")


def _check_width(width: Any) -> None:
    if isinstance(width, int) and width > _MAX_WIDTH:
        raise BudgetError(f"a width of {width}; at most {_MAX_WIDTH} is allowed")


def _check_percent(text: Any) -> None:
    """text % values: no wide fields."""
    if isinstance(text, str) and re.search(r"%[^%a-zA-Z]*(\d{4}|\*)", text):
        raise BudgetError(f"a field wider than {_MAX_WIDTH} in a % format")


def _check_join(separator: str, parts: Any) -> list[Any]:
    items = list(parts)
    _check_length(len(separator) * len(items) + sum(len(item) if isinstance(item, str) else 16 for item in items))
    return items


def _check_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _check_length(len(text) + text.count(old) * len(new))


# ---- methods -----------------------------------------------------------------------------------------------------------------

_STR_METHODS = frozenset(
    {
        "capitalize", "casefold", "center", "count", "endswith", "expandtabs", "find", "format", "index", "isalnum", "isalpha",
        "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
        "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
        "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
        "upper", "zfill",
    }
)
_METHODS: dict[type, frozenset[str]] = {
    str: _STR_METHODS,
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    int: frozenset(),
    float: frozenset(),
    bytes: frozenset(),
    range: frozenset({"count", "index"}),
}


def _check_method(text: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a method of str, checked before the call."""
    if name in ("center", "ljust", "rjust", "zfill"):
        _check_width(args[0] if args else 0)
    elif name == "expandtabs":
        width = args[0] if args else 8
        _check_width(width)
        _check_length(text.count("\t") * width + len(text))
    elif name == "replace" and len(args) > 1:
        _check_replace(text, args[0], args[1])
    elif name == "join" and args:
        return (_check_join(text, args[0]), *args[1:])
    return args


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        if re.search(r"\d{4}", format_spec):
            raise BudgetError(f"a field wider than {_MAX_WIDTH} in a format")
        budget.get().charge(1 + _weight(value)[0])
        return super().format_field(value, format_spec)


# ---- filters and globals
# ---------------------------------------------------------------------------------------------------------

_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "forceescape", "format",
    "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "title", "trim", "truncate", "unique",
    "upper", "wordcount",
)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """The tojson of chat templates: plain JSON, no HTML escapes."""
    weight, depth = _weight(value)
    width = len(indent) if isinstance(indent, str) else indent if isinstance(indent, int) else 0
    marks = sum(len(part) for part in separators if isinstance(part, str)) if isinstance(separators, list | tuple) else 2
    _check_length(weight * (width * (depth + 1) + marks))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any = "") -> None:
    raise TemplateError(str(message))


def _strftime_now(format: Any) -> str:
    if not isinstance(format, str) or len(format) > 200 or re.search(r"\d{3}", format):
        raise BudgetError("strftime_now takes a short format without field widths")
    return datetime.now().strftime(format)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """dict(), without the attributes of the class."""
    return dict(*args, **kwargs)


class _Namespace(Namespace):
    """namespace(): no private names, and nothing of its contents in its text."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        values = dict(*args[1:], **kwargs)
        for name in values:
            _Namespace._check(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"

    @staticmethod
    def _check(name: object) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise SecurityError(f"a namespace cannot have the attribute {name!r:.80}")


def _before_filter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a filter (value first), checked before the call."""
    value = args[0] if args else ""
    if name == "format":
        _check_percent(value)
    elif name == "replace" and len(args) > 2:
        _check_replace(str(value), args[1], args[2])
    elif name == "indent":
        width = kwargs.get("width", args[1] if len(args) > 1 else 4)
        _check_width(len(width) if isinstance(width, str) else width)
        _check_length(len(str(value)) + (str(value).count("\n") + 1) * (len(width) if isinstance(width, str) else int(width)))
    elif name == "join":
        separator = kwargs.get("d", args[1] if len(args) > 1 else "")
        return (_check_join(str(separator), value), *args[1:])
    elif name == "round" and abs(kwargs.get("precision", args[1] if len(args) > 1 else 0)) > 100:
        raise BudgetError("round with more than 100 digits")
    return args


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that charges what it makes. jinja2 passes what a function asks for (context, environment) in front."""
    passed = 1 if getattr(function, "jinja_pass_arg", None) is not None else 0

    def guarded(*args: Any, **kwargs: Any) -> Any:
        spent = budget.get()
        spent.charge()
        checked = _before_filter(name, args[passed:], kwargs)
        return spent.made(function(*args[:passed], *checked, **kwargs))

    for attribute in ("jinja_pass_arg", "jinja_async_variant"):
        if hasattr(function, attribute):
            setattr(guarded, attribute, getattr(function, attribute))
    return guarded


def _tick(characters: int) -> None:
    """Before every statement: `characters` of plain text follow in it."""
    spent = budget.get()
    spent.charge()
    spent.emit(characters)


def _charged(value: Any) -> Any:
    """Around what jinja2 evaluates without asking: literals of lists and dicts, the left side of a comparison."""
    return budget.get().made(value)


def _concat(parts: list[Any]) -> str:
    """a ~ b ~ c"""
    budget.get().made(parts)
    texts = [str(part) for part in parts]
    _check_length(sum(map(len, texts)))
    return "".join(texts)


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    """Every value that is written. (It takes the context, so that jinja2 folds no constants while it compiles.)"""
    spent = budget.get()
    spent.made(value)
    text = str(value)
    spent.emit(len(text))
    return text


# ---- the environment
# -----------------------------------------------------------------------------------------------------------------


class _Generation(Extension):
    """{% generation %} … {% endgeneration %} marks the assistant's text for training; its body stands as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates with `from_string`; they render only while `budget` is set."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_finalize,
            extensions=[LoopControlExtension, _Generation],
            cache_size=0,
        )
        self.filters = {name: _guarded(name, self.filters[name]) for name in _FILTERS}
        self.filters["tojson"] = _guarded("tojson", _tojson)
        self.filters |= {" tick": _tick, " charged": _charged, " concat": _concat}  # no template can write these names
        tests: dict[str, Any] = self.tests
        self.tests = {name: _guarded(name, test) for name, test in tests.items()}
        self.globals = {name: self.globals[name] for name in ("range", "cycler", "joiner")}
        self.globals |= {"dict": _dict, "namespace": _Namespace}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _instrument(tree, 0)
        return tree

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(" "):  # by name, as in |map(" tick")
            raise TemplateError(f"no filter named {name!r}")
        return super().call_filter(name, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, allowed in _METHODS.items():
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise SecurityError(f"access to the private attribute {attribute!r:.80}")
        return super().unsafe_undefined(obj, attribute)  # {% if message.update is defined %} is no attack

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        text = getattr(value, "__self__", None)
        if not isinstance(text, str) or getattr(value, "__name__", "") != "format":
            return None
        return lambda *args, **kwargs: _Formatter(self).vformat(text, args, kwargs)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        spent = budget.get()
        spent.charge()
        text = getattr(obj, "__self__", None)
        if isinstance(text, str):
            args = _check_method(text, obj.__name__, args)
        return spent.made(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        spent = budget.get()
        spent.charge()
        if operator == "%":
            _check_percent(left)
        elif operator == "**" and (not isinstance(right, int | float) or abs(right) > _MAX_BITS):
            raise BudgetError("an exponent that is too large")
        elif operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(times, int):
                    _check_length(len(text) * times)
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            _check_length(len(left) + len(right))
        return spent.made(super().call_binop(context, operator, left, right))


_REFUSED = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport, nodes.Block)
_LITERALS = (nodes.List, nodes.Tuple, nodes.Dict)


def _filtered(value: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


def _instrument(node: nodes.Node, depth: int) -> None:
    """Puts the counting into a syntax tree, in place."""
    if depth > _MAX_NESTING:
        raise TemplateSyntaxError(f"nested more than {_MAX_NESTING} levels deep", node.lineno)
    for field, value in list(node.iter_fields()):
        if isinstance(value, list):
            parts = [_instrumented(part, depth) for part in value]
            if field in ("body", "else_"):
                parts = [step for part in parts for step in (_tick_before(part), part)]
            setattr(node, field, parts)
        else:
            setattr(node, field, _instrumented(value, depth))


def _tick_before(statement: nodes.Node) -> nodes.Node:
    text = sum(len(piece.data) for piece in getattr(statement, "nodes", []) if isinstance(piece, nodes.TemplateData))
    return nodes.ExprStmt(_filtered(nodes.Const(text, lineno=statement.lineno), " tick"), lineno=statement.lineno)


def _instrumented(part: Any, depth: int) -> Any:
    """What stands in the place of `part`, a field of a node or an item of one."""
    if not isinstance(part, nodes.Node):
        return part
    if isinstance(part, _REFUSED):
        raise TemplateSyntaxError(f"{type(part).__name__.lower()} is not available in chat templates", part.lineno)
    _instrument(part, depth + 1)
    if isinstance(part, nodes.Compare):
        part.expr = _filtered(part.expr, " charged")
    elif isinstance(part, nodes.Concat):
        return _filtered(nodes.List(part.nodes, lineno=part.lineno), " concat")
    elif isinstance(part, _LITERALS) and getattr(part, "ctx", "load") == "load":
        return _filtered(part, " charged")
    return part
