"""The tensors a packed matrix is made of, each asked for with what is expected of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, quoted
from llmq.formats.packed.weight import PackedWeight
from llmq.formats.stored import StoredTensor

__all__ = ["FLOATS", "Parts", "Unpacker", "elements", "floats"]

FLOATS = ("F16", "BF16", "F32")


class Parts:
    """The parts of `module` ("model.layers.0.mlp.up_proj"), found by the tensor `key`. `used` are the names taken so far."""

    def __init__(self, stored: Mapping[str, StoredTensor], module: str, key: str) -> None:
        self.stored = stored
        self.module = module
        self.key = stored[key]
        self.used: set[str] = set()

    def maybe(self, part: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...] | None = None) -> StoredTensor | None:
        """The part, when it is there; None in `shape` stands for any size. FormatError when it is not as expected."""
        name = f"{self.module}.{part}"
        found = self.stored.get(name)
        if found is None:
            return None
        self.used.add(name)
        if found.dtype not in dtypes:
            self.refuse(f"tensor {quoted(name)} is {found.dtype}; {' or '.join(dtypes)} expected", found)
        fits = shape is None or (
            len(shape) == len(found.shape) and all(want in (None, have) for want, have in zip(shape, found.shape, strict=True))
        )
        if not fits or 0 in found.shape:
            wanted = "no size 0" if shape is None else "x".join("any" if n is None else str(n) for n in shape) or "a scalar"
            self.refuse(f"tensor {quoted(name)} has shape {found.shape}; {wanted} expected", found)
        return found

    def get(self, part: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...] | None = None) -> StoredTensor:
        """As `maybe`, for a part that must be there."""
        found = self.maybe(part, dtypes, shape)
        if found is None:
            self.refuse(f"tensor {quoted(f'{self.module}.{part}')} is missing beside {quoted(self.key.name)}")
        return found

    def groups(self, part: str, inputs: int, n_groups: int) -> npt.NDArray[np.intp] | None:
        """The group of each input that the part names; None when it is not there, or holds nothing but -1."""
        found = self.maybe(part, ("I32", "I64"), (inputs,))
        if found is None:
            return None
        groups: npt.NDArray[np.intp] = elements(found).astype(np.intp)
        if groups.max() < 0 and groups.min() == -1:
            return None
        wrong = groups[(groups < 0) | (groups >= n_groups)]
        if len(wrong):
            self.refuse(f"tensor {quoted(found.name)} names group {wrong[0]}; there are {n_groups}", found)
        return groups

    def refuse(self, problem: str, at: StoredTensor | None = None) -> NoReturn:
        at = at or self.key
        raise FormatError(problem, path=at.source.path, offset=at.offset)

    @property
    def nbytes(self) -> int:
        """Of the parts taken."""
        return sum(self.stored[name].size * self.stored[name].item for name in self.used)


class Unpacker(ABC):
    """How one tool packs. `ignored`: endings of tensors that a weight does not need (statistics of activations).
    `may_be_plain`: a folder without packed weights is no mistake."""

    ignored: ClassVar[tuple[str, ...]] = ()
    may_be_plain = False

    @abstractmethod
    def module_of(self, name: str, stored: Mapping[str, StoredTensor]) -> str | None:
        """The module whose packed weight the tensor `name` is the key part of; None for every other tensor."""

    @abstractmethod
    def unpack(self, parts: Parts) -> PackedWeight:
        """The matrix. Raises FormatError, UnsupportedError."""


def elements(tensor: StoredTensor) -> npt.NDArray[Any]:
    """The elements as they are stored, to calculate with."""
    return tensor.array()


def floats(tensor: StoredTensor, index: Any = ()) -> npt.NDArray[np.float32]:
    """Elements of a float tensor as float32. FormatError when one is NaN or infinite."""
    values: npt.NDArray[np.float32] = tensor.values(index).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise FormatError(f"tensor {quoted(tensor.name)} holds NaN or infinity", path=tensor.source.path, offset=tensor.offset)
    return values
