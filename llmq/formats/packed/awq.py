"""AWQ (Lin et al. 2023) as AutoAWQ stores it, 4 bits.

GEMM, a word holds 8 outputs in the order 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on:

    qweight  int32 (inputs, outputs / 8)
    qzeros   int32 (groups, outputs / 8)
    scales   float (groups, outputs)

GEMV, in order along the inputs; the groups are padded to whole words:

    qweight  int32 (outputs, inputs / 8)
    qzeros   int32 (outputs, words)
    scales   float (outputs, 8 * words)

    w[o, i] = (q[o, i] - z[o, g]) * scales[o, g],   g = i / group_size

Source: AutoAWQ's awq/modules/linear/{gemm,gemv}.py and awq/utils/packing_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmq.arch.fields import Fields
from llmq.errors import UnsupportedError, quoted
from llmq.formats.packed.grouped import Grouped, Int16s, unpack_bits
from llmq.formats.packed.parts import FLOATS, Parts, Unpacker, elements, floats
from llmq.formats.packed.weight import Floats, Rows, UInt8s
from llmq.formats.stored import StoredTensor

__all__ = ["unpacker"]

_PER_WORD = 8
_SHIFT = 4 * np.argsort([0, 2, 4, 6, 1, 3, 5, 7]).astype(np.int32)  # of each of 8 outputs


def unpacker(settings: Fields) -> Unpacker:
    """The unpacker for this quantization_config."""
    bits = settings.integer("bits", "w_bit", default=4)
    if bits != 4:
        raise settings.error("bits", f"AWQ has 4, found {bits}")
    version = settings.text("version", "checkpoint_format", default="gemm").lower()
    if version not in ("gemm", "gemv"):
        raise UnsupportedError(
            f"AWQ version {quoted(version)} is arranged for one GPU kernel; gemm and gemv are supported", path=settings.path
        )
    return _AWQ(settings.integer("group_size", "q_group_size", low=-1, default=128), version == "gemv")


class _AWQ(Unpacker):
    def __init__(self, group_size: int, by_output: bool) -> None:
        self.group_size = group_size
        self.by_output = by_output

    def module_of(self, name: str, stored: Mapping[str, StoredTensor]) -> str | None:
        return name.removesuffix(".qweight") if name.endswith(".qweight") else None

    def unpack(self, parts: Parts) -> Grouped:
        qweight = parts.get("qweight", ("I32",), (None, None))
        return self._gemv(parts, qweight) if self.by_output else self._gemm(parts, qweight)

    def _groups(self, parts: Parts, inputs: int) -> tuple[int, int]:
        """Group size and number of groups."""
        size = inputs if self.group_size == -1 else self.group_size
        if size < 1 or inputs % size:
            parts.refuse(f"{quoted(parts.module)} has {inputs} inputs, no whole groups of {size}")
        return size, inputs // size

    def _gemm(self, parts: Parts, qweight: StoredTensor) -> Grouped:
        inputs, outputs = qweight.shape[0], qweight.shape[1] * _PER_WORD
        size, n_groups = self._groups(parts, inputs)
        qzeros = parts.get("qzeros", ("I32",), (n_groups, outputs // _PER_WORD))
        scales = parts.get("scales", FLOATS, (n_groups, outputs))
        numbers = np.arange(outputs)

        def fields(tensor: StoredTensor, rows: Rows) -> UInt8s:
            chosen = numbers[rows]
            words = elements(tensor)[:, chosen // _PER_WORD]
            return np.ascontiguousarray((words >> _SHIFT[chosen % _PER_WORD] & 15).astype(np.uint8).T)

        return Grouped(
            f"{parts.module}.weight", f"AWQ 4 bits, groups of {size}", (outputs, inputs), parts.nbytes,
            str(qweight.source.path), qweight.offset, 4, lambda rows: fields(qweight, rows),
            lambda rows: fields(qzeros, rows).astype(np.int16), lambda rows: floats(scales, (slice(None), rows)).T,
            np.arange(inputs) // size,
        )  # fmt: skip

    def _gemv(self, parts: Parts, qweight: StoredTensor) -> Grouped:
        outputs, inputs = qweight.shape[0], qweight.shape[1] * _PER_WORD
        size, n_groups = self._groups(parts, inputs)
        qzeros = parts.get("qzeros", ("I32",), (outputs, None))
        scales = parts.get("scales", FLOATS, (outputs, _PER_WORD * qzeros.shape[1]))
        if scales.shape[1] < n_groups:
            parts.refuse(f"tensor {quoted(scales.name)} has shape {scales.shape}; {n_groups} groups expected", scales)

        def zeros(rows: Rows) -> Int16s:
            return unpack_bits(elements(qzeros)[rows], 4, n_groups).astype(np.int16)

        def scale(rows: Rows) -> Floats:
            return floats(scales, (rows, slice(n_groups)))

        return Grouped(
            f"{parts.module}.weight", f"AWQ 4 bits, groups of {size}", (outputs, inputs), parts.nbytes,
            str(qweight.source.path), qweight.offset, 4, lambda rows: unpack_bits(elements(qweight)[rows], 4, inputs),
            zeros, scale, np.arange(inputs) // size,
        )  # fmt: skip
