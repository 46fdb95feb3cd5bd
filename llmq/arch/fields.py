"""Typed, ranged reading of what a file says: GGUF metadata or a config.json. Wrong types and values are FormatErrors naming
the key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, quoted

__all__ = ["Fields", "shortest"]

_T = TypeVar("_T")


class Fields:
    """The keys of `data`, each read as `prefix` + name. Several names for one field are tried in order; a missing field is
    its default, or a FormatError when it has none."""

    def __init__(self, data: Mapping[str, object], path: str | None = None, prefix: str = "") -> None:
        self.data = data
        self.path = path
        self.prefix = prefix

    def has(self, *names: str) -> bool:
        """Whether one of the names is there and not null."""
        return any(self.data.get(self.prefix + name) is not None for name in names)

    def integer(self, *names: str, low: int = 1, high: int = 2**31 - 1, default: int | None = None) -> int:
        """An integer in low..high. A list that repeats one number is that number (some files give one per layer)."""
        key, value = self._find(names)
        if value is None:
            return self._default(names, default)
        if isinstance(value, list | np.ndarray) and len(value) and all(item == value[0] for item in value):
            value = value[0]
        return self._integer(key, value, low, high)

    def integers(self, name: str, n: int, *, low: int = 1, high: int = 2**31 - 1, default: int | None = None) -> list[int]:
        """n integers in low..high, or one that stands for all of them."""
        _, value = self._find((name,))
        if not isinstance(value, list | np.ndarray):
            return [self.integer(name, low=low, high=high, default=default)] * n
        if len(value) != n:
            raise self.error(name, f"{n} integers expected, found {quoted(value)}")
        return [self._integer(name, item, low, high) for item in value]

    def _integer(self, key: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise self.error(key, f"an integer expected, found {quoted(value)}")
        if not low <= value <= high:
            raise self.error(key, f"a number in {low}..{high} expected, found {quoted(value)}")
        return int(value)

    def number(
        self, *names: str, low: float = 0.0, high: float = math.inf, default: float | None = None, zero: bool = False
    ) -> float:
        """A finite float above low, up to high, or 0 when `zero`."""
        key, value = self._find(names)
        if value is None:
            return self._default(names, default)
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
            raise self.error(key, f"a number expected, found {quoted(value)}")
        number = _float(value)
        if not (low < number <= high and math.isfinite(number)) and not (zero and number == 0):
            raise self.error(key, f"a finite number above {low} expected, found {quoted(value)}")
        return number

    def flag(self, *names: str, default: bool | None = None) -> bool:
        key, value = self._find(names)
        if value is None:
            return self._default(names, default)
        if not isinstance(value, bool | np.bool_):
            raise self.error(key, f"true or false expected, found {quoted(value)}")
        return bool(value)

    def flags(self, name: str, default: list[bool], *, first: bool = False) -> list[bool]:
        """As many flags as the default has, or a period p that stands for p-1 times true and once false, and so on; `first`:
        for once false and then p-1 times true."""
        _, value = self._find((name,))
        if value is None:
            return default
        if isinstance(value, list | np.ndarray):
            if len(value) != len(default) or not all(isinstance(item, bool | np.bool_) for item in value):
                raise self.error(name, f"{len(default)} times true or false expected, found {quoted(value)}")
            return [bool(item) for item in value]
        period = self.integer(name)
        return [(i + 1 - first) % period != 0 for i in range(len(default))]

    def numbers(self, name: str) -> npt.NDArray[np.float32]:
        """A list of numbers as float32 (n,)."""
        key, value = self._find((name,))
        if not isinstance(value, list | np.ndarray) or any(
            isinstance(x, bool) or not isinstance(x, int | float) for x in value
        ):
            raise self.error(key, f"a list of numbers expected, found {quoted(value)}")
        with np.errstate(over="ignore"):  # becomes an infinity, which users of the list refuse
            return np.asarray([_float(x) for x in value], np.float32)

    def text(self, *names: str, default: str | None = None) -> str:
        key, value = self._find(names)
        if value is None:
            return self._default(names, default)
        if not isinstance(value, str):
            raise self.error(key, f"a string expected, found {quoted(value)}")
        return value

    def sub(self, name: str) -> Fields:
        """The object (dict) under a key; empty when missing."""
        key, value = self._find((name,))
        if value is None:
            return Fields({}, self.path)
        if not isinstance(value, dict):
            raise self.error(key, f"an object expected, found {quoted(value)}")
        return Fields(value, self.path)

    def items(self, name: str) -> list[object]:
        """The list under a key; empty when missing."""
        key, value = self._find((name,))
        if value is not None and not isinstance(value, list):
            raise self.error(key, f"a list expected, found {quoted(value)}")
        return value or []

    def error(self, name: str, message: str) -> FormatError:
        """What to raise about a field."""
        return FormatError(f"{self.prefix}{name}: {message}", path=self.path)

    def _find(self, names: tuple[str, ...]) -> tuple[str, object]:
        for name in names:
            value = self.data.get(self.prefix + name)
            if value is not None:
                return name, value
        return names[0], None

    def _default(self, names: tuple[str, ...], default: _T | None) -> _T:
        if default is None:
            raise self.error(names[0], "missing")
        return default


def shortest(value: float) -> float:
    """The float with the fewest digits that float32 rounds to the same number: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _float(value: float | np.integer[Any] | np.floating[Any]) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf
