"""The tensors of any supported file, by name: `llmq.read_tensors`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from llmq.formats import open_unchecked
from llmq.formats.checkpoint import Tensor
from llmq.formats.source import Source
from llmq.formats.stored import StoredTensor
from llmq.formats.weights import open_folder_weights, open_weights, weights_format
from llmq.quant.types import QuantType

__all__ = ["FileTensor", "Tensors", "read_tensors"]


@dataclass(frozen=True)
class FileTensor:
    """One tensor of a file. `shape` is row-major; `dtype` is the name that the file has for its type ("Q4_K", "BF16", "I64"),
    `type` the QuantType of that name, or None when there is none."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    type: QuantType | None
    nbytes: int
    _raw: Callable[[], npt.NDArray[np.uint8]] = field(repr=False)
    _numpy: Callable[[], npt.NDArray[np.generic]] = field(repr=False)

    def raw(self) -> npt.NDArray[np.uint8]:
        """The bytes in row-major order, uint8 (nbytes,): a read-only view of the mapped file where they lie so."""
        return self._raw()

    def numpy(self) -> npt.NDArray[np.generic]:
        """The values, of `shape`: float32 for quantized types and for floats of up to 32 bits, else what the file has (float64,
        integers, bool)."""
        return self._numpy()


class Tensors(Mapping[str, FileTensor]):
    """The tensors of a file or folder in its order. Close it (or use `with`) to close the files; arrays already taken stay
    valid."""

    def __init__(self, tensors: Mapping[str, FileTensor], sources: list[Source]) -> None:
        self._tensors = dict(tensors)
        self._sources = sources

    def __getitem__(self, name: str) -> FileTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_tensors(path: str | os.PathLike[str]) -> Tensors:
    """Map the tensors of a GGUF file (of a split one any part), a safetensors file, a PyTorch checkpoint or the weights of a
    Hugging Face folder, under the names that the file has for them. Nothing is read until it is asked for.

    Raises ModelFileError and OSError."""
    given = Path(path)
    if given.is_dir():
        sources, stored = open_folder_weights(given)
        return Tensors({name: _of_stored(tensor) for name, tensor in stored.items()}, sources)
    if weights_format(given):
        source, stored, _ = open_weights(given)
        return Tensors({name: _of_stored(tensor) for name, tensor in stored.items()}, [source])
    model = open_unchecked(given)
    return Tensors({name: _of_gguf(tensor) for name, tensor in model.tensors.items()}, model.sources)


def _of_gguf(tensor: Tensor) -> FileTensor:
    return FileTensor(tensor.name, tensor.shape, tensor.type.name, tensor.type, tensor.nbytes, tensor.raw, tensor.numpy)


def _of_stored(tensor: StoredTensor) -> FileTensor:
    raw = partial(_bytes, tensor)
    kind = QuantType.__members__.get(tensor.dtype)
    return FileTensor(tensor.name, tensor.shape, tensor.dtype, kind, tensor.size * tensor.item, raw, tensor.values)


def _bytes(tensor: StoredTensor) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(tensor.array()).reshape(-1).view(np.uint8)
