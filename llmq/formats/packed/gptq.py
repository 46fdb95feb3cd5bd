"""GPTQ (Frantar et al. 2022) as AutoGPTQ and GPTQModel store it, 2, 3, 4 and 8 bits.

    qweight  int32 (inputs * bits / 32, outputs)    numbers of one output follow each other bit by bit, across words for 3 bits
    qzeros   int32 (groups, outputs * bits / 32)    the same along the outputs
    scales   float (groups, outputs)
    g_idx    int32 (inputs,)                        group of each input; left out: input / group_size

    w[o, i] = scales[g, o] * (q[o, i] - z[g, o]),   g = g_idx[i]

checkpoint_format "gptq" stores zero points minus one (z = stored + 1, modulo 2**bits), "gptq_v2" as they are. With desc_act the
groups are in the order of activation, so that neighbouring inputs belong to different ones. Source: AutoGPTQ's
nn_modules/qlinear/qlinear_cuda.py and GPTQModel's nn_modules/qlinear/torch.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from llmq.arch.fields import Fields
from llmq.errors import UnsupportedError, quoted
from llmq.formats.packed.grouped import Grouped, Int16s, unpack_bits
from llmq.formats.packed.parts import FLOATS, Parts, Unpacker, elements, floats
from llmq.formats.packed.weight import Rows, UInt8s
from llmq.formats.stored import StoredTensor

__all__ = ["unpacker"]

_BITS = (2, 3, 4, 8)


def unpacker(settings: Fields) -> Unpacker:
    """The unpacker for this quantization_config."""
    written = settings.text("checkpoint_format", default="gptq")
    if written not in ("gptq", "gptq_v2") or ("is_marlin_format" in settings.data and settings.flag("is_marlin_format")):
        raise UnsupportedError(
            f"checkpoint_format {quoted(written)} is arranged for one GPU kernel; give the model as gptq or gptq_v2",
            path=settings.path,
        )
    return _GPTQ(settings, 0 if written == "gptq_v2" else 1)


class _GPTQ(Unpacker):
    def __init__(self, settings: Fields, offset: int) -> None:
        self.settings = settings
        self.offset = offset
        bits = settings.integer("bits", high=8)
        if bits not in _BITS:
            raise settings.error("bits", f"{', '.join(map(str, _BITS))} expected, found {bits}")
        # GPTQModel's `dynamic` gives modules bits of their own; the shapes tell them
        self.bits = None if settings.has("dynamic") else bits
        self.group_size = settings.integer("group_size", low=-1, default=-1)

    def module_of(self, name: str, stored: Mapping[str, StoredTensor]) -> str | None:
        return name.removesuffix(".qweight") if name.endswith(".qweight") else None

    def unpack(self, parts: Parts) -> Grouped:
        scales = parts.get("scales", FLOATS, (None, None))
        n_groups, outputs = scales.shape
        qzeros = parts.get("qzeros", ("I32",), (n_groups, None))
        bits = self.bits or qzeros.shape[1] * 32 // outputs
        if bits not in _BITS or qzeros.shape[1] != -(-outputs * bits // 32):
            parts.refuse(
                f"tensor {quoted(qzeros.name)} has shape {qzeros.shape}; {bits} bits of {outputs} outputs are "
                f"{-(-outputs * bits // 32)} words", qzeros,
            )  # fmt: skip
        qweight = parts.get("qweight", ("I32",), (None, outputs))
        inputs = qweight.shape[0] * 32 // bits
        g_idx = parts.maybe("g_idx", ("I32", "I64"), (None,))
        if g_idx is not None and -(-g_idx.size * bits // 32) == qweight.shape[0]:
            inputs = g_idx.size  # the last word may be padded
        group_of = self._groups(parts, inputs, n_groups)
        mask, offset = 2**bits - 1, self.offset

        def codes(rows: Rows) -> UInt8s:
            return unpack_bits(elements(qweight)[:, rows].T, bits, inputs)

        def zeros(rows: Rows) -> Int16s:
            z: Int16s = unpack_bits(elements(qzeros), bits, outputs)[:, rows].T.astype(np.int16)
            z = (z + np.int16(offset)) & np.int16(mask)
            return z

        size = inputs // n_groups if inputs % n_groups == 0 else self.group_size
        return Grouped(
            f"{parts.module}.weight", f"GPTQ {bits} bits, groups of {size}", (outputs, inputs), parts.nbytes,
            str(qweight.source.path), qweight.offset, bits, codes, zeros,
            lambda rows: floats(scales, (slice(None), rows)).T, group_of,
        )  # fmt: skip

    def _groups(self, parts: Parts, inputs: int, n_groups: int) -> npt.NDArray[np.intp]:
        found = parts.groups("g_idx", inputs, n_groups)
        if found is not None:
            return found
        size = self.group_size
        if self.settings.has("dynamic"):
            size = -(-inputs // n_groups)
        size = inputs if size == -1 else size
        if size < 1 or -(-inputs // size) != n_groups:
            parts.refuse(f"{quoted(parts.module)} has {n_groups} groups; group_size {size} makes others of {inputs} inputs")
        return np.arange(inputs) // size
