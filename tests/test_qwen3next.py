"""Qwen3-Next and Qwen3.5: what files and folders of theirs may say in other ways, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import packers
import pytest
from goldens import load, weight, write_folder
from tiny import batch, tensor

from llmq.arch import build_tape, family_of_config
from llmq.engine.native import NativeEngine
from llmq.errors import ModelFileError
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint, Tensor

IDS = load("qwen3next").sequences[0][0]


def logits(model: Checkpoint) -> npt.NDArray[np.float32]:
    with NativeEngine(build_tape(model), model.tensors, kv_type="f32", n_threads=1) as engine:
        return engine.run(batch((engine.new_sequence(), 0, IDS)))


def with_keys(model: Checkpoint, keys: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """keys: None takes one out."""
    said = {key: value for key, value in {**model.metadata, **keys}.items() if value is not None}
    return replace(model, metadata=said, tensors=model.tensors if tensors is None else tensors)


def test_first_files_had_the_gate_in_one_matrix_with_the_rest(tmp_path: Path) -> None:
    golden = load("qwen3next")
    with open_checkpoint(write_folder(golden, tmp_path)) as model:
        tensors = dict(model.tensors)
        for i in (0, 2):
            name, fused = f"blk.{i}.ssm_in.weight", f"model.layers.{i}.linear_attn.in_proj_qkvz.weight"
            tensors[name] = tensor(name, weight(fused, golden.shapes[fused]))
            del tensors[f"blk.{i}.attn_qkv.weight"], tensors[f"blk.{i}.attn_gate.weight"]
        assert np.array_equal(logits(with_keys(model, {}, tensors)), logits(model))


def test_layers_that_predict_ahead_are_left_out(tmp_path: Path) -> None:
    golden = load("qwen35")
    more = {"mtp.norm.weight": (64,), "mtp.layers.0.mlp.up_proj.weight": (96, 64), "model.mtp.fc.weight": (64, 128)}
    with (
        open_checkpoint(write_folder(golden, tmp_path / "plain")) as model,
        open_checkpoint(write_folder(replace(golden, shapes=golden.shapes | more), tmp_path / "more")) as same,
    ):
        assert same.tensors.keys() == model.tensors.keys()
        ahead = {name.replace("blk.1.", "blk.3."): value for name, value in model.tensors.items() if "blk.1." in name}
        kinds = [*model.metadata["qwen35.attention.recurrent_layers"], False]  # type: ignore[misc]
        keys = {"block_count": 4, "nextn_predict_layers": 1, "attention.recurrent_layers": kinds}
        longer = with_keys(model, {f"qwen35.{key}": value for key, value in keys.items()}, {**model.tensors, **ahead})
        assert np.array_equal(logits(longer), logits(model))


@pytest.mark.parametrize("period", [None, 2, 4])
def test_layers_with_attention_come_in_a_period(period: int | None) -> None:
    """When they are not listed, in a folder or in a file."""
    config = {**load("qwen3next").config, "layer_types": None, "full_attention_interval": period, "num_hidden_layers": 9}
    family = family_of_config(config)
    said = family.hf_metadata(config)
    assert said["qwen3next.full_attention_interval"] == (period or 4) and "qwen3next.attention.recurrent_layers" not in said
    listed = [(i + 1) % (period or 4) != 0 for i in range(9)]
    kinds = ["linear_attention" if on else "full_attention" for on in listed]
    assert family.hf_metadata({**config, "layer_types": kinds})["qwen3next.attention.recurrent_layers"] == listed


def test_files_without_a_list_have_attention_in_every_fourth(tmp_path: Path) -> None:
    with open_checkpoint(write_folder(load("qwen3next"), tmp_path)) as model:
        with pytest.raises(ModelFileError, match=r"blk\.1\.attn_qkv"):
            build_tape(with_keys(model, {"qwen3next.attention.recurrent_layers": None}))
        with pytest.raises(ModelFileError, match=r"recurrent_layers: 3 times true or false expected"):
            build_tape(with_keys(model, {"qwen3next.attention.recurrent_layers": [True]}))


def test_configs_that_leave_out_what_published_ones_have() -> None:
    whole = load("qwen35moe").config
    few = {key: value for key, value in whole.items() if key != "intermediate_size"}
    few["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e7}
    said = family_of_config(few).hf_metadata(few)
    assert "qwen35moe.feed_forward_length" not in said and said["qwen35moe.rope.dimension_count"] == 8
    assert said["qwen35moe.rope.dimension_sections"] == [11, 11, 10, 0]


def test_files_of_experts_need_no_other_width(tmp_path: Path) -> None:
    with open_checkpoint(write_folder(load("qwen35moe"), tmp_path)) as model:
        assert np.array_equal(logits(with_keys(model, {"qwen35moe.feed_forward_length": None})), logits(model))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("qwen3next", {"layer_types": ["linear_attention", "conv", "full_attention"]}, "linear_attention or full"),
        ("qwen3next", {"layer_types": ["linear_attention"]}, "3 names expected"),
        ("qwen3next", {"full_attention_interval": 0}, "full_attention_interval"),
        ("qwen3next", {"linear_num_key_heads": 3}, "in_proj_qkvz"),
        ("qwen3next", {"linear_num_key_heads": 0}, "linear_num_key_heads"),
        ("qwen3next", {"hidden_act": "gelu"}, "hidden_act"),
        ("qwen35", {"linear_value_head_dim": 2**40}, "linear_value_head_dim"),
        ("qwen35", {"linear_num_value_heads": 2**40}, "linear_num_value_heads|linear_value_head_dim"),
        ("qwen35", {"linear_num_value_heads": 5}, "5 heads in 2 groups"),
        ("qwen35", {"rope_parameters": {"rope_theta": 1.0, "mrope_section": [1, "2"]}}, "mrope_section"),
        ("qwen35moe", {"moe_intermediate_size": "x"}, "moe_intermediate_size"),
    ],
)
def test_configs_that_do_not_fit_are_refused(name: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    golden = load(name)
    with (
        pytest.raises(ModelFileError, match=words),
        open_checkpoint(write_folder(golden, tmp_path, {**golden.config, **changes})) as model,
    ):
        model.tensors["blk.0.attn_qkv.weight"].raw()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ssm.group_count", 4, "group_count"),
        ("ssm.group_count", 3, "attn_qkv"),
        ("ssm.time_step_rank", 5, "divisor of the inner size"),
        ("ssm.state_size", 17, "attn_qkv"),
        ("ssm.state_size", 2**20, "state_size"),
        ("ssm.inner_size", 192, "attn_qkv"),
        ("ssm.conv_kernel", 3, "ssm_conv1d"),
        ("full_attention_interval", 0, "full_attention_interval"),
        ("attention.key_length", 16, "attn_q.weight"),
        ("nextn_predict_layers", 3, "fewer than the 3 blocks"),
    ],
)
def test_files_that_do_not_fit_are_refused(key: str, value: object, words: str, tmp_path: Path) -> None:
    with (
        open_checkpoint(write_folder(load("qwen35"), tmp_path)) as model,
        pytest.raises(ModelFileError, match=words),
    ):
        build_tape(with_keys(model, {f"qwen35.{key}": value}))


@pytest.mark.parametrize("name", ["qwen3next", "qwen35"])
def test_packed_matrices_change_places_as_plain_ones_do(name: str, tmp_path: Path) -> None:
    """Of 8-bit floats in blocks, as published ones are; those of 4-bit integers lose their form where columns change places."""
    golden = load(name)
    plain, packed, moved = {}, {}, {}
    for key, shape in golden.shapes.items():
        plain[key] = packed[key] = moved[key] = weight(key, shape)
        if ".linear_attn." in key and key.endswith(("qkvz.weight", "qkv.weight", "z.weight", "out_proj.weight")):
            parts, plain[key] = packers.fp8(plain[key], (16, 32), name="weight_scale_inv")
            del packed[key], moved[key]
            packed |= {f"{key.removesuffix('.weight')}.{part}": array for part, array in parts.items()}
            parts, _ = packers.gptq(weight(key, shape))
            moved |= {f"{key.removesuffix('.weight')}.{part}": array for part, array in parts.items()}
    settings = {"quant_method": "fp8", "weight_block_size": [16, 32]}
    folders = [write_folder(golden, tmp_path / each) for each in ("plain", "packed", "moved")]
    for folder, tensors in zip(folders, (plain, packed, moved), strict=True):
        packers.save(tensors, folder / "model.safetensors")
    (folders[1] / "config.json").write_text(json.dumps({**golden.config, "quantization_config": settings}))
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    (folders[2] / "config.json").write_text(json.dumps({**golden.config, "quantization_config": settings}))
    with open_checkpoint(folders[0]) as want, open_checkpoint(folders[1]) as found, open_checkpoint(folders[2]) as integers:
        assert found.tensors.keys() == want.tensors.keys() == integers.tensors.keys()
        for key, tensor in want.tensors.items():
            assert np.array_equal(found.tensors[key].numpy(), tensor.numpy()), key
            halves = found.tensors[key].raw().view(np.float16 if found.tensors[key].packed else np.float32)
            assert np.allclose(halves.reshape(tensor.shape), tensor.numpy(), rtol=2**-11, atol=2**-25), key
        assert sum(tensor.packed is not None for tensor in found.tensors.values()) == 6
        kinds = {key: integers.tensors[f"blk.0.{key}.weight"].type.name for key in ("attn_qkv", "attn_gate", "ssm_out")}
        turned = name == "qwen35"
        assert kinds == {"attn_qkv": "Q4_0", "attn_gate": "Q4_0", "ssm_out": "F16" if turned else "Q4_0"}
