"""Make tests/data/packed.npz: small matrices packed and dequantized by the tools themselves.

Run in an environment with torch, transformers, compressed-tensors and bitsandbytes (CPU), given the unpacked source archives of
autoawq 0.2.9 and gptqmodel 7.7.0, whose packing functions are run without the rest (they need a GPU's libraries):

    TORCHDYNAMO_DISABLE=1 python tests/tools/make_packed.py AUTOAWQ_SOURCE GPTQMODEL_SOURCE

Keys: case/part for what the tool stores, case/= for the values it computes (float32), case/config for its quantization_config.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import sys
import types
from importlib import import_module
from pathlib import Path

import bitsandbytes.functional as bnb
import numpy as np
import torch
import transformers
from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
from compressed_tensors.compressors.naive_quantized.base import FloatQuantizationCompressor, IntQuantizationCompressor
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize

OUT = Path(__file__).resolve().parent.parent / "data" / "packed.npz"
found: dict[str, np.ndarray] = {}


def keep(case: str, parts: dict[str, torch.Tensor], values: torch.Tensor, config: dict) -> None:
    for name, part in parts.items():
        kind = str(part.dtype).removeprefix("torch.")
        kind = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "bfloat16": "BF16"}.get(kind, "")
        held = {"BF16": torch.uint16, "": part.dtype}.get(kind, torch.uint8)
        found[f"{case}/{name}" + (f":{kind}" if kind else "")] = part.detach().contiguous().view(held).numpy()
    found[f"{case}/="] = values.float().numpy()
    found[f"{case}/config"] = np.array(json.dumps(config))


def scales_of(w: torch.Tensor, size: int, bits: int, sym: bool) -> tuple[torch.Tensor, torch.Tensor]:
    groups = w.reshape(len(w), -1, size)
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    top = 2**bits - 1
    if sym:
        high = torch.maximum(-low, high)
        low = -high
    scales = ((high - low) / top).half().float()
    return scales, torch.full_like(scales, (top + 1) // 2) if sym else torch.round(-low / scales).clamp(0, top)


def awq(source: Path, w: torch.Tensor) -> None:
    for name in ("awq", "awq.utils", "awq.modules", "awq.modules.linear"):
        module = types.ModuleType(name)
        module.__path__ = [str(source.joinpath(*name.split(".")))]
        sys.modules[name] = module
    device = types.ModuleType("awq.utils.utils")
    device.get_best_device = lambda: "cpu"
    sys.modules["awq.utils.utils"] = device
    gemm, gemv = (import_module(f"awq.modules.linear.{name}") for name in ("gemm", "gemv"))
    packing = import_module("awq.utils.packing_utils")
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight.data = w
    scales, zeros = scales_of(w, 32, 4, False)
    made = gemm.WQLinear_GEMM.from_linear(linear, 4, 32, False, scales.T.contiguous(), zeros.T.contiguous())
    parts = {name: getattr(made, name) for name in ("qweight", "qzeros", "scales")}
    values = packing.dequantize_gemm(made.qweight, made.qzeros, made.scales.float(), 4, 32).T
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    keep("awq", parts, values, config)
    made = gemv.WQLinear_GEMV.from_linear(linear, 4, 32, False, scales, zeros)  # the same numbers, so the same values
    parts = {name: getattr(made, name) for name in ("qweight", "qzeros", "scales")}
    keep("awq-gemv", parts, values, config | {"version": "gemv"})


def gptq(source: Path, w: torch.Tensor) -> None:
    path = source / "gptqmodel" / "nn_modules" / "qlinear" / "__init__.py"
    wanted = {"_torch_shift_factor", "_torch_right_shift", "_torch_left_shift", "pack_original", "dequantize_weight",
              "_dequantize_from_codes"}  # fmt: skip
    names = {n.name: n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef) and n.name in wanted}

    class Pool:
        threadpool_limits = staticmethod(lambda n: contextlib.nullcontext())

    space = {"t": torch, "np": np, "math": math, "nn": torch.nn, "transformers": transformers, "THREADPOOLCTL": Pool,
             "_ConvNd": torch.nn.modules.conv._ConvNd}  # fmt: skip
    exec(compile(ast.Module([names[n] for n in wanted], []), str(path), "exec"), space)

    for case, bits, size, sym, act_order in (
        ("gptq-4", 4, 32, True, False), ("gptq-4-asymmetric", 4, 32, False, False), ("gptq-3-act-order", 3, 32, False, True),
        ("gptq-2", 2, 32, False, False), ("gptq-8", 8, 96, True, False),
    ):  # fmt: skip
        order = torch.randperm(w.shape[1]) if act_order else torch.arange(w.shape[1])
        scales, zeros = scales_of(w[:, order], size, bits, sym)
        g_idx = torch.empty(w.shape[1], dtype=torch.int32)
        g_idx[order] = (torch.arange(w.shape[1]) // size).int()
        linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
        linear.weight.data = w.clone()
        shifts = torch.arange(0, 32, bits, dtype=torch.int32)
        if bits == 3:
            shifts = torch.tensor([[0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0], [0, 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31],
                                   [0, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0]], dtype=torch.int32)  # fmt: skip
        made = types.SimpleNamespace(
            bits=bits, maxq=2**bits - 1, pack_factor=32 // bits, pack_dtype_bits=32, pack_np_math_dtype=np.uint32,
            pack_np_dtype=np.int32, planar=False, in_features=w.shape[1], g_idx=g_idx, scales=None,
            dequant_dtype=torch.int16 if bits == 8 else torch.int8, _init_wf_unsqueeze_buffers=lambda: None,
            wf_unsqueeze_zero=shifts.reshape((1, 3, 12) if bits == 3 else (1, 1, -1)),
            wf_unsqueeze_neg_one=shifts.reshape((1, 3, 12, 1) if bits == 3 else (1, -1, 1)),
        )  # fmt: skip
        made.register_buffer = lambda name, value, made=made: setattr(made, name, value)
        made._dequantize_from_codes = types.MethodType(space["_dequantize_from_codes"], made)
        space["pack_original"](made, linear, scales, zeros, g_idx)
        parts = {name: getattr(made, name).clone() for name in ("qweight", "qzeros", "scales", "g_idx")}
        made.scales = made.scales.float()
        config = {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": sym, "desc_act": act_order}
        keep(case, parts, space["dequantize_weight"](made).T, config | {"checkpoint_format": "gptq_v2"})


def compressed(w: torch.Tensor) -> None:
    for case, tool, form, args, scale_of in (
        ("int4", PackedQuantizationCompressor, "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}, 7.5),
        ("int3", PackedQuantizationCompressor, "pack-quantized", {"num_bits": 3, "strategy": "group", "group_size": 32}, 3.5),
        ("int4-asymmetric", PackedQuantizationCompressor, "pack-quantized",
         {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}, 7.5),
        ("int8", IntQuantizationCompressor, "int-quantized", {"num_bits": 8, "strategy": "channel"}, 127.5),
        ("float8", FloatQuantizationCompressor, "float-quantized",
         {"num_bits": 8, "type": "float", "strategy": "channel"}, 448),
        ("nvfp4", NVFP4PackedCompressor, "nvfp4-pack-quantized",
         {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}, 6),
        ("mxfp4", MXFP4PackedCompressor, "mxfp4-pack-quantized",
         {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "uint8"}, 6),
    ):  # fmt: skip
        size = args.get("group_size", w.shape[1])
        scale = w.reshape(len(w), -1, size).abs().amax(2) / scale_of
        state = {"weight": w.clone(), "weight_scale": scale}
        if case == "nvfp4":
            overall = 2688 / w.abs().max()
            scale = (scale * overall).to(torch.float8_e4m3fn).float()
            state |= {"weight_scale": scale, "weight_global_scale": overall.reshape(1)}
        if case == "mxfp4":
            state["weight_scale"] = torch.exp2(torch.ceil(torch.log2(scale)))
        if case == "int4-asymmetric":
            state["weight_zero_point"] = torch.randint(-3, 4, scale.shape).to(torch.int8)
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
        parts = tool.compress(state, scheme)
        if case == "nvfp4":  # which the tool computes in bfloat16 otherwise
            packed = unpack_fp4_from_uint8(parts["weight_packed"], *w.shape, dtype=torch.float32)
            values = dequantize(packed, parts["weight_scale"].float(), None, scheme.weights, torch.float32, overall.reshape(1))
        else:
            values = tool.decompress(dict(parts), scheme)["weight"]
        weights = {"num_bits": args["num_bits"], "type": args.get("type", "int"), "strategy": args["strategy"]}
        config = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": {"weights": weights}}}
        keep(case, {k: v for k, v in parts.items() if v is not None}, values, config)


def four_bits(w: torch.Tensor) -> None:
    for case, kind, nested in (("nf4", "nf4", False), ("nf4-nested", "nf4", True), ("fp4", "fp4", False)):
        packed, state = bnb.quantize_4bit(w.contiguous(), blocksize=64, compress_statistics=nested, quant_type=kind)
        parts = {"weight": packed} | {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
        keep(case, parts, bnb.dequantize_4bit(packed, state), {"quant_method": "bitsandbytes", "load_in_4bit": True})
    q, absmax, _ = bnb.int8_vectorwise_quant(w.half())
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    keep("llm-int8", {"weight": q, "SCB": absmax}, bnb.int8_vectorwise_dequant(q, absmax), config)


def main() -> None:
    torch.manual_seed(11)
    w = torch.randn(32, 96) / 8
    awq(Path(sys.argv[1]), w)
    gptq(Path(sys.argv[2]), w)
    compressed(w)
    four_bits(w)
    codes = torch.arange(256, dtype=torch.uint8)
    for name, dtype in (("E4M3", torch.float8_e4m3fn), ("E5M2", torch.float8_e5m2), ("E8M0", torch.float8_e8m0fnu)):
        found[f"codes/{name}"] = codes.view(dtype).float().numpy()
    np.savez_compressed(OUT, **found)


if __name__ == "__main__":
    main()
