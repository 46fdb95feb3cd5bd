"""Folders that other tools quantized: unpacked to the bit, kept in the GGUF type that loses least, refused when parts do not
fit. The packers are in packers.py; tests/data/packed.npz holds what the tools themselves made."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import packers
import pytest
from packers import Parts, Raw
from test_huggingface import CONFIG, TOKENIZER, neighbours, weights

import llmq
from llmq.errors import FormatError, ModelFileError, UnsupportedError, UnsupportedQuantError
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Tensor
from llmq.formats.huggingface import stack_experts
from llmq.formats.packed import OrderedRows, PackedWeight, unpacked
from llmq.formats.small_floats import EIGHT_BITS
from llmq.formats.weights import open_weights
from llmq.quant.rows import dequantize
from llmq.quant.types import QuantType

GOLDEN = np.load(Path(__file__).parent / "data" / "packed.npz")
TOKENS = [1, 5, 9, 2, 7, 3]
SIZES = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256}
Packer = Callable[[np.ndarray], tuple[Parts, np.ndarray]]


def plain_weights(seed: int = 7) -> dict[str, np.ndarray]:
    """float32, by Hugging Face's names."""
    rng = np.random.default_rng(seed)
    wider = {64: 128, 96: 256, 32: 32}
    out = {}
    for name, small in weights().items():
        shape = (64, 128) if name.endswith(("k_proj.weight", "v_proj.weight")) else tuple(wider[n] for n in small.shape)
        noise = rng.standard_normal(shape)
        out[name] = (noise * shape[-1] ** -0.5 if len(shape) > 1 else 1 + noise / 8).astype(np.float32)
    return out


def write_folder(path: Path, tensors: Parts, quantization: dict | None, file: str = "config.json") -> Path:
    path.mkdir(exist_ok=True)
    config = CONFIG | SIZES
    if quantization is not None and file == "config.json":
        config["quantization_config"] = quantization
    elif quantization is not None:
        (path / file).write_text(json.dumps(quantization))
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    packers.save(tensors, path / "model.safetensors")
    return path


def packed_folder(path: Path, pack: Packer, quantization: dict) -> tuple[Path, dict[str, np.ndarray]]:
    """A llama whose linear layers are packed, and the values of all its tensors."""
    tensors: Parts = {}
    dequantized = {}
    for name, w in plain_weights().items():
        if "_proj" not in name:
            tensors[name] = dequantized[name] = w.astype(np.float16).astype(np.float32)
            continue
        parts, dequantized[name] = pack(w)
        tensors |= {f"{name.removesuffix('.weight')}.{part}": array for part, array in parts.items()}
    return write_folder(path, tensors, quantization), dequantized


def gptq_config(**more: object) -> dict:
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True} | more


def compressed(form: str, bits: int = 4, **more: object) -> dict:
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32} | more
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
P = partial
# the folder, the type its matrices are kept in, whether that is exact
FOLDERS: dict[str, tuple[Packer, dict, str, bool]] = {
    "gptq-4-g32": (packers.gptq, gptq_config(), "Q4_0", True),
    "gptq-4-g128": (P(packers.gptq, size=128), gptq_config(group_size=128), "Q4_0", True),
    "gptq-4-whole-rows": (P(packers.gptq, size=-1), gptq_config(group_size=-1), "Q4_0", True),
    "gptq-4-without-g_idx": (P(packers.gptq, size=64, with_g_idx=False), gptq_config(group_size=64), "Q4_0", True),
    "gptq-4-asymmetric": (P(packers.gptq, sym=False), gptq_config(sym=False), "Q4_1", False),
    "gptq-4-v2": (P(packers.gptq, v2=True, sym=False), gptq_config(sym=False, checkpoint_format="gptq_v2"), "Q4_1", False),
    "gptq-4-act-order": (P(packers.gptq, act_order=True), gptq_config(desc_act=True), "F16", False),
    "gptq-4-bf16-scales": (P(packers.gptq, lift=1), gptq_config(), "Q4_0", True),
    "gptq-2-g64": (P(packers.gptq, bits=2, size=64), gptq_config(bits=2, group_size=64), "Q4_0", True),
    "gptq-3-g32": (P(packers.gptq, bits=3), gptq_config(bits=3), "Q4_0", True),
    "gptq-3-asymmetric": (P(packers.gptq, bits=3, sym=False), gptq_config(bits=3, sym=False), "Q4_0", True),
    "gptq-3-act-order": (P(packers.gptq, bits=3, act_order=True), gptq_config(bits=3, desc_act=True), "F16", False),
    "gptq-8-g128": (P(packers.gptq, bits=8, size=128), gptq_config(bits=8, group_size=128), "Q8_0", True),
    "gptq-8-asymmetric": (P(packers.gptq, bits=8, sym=False), gptq_config(bits=8, sym=False), "F16", False),
    "awq": (packers.awq, AWQ, "Q4_1", False),
    "awq-symmetric": (P(packers.awq, sym=True), AWQ, "Q4_0", True),
    "awq-gemv": (P(packers.awq, size=64, gemv=True), AWQ | {"version": "gemv", "group_size": 64}, "Q4_1", False),
    "int4": (packers.pack_quantized, compressed("pack-quantized"), "Q4_0", True),
    "int4-asymmetric": (P(packers.pack_quantized, sym=False), compressed("pack-quantized", symmetric=False), "Q4_1", False),
    "int4-act-order": (P(packers.pack_quantized, act_order=True), compressed("pack-quantized", actorder="group"), "F16", False),
    "int3": (P(packers.pack_quantized, bits=3), compressed("pack-quantized", 3), "Q4_0", True),
    "int8-packed": (P(packers.pack_quantized, bits=8, size=-1), compressed("pack-quantized", 8), "Q8_0", True),
    "int8": (packers.int_quantized, compressed("int-quantized", 8, strategy="channel"), "Q8_0", True),
    "fp8-per-tensor": (packers.fp8, compressed("float-quantized", 8, type="float"), "F16", False),
    "fp8-per-row": (P(packers.fp8, per_row=True), compressed("float-quantized", 8, type="float"), "F16", False),
    "fp8-powers": (P(packers.fp8, powers=True), {"quant_method": "fp8"}, "BF16", True),
    "fp8-blocks": (
        P(packers.fp8, block=(48, 128), name="weight_scale_inv"), {"quant_method": "fp8", "weight_block_size": [48, 128]},
        "F16", False,
    ),
    "nvfp4": (packers.nvfp4, compressed("nvfp4-pack-quantized", type="float"), "F16", False),
    "mxfp4": (packers.mxfp4, compressed("mxfp4-pack-quantized", type="float"), "MXFP4", True),
    "nf4": (packers.nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "F16", False),
    "nf4-nested": (P(packers.nf4, nested=True), {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "F16", False),
    "llm-int8": (packers.int8_rows, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "Q8_0", False),
}  # fmt: skip


def expected(dequantized: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By GGUF names, rows in GGUF's order."""
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
             "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}  # fmt: skip
    out = {}
    for name, w in dequantized.items():
        if "_proj" in name:
            _, _, layer, _, module, _ = name.split(".")
            heads = {"q_proj": 4, "k_proj": 2}.get(module)
            out[f"blk.{layer}.{names[module]}.weight"] = neighbours(w, heads) if heads else w
    assert len(out) == 14
    return out


@pytest.mark.parametrize("case", FOLDERS)
def test_values_and_kept_types(case: str, tmp_path: Path) -> None:
    pack, quantization, kept, exact = FOLDERS[case]
    path, dequantized = packed_folder(tmp_path / "m", pack, quantization)
    with open_checkpoint(path) as model:
        for name, want in expected(dequantized).items():
            tensor = model.tensors[name]
            assert tensor.type.name == kept, name
            assert np.array_equal(tensor.numpy(), want), name
            raw = tensor.raw()
            assert raw.shape == (tensor.nbytes,)
            back = dequantize(raw, tensor.type, tensor.shape)
            assert np.array_equal(back, want) == exact, name
            assert np.abs(back - want).max() <= 2.0**-10 * np.abs(want).max(), name


@pytest.mark.parametrize("case", FOLDERS)
def test_copy_writes_what_load_runs(case: str, tmp_path: Path) -> None:
    pack, quantization, kept, exact = FOLDERS[case]
    path, dequantized = packed_folder(tmp_path / "m", pack, quantization)
    report = llmq.quantize_model(path, tmp_path / "out.gguf", "COPY")
    for row in report.tensors:
        if "attn_norm" in row.name or "token_embd" in row.name:
            assert row.exact and row.rmse is None
        elif row.name.startswith("blk.") and "norm" not in row.name:
            assert row.type == kept and row.exact is exact
            assert (row.rmse == 0) == exact
    assert ("exact" in report.table()) and json.loads(json.dumps(report.to_dict()))
    plain = write_folder(tmp_path / "plain", dict(dequantized), None)
    with llmq.load(path) as packed, llmq.load(tmp_path / "out.gguf") as copied:
        assert np.array_equal(packed.logits(TOKENS), copied.logits(TOKENS))
    with llmq.load(path, engine="reference") as packed, llmq.load(plain, engine="reference") as floats:
        assert np.array_equal(packed.logits(TOKENS), floats.logits(TOKENS))


@pytest.mark.parametrize("case", [name.removesuffix("/config") for name in GOLDEN.files if name.endswith("/config")])
def test_what_the_tools_made(case: str, tmp_path: Path) -> None:
    """AutoAWQ, GPTQModel, compressed-tensors and bitsandbytes packed these and computed the values (tools/make_packed.py)."""
    parts: Parts = {}
    for name in GOLDEN.files:
        if name.startswith(f"{case}/") and not name.endswith(("/=", "/config")):
            part, _, kind = name.removeprefix(f"{case}/").partition(":")
            parts[f"x.{part}"] = packers.Raw(kind, GOLDEN[name]) if kind else GOLDEN[name]
    packers.save(parts, tmp_path / "x.safetensors")
    source, stored, _ = open_weights(tmp_path / "x.safetensors")
    weight = unpacked(stored, json.loads(str(GOLDEN[f"{case}/config"])), tmp_path)["x.weight"]
    assert isinstance(weight, PackedWeight)
    assert np.array_equal(weight.unpack(slice(None)), GOLDEN[f"{case}/="])
    source.close()


def test_floats_of_8_bits() -> None:
    """Every code, as torch reads it."""
    for name, table in EIGHT_BITS.items():
        assert np.array_equal(table, GOLDEN[f"codes/{name.removeprefix('F8_')}"], equal_nan=True)


def test_asked_for_types(tmp_path: Path) -> None:
    path, dequantized = packed_folder(tmp_path / "gptq", packers.gptq, gptq_config())
    want = expected(dequantized)
    for kind in ("F32", "F16", "BF16", "Q4_0", "Q8_0"):
        report = llmq.quantize_model(path, tmp_path / f"{kind}.gguf", kind)
        rows = {row.name: row for row in report.tensors}
        with open_checkpoint(tmp_path / f"{kind}.gguf") as model:
            for name, w in want.items():
                assert model.tensors[name].type.name == kind
                got = model.tensors[name].numpy()
                assert np.array_equal(got, w) == rows[name].exact == (kind not in ("F16", "BF16")), (kind, name)
                assert np.abs(got - w).max() <= np.abs(w).max() * 2.0**-8


def test_q5_0_holds_asymmetric_groups_exactly(tmp_path: Path) -> None:
    path, dequantized = packed_folder(tmp_path / "awq", packers.awq, AWQ)
    others = {r"^(token_embd|output)\.": "F16"}
    report = llmq.quantize_model(path, tmp_path / "out.gguf", "Q5_0", pure=True, tensor_types=others)
    with open_checkpoint(tmp_path / "out.gguf") as model:
        for name, w in expected(dequantized).items():
            assert model.tensors[name].type is QuantType.Q5_0 and np.array_equal(model.tensors[name].numpy(), w), name
    assert all(row.exact for row in report.tensors if "_q." in row.name)


def test_quantizing_again_must_be_allowed_but_not_for_fp8(tmp_path: Path) -> None:
    path, dequantized = packed_folder(tmp_path / "gptq", packers.gptq, gptq_config())
    with pytest.raises(UnsupportedQuantError, match=r"attn_k.weight' is GPTQ 4 bits, groups of 32 already"):
        llmq.quantize_model(path, tmp_path / "out.gguf", "IQ4_NL")
    assert not (tmp_path / "out.gguf").exists()
    report = llmq.quantize_model(path, tmp_path / "out.gguf", "IQ4_NL", allow_requantize=True)
    plain = write_folder(tmp_path / "plain", dict(dequantized), None)
    llmq.quantize_model(plain, tmp_path / "plain.gguf", "IQ4_NL")
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()
    assert not next(row for row in report.tensors if "ffn_up" in row.name).exact
    path, _ = packed_folder(tmp_path / "fp8", packers.fp8, {"quant_method": "fp8"})
    llmq.quantize_model(path, tmp_path / "out.gguf", "Q8_0")


@pytest.mark.parametrize(
    "option",
    [{"pure": True}, {"output_type": "F16"}, {"embedding_type": "F16"}, {"tensor_types": {"a": "F16"}}, {"imatrix": "x.dat"},
     {"allow_requantize": True}],
    ids=str,
)  # fmt: skip
def test_copy_takes_no_types(option: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="COPY keeps every type"):
        llmq.quantize_model(Path(__file__).parent / "none", tmp_path / "out.gguf", "COPY", **option)


def test_copy_of_a_gguf_is_the_same_file(tmp_path: Path) -> None:
    path, _ = packed_folder(tmp_path / "awq", packers.awq, AWQ)
    llmq.quantize_model(path, tmp_path / "one.gguf", "copy")
    report = llmq.quantize_model(tmp_path / "one.gguf", tmp_path / "two.gguf", "COPY", n_threads=1)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    assert all(row.exact for row in report.tensors)
    assert llmq.inspect(tmp_path / "one.gguf").metadata["general.file_type"] == 3


def test_inspect_names_the_packing(tmp_path: Path) -> None:
    path, _ = packed_folder(tmp_path / "gptq", P(packers.gptq, bits=3, act_order=True), gptq_config(bits=3, desc_act=True))
    found = llmq.inspect(path)
    row = next(row for row in found.tensors if row.name == "blk.0.attn_q.weight")
    assert row.type == "GPTQ 3 bits, groups of 32" and row.bytes == 128 * 128 * 3 // 8 + 4 * (128 * 3 // 8 + 128 * 2 + 128)
    assert "GPTQ 3 bits" in found.table()


@pytest.mark.parametrize(
    ("file", "pack", "settings"),
    [
        ("quantize_config.json", packers.gptq, {"bits": 4, "group_size": 32, "desc_act": False, "sym": True}),
        ("quant_config.json", packers.awq, {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
    ],
)
def test_settings_in_a_file_of_their_own(file: str, pack: Packer, settings: dict, tmp_path: Path) -> None:
    tensors, want = {}, {}
    for name, w in plain_weights().items():
        if "_proj" in name:
            parts, want[name] = pack(w)
            tensors |= {f"{name.removesuffix('.weight')}.{part}": array for part, array in parts.items()}
        else:
            tensors[name] = w
    with open_checkpoint(write_folder(tmp_path / "m", tensors, settings, file)) as model:
        for name, w in expected(want).items():
            assert np.array_equal(model.tensors[name].numpy(), w)


def test_a_file_named_by_auto_gptq(tmp_path: Path) -> None:
    path, dequantized = packed_folder(tmp_path / "m", packers.gptq, gptq_config())
    name = "gptq_model-4bit-32g.safetensors"
    (path / "model.safetensors").rename(path / name)
    with open_checkpoint(path) as model:
        for tensor, w in expected(dequantized).items():
            assert np.array_equal(model.tensors[tensor].numpy(), w)
    (path / "gptq_model-4bit-64g.safetensors").symlink_to(path / name)
    with pytest.raises(FormatError, match=r"found \['gptq_model-4bit-32g.safetensors', "):  # which of the two?
        open_checkpoint(path)


def test_every_dtype_of_safetensors(tmp_path: Path) -> None:
    """All codes of the small floats, as torch reads them; the extremes of the others."""
    sixteen = np.arange(1 << 16, dtype=np.uint16)
    ends = {np.dtype(kind): [np.iinfo(kind).min, np.iinfo(kind).max, 1] for kind in ("i8", "i4", "i2", "i1", "u1")}
    doubles = np.array([1 / 3, -np.inf, 1e300])
    codes = {f"F8_{kind}": (np.arange(256, dtype=np.uint8), GOLDEN[f"codes/{kind}"]) for kind in ("E4M3", "E5M2", "E8M0")}
    bf16 = np.stack([np.zeros_like(sixteen), sixteen], 1).view(np.float32)[:, 0]  # the upper half of a float32
    cases: dict[str, tuple[np.ndarray, np.ndarray]] = codes | {
        "BF16": (sixteen, bf16),
        "F16": (sixteen, sixteen.view(np.float16).astype(np.float32)),
        "F32": (bf16.view(np.uint32), bf16),
        "F64": (doubles, doubles),
        "BOOL": (np.array([0, 1], np.uint8), np.array([False, True])),
        **{f"{'UI'[kind.kind == 'i']}{8 * kind.itemsize}": (np.array(x, kind), np.array(x, kind)) for kind, x in ends.items()},
        **{f"U{8 * n}": (np.array([0, 256**n - 1], f"u{n}"),) * 2 for n in (2, 4, 8)},
    }
    packers.save({name: Raw(name, stored) for name, (stored, _) in cases.items()}, tmp_path / "x.safetensors")
    with llmq.read_tensors(tmp_path / "x.safetensors") as tensors:
        for name, (stored, want) in cases.items():
            got = tensors[name].numpy()
            assert tensors[name].dtype == name and got.dtype == want.dtype
            assert np.array_equal(got, want, equal_nan=want.dtype.kind == "f")
            assert tensors[name].raw().tobytes() == stored.tobytes()


@pytest.mark.parametrize(
    ("packs", "settings", "kept", "forms"),
    [
        ([packers.gptq] * 3, gptq_config(), "Q4_0", {"Q4_0", "Q4_1", "Q5_0", "Q8_0"}),
        ([packers.gptq, P(packers.gptq, sym=False), packers.gptq], gptq_config(), "Q4_1", {"Q4_1", "Q5_0", "Q8_0"}),
        ([packers.gptq, P(packers.gptq, act_order=True)], gptq_config(), "F32", set()),
        ([packers.fp8, P(packers.fp8, powers=True)], {"quant_method": "fp8"}, "F32", set()),
    ],
)
def test_experts_that_are_kept_otherwise(packs: list[Packer], settings: dict, kept: str, forms: set, tmp_path: Path) -> None:
    """One expert may have zero points that another has not: together they get the type that takes all."""
    parts: Parts = {}
    want = []
    for i, pack in enumerate(packs):
        made, values = pack(np.random.default_rng(i).standard_normal((48, 64)).astype(np.float32))
        parts |= {f"x.{i}.{name}": part for name, part in made.items()}
        want.append(values)
    packers.save(parts, tmp_path / "x.safetensors")
    source, stored, _ = open_weights(tmp_path / "x.safetensors")
    experts = {}
    for name, weight in unpacked(stored, settings, tmp_path).items():
        assert isinstance(weight, PackedWeight)
        rows = OrderedRows(weight)
        experts[int(name.split(".")[1])] = Tensor(
            name, weight.shape, weight.type, partial(rows.blocks, weight.type, 0, 48), packed=rows
        )
    tensor = stack_experts("blk.0.ffn_up_exps.weight", experts)
    assert tensor.type.name == kept and tensor.packed is not None and {form.name for form in tensor.packed.forms} == forms
    assert np.array_equal(tensor.numpy(), np.stack(want))
    back = dequantize(tensor.raw(), tensor.type, tensor.shape)
    assert np.abs(back - np.stack(want)).max() <= 2.0**-10 * np.abs(want).max()
    assert np.array_equal(tensor.packed.values(40, 60), np.concatenate(want)[40:60])
    source.close()


def test_modules_of_their_own_bits(tmp_path: Path) -> None:
    def pack(w: np.ndarray) -> tuple[Parts, np.ndarray]:
        return packers.gptq(w, 8, 64) if w.shape == (128, 256) else packers.gptq(w)

    settings = gptq_config(dynamic={r"+:.*\.down_proj": {"bits": 8, "group_size": 64}})
    path, dequantized = packed_folder(tmp_path / "m", pack, settings)
    with open_checkpoint(path) as model:
        assert {model.tensors[f"blk.1.ffn_{n}.weight"].type.name for n in ("down", "up")} == {"Q8_0", "Q4_0"}
        for name, w in expected(dequantized).items():
            assert np.array_equal(model.tensors[name].numpy(), w)


def test_a_group_that_ends_early_and_rows_that_are_no_blocks(tmp_path: Path) -> None:
    def settle(columns: int, size: int) -> tuple[str, bool]:
        w = np.random.default_rng(1).standard_normal((64, columns)).astype(np.float32)
        parts, want = packers.gptq(w, 4, size)
        name = "model.layers.0.self_attn.k_proj"
        packers.save({f"{name}.{part}": array for part, array in parts.items()}, tmp_path / "x.safetensors")
        _, stored, _ = open_weights(tmp_path / "x.safetensors")
        weight = unpacked(stored, gptq_config(group_size=size), tmp_path)[f"{name}.weight"]
        assert isinstance(weight, PackedWeight) and np.array_equal(weight.unpack(slice(None)), want)
        rows = np.array([5, 0, 63])
        assert np.array_equal(weight.unpack(rows), want[rows])
        return weight.type.name, QuantType.Q4_0 in weight.forms

    assert settle(160, 64) == ("Q4_0", True)
    assert settle(160, 40) == ("F16", False)  # 32 columns of two groups
    assert settle(72, 24) == ("F16", False)


def break_parts(change: Callable[[Parts], None]) -> Packer:
    def pack(w: np.ndarray) -> tuple[Parts, np.ndarray]:
        parts, dequantized = packers.gptq(w)
        change(parts)
        return parts, dequantized

    return pack


def setter(part: str, at: object, value: object) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts[part] = np.array(parts[part])
        parts[part][at] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("scales"), r"_proj\.scales' is missing beside '.*\.qweight'"),
        (lambda p: p.pop("qzeros"), r"_proj\.qzeros' is missing"),
        (setter("g_idx", 3, 99), r"_proj\.g_idx' names group 99; there are"),
        (setter("g_idx", 0, -2), r"_proj\.g_idx' names group -2"),
        (setter("scales", (1, 2), np.nan), r"_proj\.scales' holds NaN or infinity"),
        (setter("scales", (0, 0), np.inf), r"_proj\.scales' holds NaN or infinity"),
        (lambda p: p.update(qweight=p["qweight"][:-1]), r"_proj\.g_idx' has shape"),
        (lambda p: p.update(qweight=p["qweight"][:, 1:]), r"_proj\.qweight' has shape \(\d+, \d+\); anyx128 expected"),
        (lambda p: p.update(qzeros=p["qzeros"][:, 1:]), r"_proj\.qzeros' has shape .*; 4 bits of 128 outputs are 16 words"),
        (lambda p: p.update(qzeros=p["qzeros"][1:]), r"_proj\.qzeros' has shape"),
        (lambda p: p.update(g_idx=p["g_idx"][20:]), r"_proj\.g_idx' has shape"),
        (lambda p: p.update(qweight=p["qweight"].view(np.float32)), r"_proj\.qweight' is F32; I32 expected"),
        (lambda p: p.update(scales=p["scales"].view(np.int8)), r"_proj\.scales' is I8; F16 or BF16 or F32 expected"),
        (lambda p: p.update(scales=p["scales"][:, :0]), r"_proj\.scales' has shape \(\d+, 0\)"),
        (lambda p: p.update(weight=np.zeros((2, 2), np.float16)), r"_proj\.weight' is there both packed and plain"),
    ],
)  # fmt: skip
def test_broken_gptq(change: Callable[[Parts], None], message: str, tmp_path: Path) -> None:
    path, _ = packed_folder(tmp_path / "m", break_parts(change), gptq_config())
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(path)


def test_inputs_that_are_missing_are_found_by_the_model(tmp_path: Path) -> None:
    path, _ = packed_folder(tmp_path / "m", break_parts(lambda p: p.update(g_idx=p["g_idx"][1:])), gptq_config())
    with pytest.raises(FormatError, match=r"attn_q.weight': the hyper-parameters ask for shape \(128, 128\), the file has"):
        llmq.load(path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (gptq_config(bits=0), FormatError, r"bits: a number in 1\.\.8 expected, found 0"),
        (gptq_config(bits=5), FormatError, "bits: 2, 3, 4, 8 expected, found 5"),
        (gptq_config(bits="4"), FormatError, "bits: an integer expected"),
        (gptq_config(bits=8), FormatError, "8 bits of 128 outputs"),
        (gptq_config(group_size=-3), FormatError, "group_size"),
        (gptq_config(checkpoint_format="marlin"), UnsupportedError, "'marlin' is arranged for one GPU kernel"),
        (AWQ | {"version": "marlin"}, UnsupportedError, "AWQ version 'marlin'"),
        (AWQ | {"bits": 8}, FormatError, "AWQ has 4"),
        (AWQ | {"group_size": 0}, FormatError, "no whole groups of 0"),
        ({"quant_method": "fp8"}, FormatError, "quantized by 'fp8', but none is"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, FormatError, "weight_block_size: two sizes expected"),
        (compressed("marlin-24"), UnsupportedError, "format 'marlin-24'"),
        (compressed("dense") | {"sparsity_config": {"format": "sparse-bitmask"}}, UnsupportedError, "'sparse-bitmask'"),
        ({"quant_method": "aqlm"}, UnsupportedError, "quantized by 'aqlm'; known are gptq, awq"),
        ({"quant_method": 3}, FormatError, "quant_method: a string expected"),
    ],
)
def test_refused_settings(settings: dict, error: type, message: str, tmp_path: Path) -> None:
    path, _ = packed_folder(tmp_path / "m", packers.gptq, settings)
    with pytest.raises(error, match=message):
        open_checkpoint(path)


def changed(pack: Packer, change: Callable[[Parts], None]) -> Packer:
    def packed(w: np.ndarray) -> tuple[Parts, np.ndarray]:
        parts, dequantized = pack(w)
        change(parts)
        return parts, dequantized

    return packed


STATE = "weight.quant_state.bitsandbytes__nf4"


def restate(**more: object) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        state = json.loads(np.asarray(parts[STATE]).tobytes()) | more
        parts[STATE] = np.frombuffer(json.dumps(state).encode(), np.uint8)

    return change


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("awq", lambda p: p.update(qzeros=p["qzeros"][:-1]), r"qzeros' has shape"),
        ("awq", lambda p: p.pop("scales"), r"scales' is missing"),
        ("awq", setter("scales", (0, 0), np.nan), r"scales' holds NaN"),
        ("awq-gemv", lambda p: p.update(qzeros=p["qzeros"][:, :0], scales=p["scales"][:, :0]), r"qzeros' has shape"),
        ("int4", setter("weight_shape", 1, 100), r"weight_packed' has shape .*numbers of \[4\] bits do not fill it"),
        ("int4", setter("weight_shape", 0, -1), r"weight_packed' has shape"),
        ("int4", lambda p: p.pop("weight_shape"), r"weight_shape' is missing"),
        ("int4", lambda p: p.update(weight_scale=p["weight_scale"][1:]), r"weight_scale' has shape"),
        ("int4-act-order", setter("weight_g_idx", 1, 50), r"weight_g_idx' names group 50"),
        ("int4-asymmetric", lambda p: p.update(weight_zero_point=p["weight_zero_point"][1:]), r"weight_zero_point' has shape"),
        ("int8", lambda p: p.pop("weight_scale"), r"weight_scale' is missing"),
        ("fp8-powers", setter("weight_scale", 0, np.inf), r"weight_scale' holds NaN"),
        ("fp8-blocks", lambda p: p.update(weight_scale_inv=p["weight_scale_inv"][:, :, None]), r"weight_scale_inv' has shape"),
        ("fp8-blocks", lambda p: p.pop("weight_scale_inv"), r"weight_scale_inv' is missing"),
        ("nvfp4", setter("weight_global_scale", 0, 0), r"weight_global_scale' is '\[0\.0\]'|weight_global_scale' is \[0\.0\]"),
        ("nvfp4", lambda p: p.pop("weight_global_scale"), r"weight_global_scale' is missing"),
        ("nf4", lambda p: p.update({STATE: p[STATE][:-1]}), r"quant_state\.bitsandbytes__nf4.*not JSON"),
        ("nf4", restate(shape=[1 << 20, 1 << 20]), r"weight' has .* bytes; 4 bits of 1048576 x 1048576 expected"),
        ("nf4", restate(shape=[128]), r"gives the shape \[128\]"),
        ("nf4", restate(blocksize=0), r"blocksize: a number"),
        ("nf4", restate(blocksize=32), r"absmax' has shape"),
        ("nf4", lambda p: p.pop("weight.quant_map"), r"weight\.quant_map' is missing"),
        ("nf4-nested", lambda p: p.pop("weight.nested_absmax"), r"nested_absmax' is missing"),
        ("nf4-nested", restate(nested_offset="x"), r"nested_offset: a number expected"),
        ("llm-int8", lambda p: p.update(SCB=p["SCB"][1:]), r"SCB' has shape"),
        ("llm-int8", lambda p: p.pop("weight"), r"weight' is missing"),
    ],
)
def test_broken_parts(case: str, change: Callable[[Parts], None], message: str, tmp_path: Path) -> None:
    pack, settings, *_ = FOLDERS[case]
    path, _ = packed_folder(tmp_path / "m", changed(pack, change), settings)
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(path)


def mutated(part: np.ndarray | packers.Raw) -> list[np.ndarray | packers.Raw]:
    """The part in other shapes and types, and with extreme contents."""
    bits = part.bits if isinstance(part, packers.Raw) else part
    shapes = [bits[:0], bits[1:], bits.T, bits[None], bits.reshape(-1), bits[..., :-1]] if bits.ndim else [bits[None]]
    extremes = (0, 6e4, np.nan) if bits.dtype.kind == "f" else (0, np.iinfo(bits.dtype).min, np.iinfo(bits.dtype).max)
    full = [np.full_like(bits, value) for value in extremes]
    same = [packers.Raw(part.dtype, b) if isinstance(part, packers.Raw) else b for b in (*shapes, *full)]
    return [*same, bits.astype(np.float32), bits.astype(np.int8), np.zeros((), np.float32)]


@pytest.mark.parametrize(
    "case",
    ["gptq-4-asymmetric", "gptq-3-act-order", "awq", "awq-gemv", "int4-asymmetric", "int4-act-order", "int8", "fp8-per-row",
     "fp8-blocks", "nvfp4", "mxfp4", "nf4", "nf4-nested", "llm-int8"],
)  # fmt: skip
def test_any_change_of_a_part_is_refused_or_read(case: str, tmp_path: Path) -> None:
    """Whatever one part becomes: a ModelFileError that names the module, or weights; nothing else."""
    pack, settings, *_ = FOLDERS[case]
    parts, _ = pack(np.random.default_rng(4).standard_normal((64, 128)).astype(np.float32))
    refused = 0
    for name in parts:
        for other in [None, *mutated(parts[name])]:
            changed_parts = {f"x.{part}": other if part == name else array for part, array in parts.items()}
            packers.save({k: v for k, v in changed_parts.items() if v is not None}, tmp_path / "x.safetensors")
            source, stored, _ = open_weights(tmp_path / "x.safetensors")
            try:
                for weight in unpacked(stored, settings, tmp_path).values():
                    if isinstance(weight, PackedWeight):
                        assert weight.unpack(slice(None)).shape == weight.shape
                        weight.blocks(slice(None), weight.type)
            except ModelFileError as error:
                assert any(words in str(error) for words in ("'x.", "'x'", "but none is", "nested_offset"))
                refused += 1
            finally:
                source.close()
    assert refused >= 5 * len(parts)


def test_a_nan_among_the_codes_is_found_when_it_is_read(tmp_path: Path) -> None:
    def spoil(parts: Parts) -> None:
        parts["weight"].bits[2, 3] = 0x7F

    path, _ = packed_folder(tmp_path / "m", changed(packers.fp8, spoil), {"quant_method": "fp8"})
    for use in (partial(llmq.quantize_model, path, tmp_path / "out.gguf", "COPY"), partial(llmq.load, path)):
        with pytest.raises(FormatError, match=r"_proj\.weight' holds NaN or infinity"):
            use()
    assert not (tmp_path / "out.gguf").exists()


def test_scales_beyond_binary16(tmp_path: Path) -> None:
    """Too large or too small for Q4_0's d: a float type is left, and still nothing is lost but a rounding."""
    for factor in (2.0**22, 2.0**-30):
        path, dequantized = packed_folder(
            tmp_path / "m", P(packers.gptq, lift=factor), gptq_config()
        )
        with open_checkpoint(path) as model:
            for name, w in expected(dequantized).items():
                tensor = model.tensors[name]
                assert tensor.type is QuantType.BF16 and np.array_equal(tensor.numpy(), w)
                assert np.abs(dequantize(tensor.raw(), tensor.type, tensor.shape) - w).max() <= np.abs(w).max() * 2.0**-8
