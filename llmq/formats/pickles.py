"""Reading the pickles of PyTorch checkpoints without running anything: a small machine for the opcodes that data needs.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program names. This one knows the names
of an exact list, each bound to a function of llmq that builds plain data; any other name, and any opcode that data does not
need, is refused with the member and the byte. The opcodes are read by the table of `pickletools`, which runs nothing, and all
of them are checked before the first one is carried out. Keys of dicts are strings and numbers, so nothing nested is hashed.
Source: Lib/pickletools.py of CPython, which defines every opcode.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from llmq.errors import FormatError, LimitError, UnsafeFileError, quoted

__all__ = ["MAX_PICKLE", "Builder", "Vocabulary", "read_pickle"]

MAX_PICKLE = 64 << 20
_MAX_OPCODES = 1 << 20
_MAX_INT = 1 << 96  # the largest that PyTorch writes has 77 bits
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_BUILDING = {
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET",
    "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID",
}  # fmt: skip
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_KNOWN = _PUSHED | _BUILDING | _CONSTANTS.keys()
_MARK = object()

Builder = Callable[..., object]
_Step = tuple[str, Any, int]  # opcode, argument, offset


@dataclass(frozen=True)
class Vocabulary:
    """What a pickle may say: `names`, each (module, name) with the function that stands for it, and `persistent`, which makes
    the value of a persistent id. The functions raise ValueError for arguments that are wrong."""

    names: Mapping[tuple[str, str], Builder]
    persistent: Builder


def read_pickle(data: bytes, start: int, vocabulary: Vocabulary, *, path: Path, what: str, at: int = 0) -> tuple[Any, int]:
    """The value of the pickle at `start` of `data`, made of dicts, lists, tuples, strings, numbers and what `vocabulary` makes;
    and where it ends. `what` and `at`, the offset of `data` in the file, are for messages.

    Raises UnsafeFileError for names and opcodes beyond data, FormatError for broken programs, LimitError for endless ones."""
    machine = _Machine(vocabulary, path, what, at)
    program = machine.scan(data, start)
    return machine.run(program), program[-1][2] + 1


class _Machine:
    def __init__(self, vocabulary: Vocabulary, path: Path, what: str, at: int) -> None:
        self.vocabulary = vocabulary
        self.path, self.what, self.at = path, what, at
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.offset = 0
        self.copied = 0  # elements of lists that were handed to builders, which may copy them

    def scan(self, data: bytes, start: int) -> list[_Step]:
        """The opcodes up to STOP, each one that data needs, each name one of the vocabulary."""
        stream = io.BytesIO(data)
        stream.seek(start)
        program: list[_Step] = []
        while not program or program[-1][0] != "STOP":
            self.offset = stream.tell()
            code = stream.read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                self._broken(f"not a whole pickle (opcode {code.hex()})" if code else "not a whole pickle (it has no end)")
            if opcode.name not in _KNOWN:
                self._unsafe(f"opcode {opcode.name} has no place among tensors")
            argument: Any = None
            try:
                if opcode.name == "GLOBAL":  # pickletools would take backslashes in names for escapes
                    argument = tuple(stream.readline().decode().removesuffix("\n") for _ in range(2))
                elif opcode.arg is not None:
                    argument = opcode.arg.reader(stream)
            except (ValueError, OverflowError) as error:
                self._broken(f"not a whole pickle ({quoted(str(error))})")
            if opcode.name == "GLOBAL":
                self._named(*argument)
            if isinstance(argument, int) and abs(argument) >= _MAX_INT:
                self._broken(f"a number of {argument.bit_length()} bits")
            program.append((opcode.name, argument, self.offset))
            if len(program) > _MAX_OPCODES:
                self._endless()
        return program

    def run(self, program: list[_Step]) -> Any:
        for name, argument, self.offset in program:
            if name in _PUSHED:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            else:
                self._build(name, argument)
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            self._broken(f"{len(self.stack)} values are left at the end; expected one")
        return self.stack[0]

    def _build(self, name: str, argument: Any) -> None:
        push = self.stack.append
        match name:
            case "MARK":
                push(_MARK)
            case "EMPTY_LIST":
                push([])
            case "LIST":
                push(self._to_mark())
            case "APPEND":
                value = self._pop()
                self._top(list).append(value)
            case "APPENDS":
                items = self._to_mark()
                self._top(list).extend(items)
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE":
                push(tuple(self._to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple([self._pop() for _ in range(int(name[-1]))][::-1]))
            case "EMPTY_DICT":
                push({})
            case "DICT":
                push(self._filled({}, self._to_mark()))
            case "SETITEM":
                items = [self._pop(), self._pop()][::-1]
                self._filled(self._top(dict), items)
            case "SETITEMS":
                items = self._to_mark()
                self._filled(self._top(dict), items)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self._top(object)
            case "MEMOIZE":
                self.memo[len(self.memo)] = self._top(object)
            case "GET" | "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    self._broken(f"memo {argument} was never set")
                push(self.memo[argument])
            case "GLOBAL":
                push(self._named(*argument))
            case "STACK_GLOBAL":
                which, module = self._pop(), self._pop()
                push(self._named(module, which))
            case "REDUCE" | "NEWOBJ":
                arguments, build = self._pop(), self._pop()
                push(self._called(build, arguments))
            case "BUILD":  # attributes of an OrderedDict or parameter: not needed
                self._pop()
                self._top(object)
            case "BINPERSID":
                push(self._called(self.vocabulary.persistent, (self._pop(),)))

    def _named(self, module: object, name: object) -> Builder:
        if not isinstance(module, str) or not isinstance(name, str):
            self._broken("a name that is no string")
        build = self.vocabulary.names.get((module, name))
        if build is None:
            self._unsafe(f"asks for {quoted(f'{module}.{name}')}, which tensors do not need; nothing from the file is run")
        return build

    def _called(self, build: object, arguments: object) -> object:
        if not callable(build) or not isinstance(arguments, tuple):
            self._broken("a call of what is no name, or without arguments")
        self.copied += sum(len(argument) for argument in arguments if isinstance(argument, list | tuple | dict))
        if self.copied > _MAX_OPCODES:
            self._endless()
        try:
            result: object = build(*arguments)
        except TypeError:
            self._broken("a call with the wrong number of arguments")
        except ValueError as error:
            self._broken(str(error))
        return result

    def _filled(self, target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            self._broken("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | bytes | None):  # hashing a nested one could overflow the C stack
                self._broken("a key that is neither string nor number")
            target[key] = value
        return target

    def _pop(self) -> Any:
        value = self._top(object)
        self.stack.pop()
        return value

    def _top(self, kind: type) -> Any:
        if not self.stack or self.stack[-1] is _MARK or not isinstance(self.stack[-1], kind):
            self._broken(f"expected {'a value' if kind is object else f'a {kind.__name__}'} on the stack")
        return self.stack[-1]

    def _to_mark(self) -> list[Any]:
        items = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        if not self.stack:
            self._broken("a mark is missing on the stack")
        self.stack.pop()
        return items[::-1]

    def _broken(self, problem: str) -> NoReturn:
        raise FormatError(f"{self.what}: {problem}", path=self.path, offset=self.at + self.offset) from None

    def _unsafe(self, problem: str) -> NoReturn:
        raise UnsafeFileError(f"{self.what}: {problem}", path=self.path, offset=self.at + self.offset)

    def _endless(self) -> NoReturn:
        raise LimitError(f"{self.what}: more than {_MAX_OPCODES} steps", path=self.path, offset=self.at + self.offset)
