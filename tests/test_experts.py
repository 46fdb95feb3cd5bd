"""Experts in files: folders with one tensor per expert, with stacks and in MXFP4; both forms of DeepSeek's attention; what
cannot be; quantizing stacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from goldens import Golden, load, weight, write_folder
from tiny import batch, tensor, write_gguf

from llmq.arch import build_tape, family_named
from llmq.arch.fields import Fields
from llmq.engine.compare import compare
from llmq.engine.native import NativeEngine
from llmq.engine.reference import ReferenceEngine
from llmq.errors import FormatError, ModelFileError, UnsupportedError
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint
from llmq.quant.quantizer import quantize_model
from llmq.quant.rows import quantize
from llmq.quant.types import QuantType

Stored = dict[str, npt.NDArray[Any]]


def stored(golden: Golden) -> Stored:
    return {name: weight(name, shape) for name, shape in golden.shapes.items()}


def folder(path: Path, golden: Golden, tensors: Mapping[str, npt.NDArray[Any]], **changes: object) -> Path:
    """The golden's folder with other tensors and a changed config.json."""
    write_folder(replace(golden, shapes={}), path, {**golden.config, **changes})
    dtypes = {np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8"}
    header, offset = {}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": dtypes[x.dtype], "shape": x.shape, "data_offsets": [offset, offset + x.nbytes]}
        offset += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(x).tobytes() for x in tensors.values())
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def logits(model: Checkpoint, tokens: npt.NDArray[np.int32], engine: Callable[..., Any] = ReferenceEngine) -> np.ndarray:
    with engine(build_tape(model), model.tensors) as running:
        out: np.ndarray = running.run(batch((running.new_sequence(), 0, tokens)))
    return out


def native(*args: Any) -> NativeEngine:
    return NativeEngine(*args, n_threads=2, kv_type="f32")


def test_stacks_of_experts_are_the_same_model(tmp_path: Path) -> None:
    """transformers 5 may write the experts of a layer as two stacks."""
    golden = load("qwen3moe")
    single = stored(golden)
    stacked = {name: x for name, x in single.items() if ".experts." not in name}
    for i in range(golden.config["num_hidden_layers"]):
        parts = {
            kind: np.stack([single[f"model.layers.{i}.mlp.experts.{e}.{kind}_proj.weight"] for e in range(8)])
            for kind in ("gate", "up", "down")
        }
        stacked[f"model.layers.{i}.mlp.experts.gate_up_proj"] = np.concatenate([parts["gate"], parts["up"]], axis=1)
        stacked[f"model.layers.{i}.mlp.experts.down_proj"] = parts["down"]
    with (
        open_checkpoint(folder(tmp_path / "one", golden, single)) as one,
        open_checkpoint(folder(tmp_path / "two", golden, stacked)) as two,
    ):
        assert {n: t.shape for n, t in one.tensors.items()} == {n: t.shape for n, t in two.tensors.items()}
        for name in one.tensors:
            np.testing.assert_array_equal(one.tensors[name].raw(), two.tensors[name].raw())
        assert one.tensors["blk.1.ffn_down_exps.weight"].shape == (8, 64, 40)
        third = single["model.layers.1.mlp.experts.3.up_proj.weight"]
        np.testing.assert_array_equal(one.tensors["blk.1.ffn_up_exps.weight"].numpy()[3], third)


def without(name: str) -> Callable[[Stored], None]:
    return lambda tensors: tensors.pop(name) is not None and None


def changed(name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[Stored], None]:
    return lambda tensors: tensors.update({name: change(tensors[name])})


EXPERT = "model.layers.0.block_sparse_moe.experts.3.w1.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(EXPERT), "blk.0.ffn_gate_exps.weight: expert 3 of 8 is missing"),
        (without(EXPERT.replace("3", "7")), r"shape \(8, 96, 64\), the file has \(7, 96, 64\)"),
        (changed(EXPERT, lambda x: x[:, :32]), r"expert 3 is F32 of shape \(96, 32\), another F32 of \(96, 64\)"),
        (
            lambda tensors: tensors.update({"model.layers.0.mlp.experts.down_proj": np.zeros((8, 64, 96), np.float32)}),
            "two tensors stand for blk.0.ffn_down_exps.weight",
        ),
    ],
)
def test_stacks_that_cannot_be(tmp_path: Path, change: Callable[[Stored], None], words: str) -> None:
    golden = load("mixtral")
    tensors = stored(golden)
    change(tensors)
    with pytest.raises(FormatError, match=words), open_checkpoint(folder(tmp_path / "model", golden, tensors)) as model:
        build_tape(model)


# ---- MXFP4 -----------------------------------------------------------------------------------------------------------

LEVELS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def microscaled(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.uint8], ...]:
    """Random blocks and scales for (experts, rows, columns)."""
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // 32, 16)).astype(np.uint8)
    return blocks, rng.integers(121, 126, blocks.shape[:-1]).astype(np.uint8)


def values(blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What they stand for (OCP Microscaling Formats 1.0, weights in pairs, the first in the low bits)."""
    pairs = np.stack([LEVELS[blocks & 15], LEVELS[blocks >> 4]], axis=-1).reshape(*blocks.shape[:-1], 32)
    return np.float32(pairs * 2.0 ** (scales.astype(np.float32) - 127)[..., None]).reshape(*blocks.shape[:-2], -1)


def mxfp4_model(golden: Golden) -> tuple[Stored, Stored]:
    """The golden with random experts: as floats and as gpt-oss keeps them."""
    floats, packed, rng = stored(golden), stored(golden), np.random.default_rng(4)
    for name in list(floats):
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, columns, rows = floats[name].shape
            blocks, scales = microscaled(rng, (experts, rows, columns))
            floats[name] = values(blocks, scales).swapaxes(1, 2)
            del packed[name]
            packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return floats, packed


MXFP4 = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}


def test_mxfp4_experts(tmp_path: Path) -> None:
    golden = load("gptoss-plain")
    floats, packed = mxfp4_model(golden)
    tokens = golden.sequences[0][0]
    with (
        open_checkpoint(folder(tmp_path / "floats", golden, floats)) as plain,
        open_checkpoint(folder(tmp_path / "packed", golden, packed, **MXFP4)) as model,
    ):
        for kind in ("gate", "up", "down"):
            name = f"blk.1.ffn_{kind}_exps.weight"
            assert model.tensors[name].type is QuantType.MXFP4
            np.testing.assert_array_equal(model.tensors[name].numpy(), plain.tensors[name].numpy())
        want = logits(plain, tokens)
        np.testing.assert_allclose(logits(model, tokens), want, atol=1e-4)
        quantize_model(tmp_path / "packed", tmp_path / "model.gguf", "COPY")
        with open_checkpoint(tmp_path / "model.gguf") as file:
            assert file.tensors["blk.0.ffn_up_exps.weight"].type is QuantType.MXFP4
            np.testing.assert_allclose(logits(file, tokens), want, atol=1e-4)
            found = compare(file, tokens.tolist(), kv_type="f32")
            assert found.first is None, found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("model.layers.0.mlp.experts.down_proj_scales"), "down_proj_scales': the scales of MXFP4"),
        (changed("model.layers.0.mlp.experts.down_proj_scales", lambda x: x[:, 1:]), "does not fit its scales"),
        (changed("model.layers.0.mlp.experts.down_proj_blocks", lambda x: x[..., :8]), "does not fit its scales"),
        (changed("model.layers.0.mlp.experts.gate_up_proj_scales", lambda x: x * 0 + 255), "NaN or infinity"),
    ],
)
def test_mxfp4_that_cannot_be(tmp_path: Path, change: Callable[[Stored], None], words: str) -> None:
    golden = load("gptoss-plain")
    _, packed = mxfp4_model(golden)
    change(packed)
    path = folder(tmp_path / "model", golden, packed, **MXFP4)
    with pytest.raises(FormatError, match=words), open_checkpoint(path) as model:
        logits(model, golden.sequences[2][0], native)


# ---- DeepSeek --------------------------------------------------------------------------------------------------------


def with_kv_b(model: Checkpoint) -> Checkpoint:
    """The older form: one matrix that expands the compressed row to keys and values."""
    metadata = dict(model.metadata)
    for old, new in (("key_length", "key_length_mla"), ("value_length", "value_length_mla")):
        metadata[f"deepseek2.attention.{old}"] = metadata.pop(f"deepseek2.attention.{new}")
    metadata["deepseek2.attention.head_count_kv"] = metadata["deepseek2.attention.head_count"]
    tensors = dict(model.tensors)
    for name in list(tensors):
        if name.endswith("attn_k_b.weight"):
            other = name.replace("attn_k_b", "attn_v_b")
            k, v = tensors.pop(name).numpy(), tensors.pop(other).numpy()
            both = np.concatenate([k.swapaxes(1, 2), v], axis=1)
            both_name = name.replace("attn_k_b", "attn_kv_b")
            tensors[both_name] = tensor(both_name, both.reshape(-1, both.shape[2]))
    return Checkpoint(model.path, metadata, tensors)


@pytest.mark.parametrize("name", ["deepseek2-lite", "deepseek3"])
def test_both_forms_of_compressed_attention(name: str, tmp_path: Path) -> None:
    golden = load(name)
    tokens, expected = golden.sequences[0]
    with open_checkpoint(write_folder(golden, tmp_path / "model")) as model:
        older = with_kv_b(model)
        assert len(build_tape(older).slots) == len(build_tape(model).slots)
        assert build_tape(older).slots[0].heads == 4 and build_tape(model).slots[0].heads == 1
        with open_checkpoint(write_gguf(older, tmp_path / "older.gguf")) as file:
            for engine in (ReferenceEngine, native):
                np.testing.assert_allclose(logits(file, tokens, engine), expected, atol=1e-4)


def test_a_matrix_that_is_not_keys_and_values_of_all_heads(tmp_path: Path) -> None:
    golden, name = load("deepseek2-lite"), "model.layers.1.self_attn.kv_b_proj.weight"
    tensors = stored(golden)
    tensors[name] = tensors[name][1:]
    with pytest.raises(FormatError, match=r"kv_b_proj.* has not the parts that it should have"):
        open_checkpoint(folder(tmp_path / "model", golden, tensors))


def test_layers_that_predict_ahead_are_left_out(tmp_path: Path) -> None:
    golden = load("deepseek3-one-group")
    more = {"model.layers.2.eh_proj.weight": np.ones((64, 128), np.float32)}
    with open_checkpoint(folder(tmp_path / "model", golden, stored(golden) | more)) as model:
        assert not any("blk.2" in name for name in model.tensors)
        np.testing.assert_allclose(logits(model, golden.sequences[1][0]), golden.sequences[1][1], atol=1e-4)


# ---- hyper-parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"expert_used_count": 9}, FormatError, "expert_used_count: a number in 1..8 expected, found 9"),
        ({"expert_count": 1 << 20}, FormatError, "expert_count: a number in 0..1024 expected"),
        ({"expert_gating_func": 4}, UnsupportedError, "expert_gating_func: 1, 2 or 3 expected, found 4"),
        ({"expert_group_count": 3}, FormatError, "1 of 3 groups cannot give 2 of 8"),
        ({"expert_group_count": 8, "expert_group_used_count": 1}, FormatError, "1 of 8 groups cannot give 2 of 8"),
        ({"expert_weights_scale": float("nan")}, FormatError, "expert_weights_scale"),
    ],
)
def test_impossible_hyper_parameters(
    changes: dict[str, Any], error: type[ModelFileError], words: str, tmp_path: Path
) -> None:
    with open_checkpoint(write_folder(load("mixtral"), tmp_path)) as model:
        metadata = {**model.metadata, **{f"llama.{key}": value for key, value in changes.items()}}
        with pytest.raises(error, match=words):
            build_tape(Checkpoint(model.path, metadata, model.tensors))


def test_a_family_without_experts_says_so() -> None:
    config = load("qwen2").config
    metadata = family_named("qwen2").hf_metadata(config)
    with pytest.raises(UnsupportedError, match=r"qwen2\.expert_count: this architecture has no experts"):
        family_named("qwen2").hparams(Fields({**metadata, "qwen2.expert_count": 8}, None, "qwen2."))


# ---- quantizing ------------------------------------------------------------------------------------------------------


def test_stacks_are_quantized_with_importances_of_each_expert(tmp_path: Path) -> None:
    """A mixture of 256 columns in Q4_K_M: every expert by its own importances, router and norms as they are."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 32, "num_hidden_layers": 1}
    golden = load("mixtral")
    d, ff, shapes = 256, 256, {}
    for name, shape in golden.shapes.items():
        if ".layers.1." not in name:
            heads = 4 * 32 if ".q_proj" in name else 2 * 32
            rows = {"w1": ff, "w3": ff, "w2": d, "q_proj": heads, "k_proj": heads, "v_proj": heads, "o_proj": d}
            short = name.removesuffix(".weight").rsplit(".", 1)[-1]
            columns = 128 if short == "o_proj" else d
            shapes[name] = (d,) if len(shape) == 1 else (rows.get(short, shape[0]), columns)
    small = replace(golden, config={**golden.config, **sizes}, shapes=shapes)
    source = write_folder(small, tmp_path / "model")
    rng = np.random.default_rng(6)
    importance = rng.uniform(0.01, 4, (8, d)).astype(np.float32)
    name = "blk.0.ffn_gate_exps.weight"
    sums = {f"{name}.in_sum2": importance * 4, f"{name}.counts": np.full((8, 1), 4, np.float32)}
    imatrix = Checkpoint(Path("imatrix"), {"general.type": "imatrix"}, {n: tensor(n, x) for n, x in sums.items()})
    write_gguf(imatrix, tmp_path / "imatrix.gguf")
    quantize_model(source, tmp_path / "q.gguf", "Q4_K_M", imatrix=tmp_path / "imatrix.gguf")
    with open_checkpoint(source) as floats, open_checkpoint(tmp_path / "q.gguf") as model:
        assert model.tensors["blk.0.ffn_gate_inp.weight"].type is QuantType.F32
        assert model.tensors["blk.0.attn_k.weight"].type is QuantType.Q8_0  # as of every mixture of 8
        gate = model.tensors[name]
        assert gate.type is QuantType.Q4_K and gate.shape == (8, ff, d)
        exact = floats.tensors[name].numpy()
        for expert in (0, 7):
            want = quantize(exact[expert], QuantType.Q4_K, importance[expert])
            np.testing.assert_array_equal(gate.raw().reshape(8, -1)[expert], want.reshape(-1))
        found = compare(model, golden.sequences[1][0].tolist(), kv_type="f32")
        assert found.first is None, found
