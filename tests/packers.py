"""Packing matrices as GPTQ, AWQ, compressed-tensors, fp8 and bitsandbytes folders have them, written from the layouts they
publish: the other direction of llmq.formats.packed, word by word.

Every packer takes the float matrix (outputs, inputs) and gives (parts by name, the values that the tool computes from them)."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Raw:
    """An array of a type that NumPy does not have: its bits, and its name in safetensors."""

    dtype: str
    bits: np.ndarray


Parts = dict[str, "np.ndarray | Raw"]
_NAMES = {"float16": "F16", "float32": "F32", "int8": "I8", "uint8": "U8", "int32": "I32", "int64": "I64"}
_HALF = np.array([(1 + m / 8) * 2.0 ** (e - 7) if e else m * 2.0**-9 for e in range(16) for m in range(8)][:127], np.float32)


def save(parts: Parts, path: Path) -> None:
    """A safetensors file, of any dtype."""
    header, data = {}, b""
    for name, part in parts.items():
        array = np.ascontiguousarray(part.bits if isinstance(part, Raw) else part)
        dtype = part.dtype if isinstance(part, Raw) else _NAMES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def e4m3(x: np.ndarray) -> tuple[Raw, np.ndarray]:
    """The nearest float8_e4m3fn: its bits, its value."""
    near = np.searchsorted((_HALF[1:] + _HALF[:-1]) / 2, np.abs(x)).astype(np.uint8)
    return Raw("F8_E4M3", near | np.where(x < 0, 128, 0).astype(np.uint8)), np.sign(x).astype(np.float32) * _HALF[near]


def bf16(x: np.ndarray) -> tuple[Raw, np.ndarray]:
    """bfloat16, cut off."""
    bits = (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return Raw("BF16", bits), (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(w: np.ndarray, bits: int, group_of: np.ndarray, sym: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Round-to-nearest: numbers (outputs, inputs), binary16 scales (outputs, groups), zero points (outputs, groups)."""
    top = 2**bits - 1
    n_groups = group_of.max() + 1
    scales, zeros = np.ones((len(w), n_groups), np.float16), np.zeros((len(w), n_groups), np.int64)
    q = np.zeros(w.shape, np.int64)
    for g in range(n_groups):
        mine = w[:, group_of == g]
        low, high = np.minimum(mine.min(1), 0), np.maximum(mine.max(1), 0)
        if sym:
            high = np.maximum(-low, high)
            low = -high
        scales[:, g] = np.maximum((high - low) / top, 1e-4)
        s = scales[:, g].astype(np.float32)
        zeros[:, g] = (top + 1) // 2 if sym else np.clip(np.rint(-low / s), 0, top)
        q[:, group_of == g] = np.clip(np.rint(mine / s[:, None]) + zeros[:, g, None], 0, top)
    return q, scales, zeros


def values(q: np.ndarray, scales: np.ndarray, zeros: np.ndarray, group_of: np.ndarray) -> np.ndarray:
    """(q - zero) * scale, in float32."""
    return (q - zeros[:, group_of]).astype(np.float32) * scales.astype(np.float32)[:, group_of]


def words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """AutoGPTQ's packing of the first axis in int32."""
    n = numbers.astype(np.uint32)
    if bits != 3:
        per = 32 // bits
        out = np.zeros((len(n) // per, *n.shape[1:]), np.uint32)
        for j in range(per):
            out |= n[j::per] << np.uint32(bits * j)
        return out.view(np.int32)
    out = np.zeros((len(n) // 32 * 3, *n.shape[1:]), np.uint32)
    for at, i in zip(range(0, len(out), 3), range(0, len(n), 32), strict=True):
        for j in range(10):
            out[at] |= n[i + j] << np.uint32(3 * j)
            out[at + 1] |= n[i + 11 + j] << np.uint32(3 * j + 1)
            out[at + 2] |= n[i + 22 + j] << np.uint32(3 * j + 2)
        out[at] |= n[i + 10] << np.uint32(30)
        out[at + 1] |= n[i + 10] >> np.uint32(2) & np.uint32(1)
        out[at + 1] |= n[i + 21] << np.uint32(31)
        out[at + 2] |= n[i + 21] >> np.uint32(1) & np.uint32(3)
    return out.view(np.int32)


def gptq(
    w: np.ndarray, bits: int = 4, size: int = 32, *, sym: bool = True, act_order: bool = False, v2: bool = False,
    lift: float | None = None, with_g_idx: bool = True, seed: int = 0,
) -> tuple[Parts, np.ndarray]:  # fmt: skip
    """`lift`: bfloat16 scales, times this."""
    columns = w.shape[1]
    group_of = np.arange(columns) // (columns if size == -1 else size)
    if act_order:
        group_of = np.random.default_rng(seed).permutation(group_of)
    q, scales, zeros = rounded(w, bits, group_of, sym)
    stored = zeros if v2 else (zeros - 1) & (2**bits - 1)
    kept: np.ndarray | Raw = scales.T.copy()
    if lift is not None:
        kept, widened = bf16(scales.T.astype(np.float32) * lift)
        scales = widened.T
    parts: Parts = {"qweight": words(q.T, bits), "qzeros": words(stored, bits).T.copy(), "scales": kept}
    if with_g_idx:
        parts["g_idx"] = group_of.astype(np.int32)
    return parts, values(q, scales, zeros, group_of)


def awq(w: np.ndarray, size: int = 32, *, gemv: bool = False, sym: bool = False) -> tuple[Parts, np.ndarray]:
    group_of = np.arange(w.shape[1]) // size
    q, scales, zeros = rounded(w, 4, group_of, sym)

    def packed(numbers: np.ndarray, order: list[int]) -> np.ndarray:
        out = np.zeros((len(numbers), numbers.shape[1] // 8), np.uint32)
        for word in range(out.shape[1]):
            for i in range(8):
                out[:, word] |= numbers[:, 8 * word + order[i]].astype(np.uint32) << np.uint32(4 * i)
        return out.view(np.int32)

    if not gemv:
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        parts = {"qweight": packed(q.T, order), "qzeros": packed(zeros.T, order), "scales": scales.T.copy()}
        return parts, values(q, scales, zeros, group_of)
    padding = -zeros.shape[1] % (8 * {32: 4, 64: 2}.get(size, 1))
    padded = np.pad(zeros, [(0, 0), (0, padding)])
    parts = {"qweight": packed(q, list(range(8))), "qzeros": packed(padded, list(range(8)))}
    return parts | {"scales": np.pad(scales, [(0, 0), (0, padding)])}, values(q, scales, zeros, group_of)


def pack_quantized(
    w: np.ndarray, bits: int = 4, size: int = 32, *, sym: bool = True, act_order: bool = False
) -> tuple[Parts, np.ndarray]:
    rows, columns = w.shape
    group_of = np.arange(columns) // (columns if size == -1 else size)
    if act_order:
        group_of = np.random.default_rng(3).permutation(group_of)
    q, scales, zeros = rounded(w, bits, group_of, sym)

    def dense(numbers: np.ndarray) -> np.ndarray:  # along the last axis, padded to whole words
        bit_rows = np.unpackbits(numbers.astype(np.uint8)[..., None], axis=-1, count=bits, bitorder="little")
        bit_rows = bit_rows.reshape(len(numbers), -1)
        bit_rows = np.pad(bit_rows, [(0, 0), (0, -bit_rows.shape[1] % 32)])
        return np.packbits(bit_rows, axis=1, bitorder="little").view(np.int32)

    parts = {"weight_packed": dense(q), "weight_scale": scales, "weight_shape": np.array([rows, columns])}
    if not sym:
        parts["weight_zero_point"] = dense(zeros.T).T.copy()
    if act_order:
        parts["weight_g_idx"] = group_of.astype(np.int32)
    return parts, values(q, scales, zeros, group_of)


def int_quantized(w: np.ndarray, size: int = -1) -> tuple[Parts, np.ndarray]:
    group_of = np.arange(w.shape[1]) // (w.shape[1] if size == -1 else size)
    q, scales, zeros = rounded(w, 8, group_of, True)
    return {"weight": (q - 128).astype(np.int8), "weight_scale": scales}, values(q, scales, zeros, group_of)


def fp8(
    w: np.ndarray, block: tuple[int, int] | None = None, *, per_row: bool = False, powers: bool = False,
    name: str = "weight_scale",
) -> tuple[Parts, np.ndarray]:  # fmt: skip
    high, wide = block or (1 if per_row else w.shape[0], w.shape[1])
    grid = np.array([[np.abs(w[r : r + high, c : c + wide]).max() for c in range(0, w.shape[1], wide)]
                     for r in range(0, w.shape[0], high)])  # fmt: skip
    scale = (grid / 448).astype(np.float32)
    if powers:
        scale = np.exp2(np.ceil(np.log2(scale))).astype(np.float32)
    spread = np.repeat(np.repeat(scale, high, 0), wide, 1)[: w.shape[0], : w.shape[1]]
    codes, decoded = e4m3(w / spread)
    return {"weight": codes, name: scale if block or per_row else scale.reshape(1)}, decoded * spread


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip


def nf4(w: np.ndarray, size: int = 64, *, nested: bool = False) -> tuple[Parts, np.ndarray]:
    table = np.array(NF4, np.float32)
    flat = w.astype(np.float32).reshape(-1)
    padded = np.pad(flat, (0, -len(flat) % size)).reshape(-1, size)
    absmax = np.abs(padded).max(1)
    state: dict[str, object] = {"quant_type": "nf4", "blocksize": size, "dtype": "bfloat16", "shape": list(w.shape)}
    parts: Parts = {}
    if nested:
        offset = absmax.mean(dtype=np.float32)
        code = np.linspace(-1, 1, 256).astype(np.float32)
        outer = np.array([np.abs(part).max() for part in np.split(absmax - offset, range(256, len(absmax), 256))], np.float32)
        spread = np.repeat(outer, 256)[: len(absmax)]
        index = np.abs((absmax - offset)[:, None] / spread[:, None] - code).argmin(1).astype(np.uint8)
        parts |= {"weight.absmax": index, "weight.nested_absmax": outer, "weight.nested_quant_map": code}
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
        absmax = code[index] * spread + offset
    else:
        parts["weight.absmax"] = absmax
    codes = np.abs(padded[..., None] / np.maximum(absmax, 1e-9)[:, None, None] - table).argmin(-1)
    dequantized = (table[codes] * absmax[:, None]).reshape(-1)[: len(flat)].reshape(w.shape)
    codes = np.pad(codes.reshape(-1)[: len(flat)], (0, len(flat) % 2)).astype(np.uint8)
    parts |= {
        "weight": (codes[::2] << 4 | codes[1::2])[:, None],
        "weight.quant_map": table,
        "weight.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }
    return parts, dequantized


def int8_rows(w: np.ndarray) -> tuple[Parts, np.ndarray]:
    """LLM.int8."""
    absmax = np.abs(w).max(1).astype(np.float32)
    q = np.rint(w * (127 / absmax[:, None])).astype(np.int8)
    parts = {"weight": q, "SCB": absmax, "weight_format": np.zeros((), np.uint8)}
    return parts, q.astype(np.float32) * absmax[:, None] * np.float32(7.874015718698502e-3)


def mxfp4(w: np.ndarray) -> tuple[Parts, np.ndarray]:
    """compressed-tensors' MXFP4."""
    groups = w.reshape(len(w), -1, 32)
    exponent = np.ceil(np.log2(np.abs(groups).max(2) / 6)).astype(np.int64)
    s = np.exp2(exponent).astype(np.float32)[..., None]
    codes = np.abs(np.abs(groups)[..., None] / s[..., None] - E2M1).argmin(-1)
    dequantized = (np.sign(groups) * E2M1[codes]).astype(np.float32) * s
    codes = (codes + np.where(groups < 0, 8, 0)).astype(np.uint8).reshape(w.shape)
    parts: Parts = {"weight_packed": codes[:, ::2] | codes[:, 1::2] << 4, "weight_scale": (exponent + 127).astype(np.uint8)}
    return parts, dequantized.reshape(w.shape)


def nvfp4(w: np.ndarray) -> tuple[Parts, np.ndarray]:
    groups = w.reshape(len(w), -1, 16)
    overall = np.float32(2688 / np.abs(w).max())
    scale, decoded = e4m3(np.abs(groups).max(2) / 6 * overall)
    s = decoded / overall
    codes = np.abs(np.abs(groups)[..., None] / np.maximum(s, 1e-9)[..., None, None] - E2M1).argmin(-1)
    dequantized = (np.sign(groups) * E2M1[codes]).astype(np.float32) * s[..., None]
    codes = (codes + np.where(groups < 0, 8, 0)).astype(np.uint8).reshape(w.shape)
    packed = codes[:, ::2] | codes[:, 1::2] << 4
    parts: Parts = {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": overall.reshape(1)}
    return parts, dequantized.reshape(w.shape)
