"""Every family against Hugging Face transformers: logits of tiny models, from a folder, in one go, in steps and in a mixed
batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from goldens import CONVERTED, Golden, converted, load, names, weight, write_folder
from tiny import batch, write_gguf

import llmq
from llmq.arch import build_tape, family_named, family_of_config
from llmq.arch.fields import Fields
from llmq.engine.base import Batch, Engine
from llmq.engine.native import NativeEngine
from llmq.engine.reference import ReferenceEngine
from llmq.errors import FormatError, ModelFileError, UnsupportedError
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint
from llmq.graph.tape import KIND_NAMES, Tape

Logits = npt.NDArray[np.float32]
ENGINES: list[Callable[..., Engine]] = [
    ReferenceEngine,
    partial(NativeEngine, n_threads=2, kv_type="f32"),
]


def whole(engine: Engine, golden: Golden) -> list[Logits]:
    """Each sequence in one forward pass."""
    return [engine.run(batch((engine.new_sequence(), 0, tokens))) for tokens, _ in golden.sequences]


def stepwise(engine: Engine, golden: Golden) -> list[Logits]:
    """Each sequence token by token."""
    out = []
    for tokens, _ in golden.sequences:
        seq = engine.new_sequence()
        out.append(np.concatenate([engine.run(batch((seq, p, tokens[p : p + 1]))) for p in range(len(tokens))]))
    return out


def mixed(engine: Engine, golden: Golden) -> list[Logits]:
    """All sequences in two batches of uneven parts, their tokens shuffled among each other (in order within a sequence)."""
    out: list[list[Logits]] = [[] for _ in golden.sequences]
    ids = [engine.new_sequence() for _ in golden.sequences]
    cuts = [len(tokens) * 2 // 3 for tokens, _ in golden.sequences]
    halves = [[(0, cut) for cut in cuts], [(cut, len(tokens)) for cut, (tokens, _) in zip(cuts, golden.sequences, strict=True)]]
    rng = np.random.default_rng(3)
    for half in halves:
        plain = batch(*[(seq, a, tokens[a:b]) for seq, (a, b), (tokens, _) in zip(ids, half, golden.sequences, strict=True)])
        owner = rng.permutation(plain.sequences)
        order = np.empty(len(owner), np.int64)
        for seq in ids:
            order[owner == seq] = np.flatnonzero(plain.sequences == seq)
        shuffled = Batch(plain.tokens[order], plain.positions[order], plain.sequences[order], plain.outputs)
        logits = engine.run(shuffled)
        for n, seq in enumerate(ids):
            out[n].append(logits[shuffled.sequences == seq])
    return [np.concatenate(parts) for parts in out]


def rounding(tape: Tape, model: Checkpoint, golden: Golden) -> tuple[list[Logits], float]:
    """The logits computed in float64, and how far float32 may be from them: both engines and transformers round the same
    number of times, so what the reference loses in float32 measures it; 8 covers another order of summation."""
    n_ctx = golden.n_ctx
    with (
        ReferenceEngine(tape, model.tensors, n_ctx=n_ctx, dtype=np.float64) as exact,
        ReferenceEngine(tape, model.tensors, n_ctx=n_ctx) as single,
    ):
        best = whole(exact, golden)
        error = max(float(abs(a - b).max()) for a, b in zip(best, whole(single, golden), strict=True))
    return best, 8 * error


def distance(found: list[Logits], expected: list[Logits]) -> float:
    return max(float(abs(a - b).max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", names("logits"))
def test_golden(name: str, tmp_path: Path) -> None:
    golden = load(name)
    with open_checkpoint(write_folder(golden, tmp_path / "model")) as model:
        tape = build_tape(model, n_ctx=golden.n_ctx)
        exact, bound = rounding(tape, model, golden)
        assert bound < 1e-3
        assert distance([logits for _, logits in golden.sequences], exact) <= bound
        for make in ENGINES:
            with make(tape, model.tensors, n_ctx=golden.n_ctx) as engine:
                for way in (whole, stepwise, mixed):
                    assert distance(way(engine, golden), exact) <= bound, (make, way)
        with open_checkpoint(write_gguf(model, tmp_path / "model.gguf")) as file:
            for make in ENGINES:
                with make(build_tape(file, n_ctx=golden.n_ctx), file.tensors, n_ctx=golden.n_ctx) as engine:
                    assert distance(whole(engine, golden), exact) <= bound, make


@pytest.mark.parametrize("name", sorted(json.loads(CONVERTED.read_text())))
def test_files_of_llama_cpps_converter(name: str, tmp_path: Path) -> None:
    # It makes the tensors that llmq makes of the same folder, and what else it says of them means the same model.
    golden, theirs = load(name), json.loads(CONVERTED.read_text())[name]
    with open_checkpoint(write_folder(golden, tmp_path)) as ours:
        assert converted(ours)["tensors"] == theirs["tensors"]
        said = {
            "tokenizer.ggml.tokens": [""] * golden.config.get("text_config", golden.config)["vocab_size"],
            **theirs["metadata"],
        }
        ours_tape, tape = build_tape(ours, n_ctx=golden.n_ctx), build_tape(replace(ours, metadata=said), n_ctx=golden.n_ctx)
        assert tape.ops["kind"].tolist() == ours_tape.ops["kind"].tolist()
        assert tape.ops["i"].tolist() == ours_tape.ops["i"].tolist()
        assert np.allclose(tape.ops["f"], ours_tape.ops["f"], rtol=1e-6)


def changed(tape: Tape, kind: str, field: str, index: int, value: float) -> Tape:
    ops = tape.ops.copy()
    of_kind = ops["kind"] == KIND_NAMES.index(kind)
    if field in ("i", "f"):
        ops[field][of_kind, index] = value
    else:
        ops[field][of_kind] = value
    return replace(tape, ops=ops)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama-gqa", ("ROPE", "i", 3, 1)),  # the other pairing
        ("qwen2", ("ROPE", "i", 3, 0)),
        ("llama-yarn", ("ROPE", "f", 0, 1.0)),  # without YaRN's temperature
        ("llama-gqa", ("ATTN", "f", 0, 0.2)),
        ("mistral-window", ("ATTN", "i", 4, 10)),  # one position more
        ("qwen3", ("RMSNORM", "f", 0, 1e-2)),
        ("llama-gqa", ("GLU", "i", 0, 1)),
        ("glm4", ("ROPE", "i", 3, 1)),
        ("exaone4-windows", ("ATTN", "i", 4, 8)),
        ("olmo3", ("ROPE", "f", 0, 1.0)),
        ("glm4moe", ("ROUTE", "f", 0, 1.0)),
        ("ernie45moe", ("ROUTE", "i", 5, 0)),
        ("nemotron", ("ACT", "i", 0, 3)),
        ("qwen3next", ("DELTA", "i", 4, 1)),  # heads of a key in turn
        ("qwen35", ("DELTA", "i", 4, 0)),
        ("llama4", ("ATTN", "i", 7, 0)),
        ("llama4", ("ROUTE", "i", 1, 0)),
        ("gemma4", ("ATTN", "i", 4, 0)),
        ("gemma4-keys", ("ATTN", "f", 0, 0.3)),
        ("gemma4-experts", ("ROUTE", "w1", 0, -1)),
    ],
)
def test_goldens_see_every_part(name: str, change: tuple[str, str, int, float], tmp_path: Path) -> None:
    golden = load(name)
    with open_checkpoint(write_folder(golden, tmp_path)) as model:
        tape = build_tape(model, n_ctx=golden.n_ctx)
        exact, bound = rounding(tape, model, golden)
        with ReferenceEngine(changed(tape, *change), model.tensors) as engine:
            assert distance(whole(engine, golden), exact) > 100 * bound


def as_version_4(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json that transformers 4 would have written."""
    old = dict(config)
    rope = dict(old.pop("rope_parameters"))
    if "full_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    old["rope_theta"] = rope.pop("rope_theta")
    old["partial_rotary_factor"] = rope.pop("partial_rotary_factor", None)
    kind = rope.pop("rope_type")
    old["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    old["torch_dtype"] = old.pop("dtype", "float32")
    kinds = old.pop("layer_types", None)
    if {"linear_attention", "conv"} & set(kinds or ()):  # layers of more than attention have always been listed
        names = {} if "linear_num_key_heads" in old else {"linear_attention": "mamba", "full_attention": "attention"}
        old["layer_types"] = [names.get(kind, kind) for kind in kinds]
    return old


@pytest.mark.parametrize(
    "name",  # version 4 does not know Ministral and Gemma 4
    [n for n in names("logits") if "rope_parameters" in load(n).config and n != "ministral" and not n.startswith("gemma4")],
)
def test_configs_of_transformers_4_mean_the_same(name: str) -> None:
    config = load(name).config
    family = family_of_config(config)
    assert family.hf_metadata(as_version_4(config)) == family.hf_metadata(config)


def test_folders_with_pictures_as_transformers_4_wrote_them(tmp_path: Path) -> None:
    """Other prefixes, and for Gemma a config.json that leaves out nearly all."""
    golden = load("gemma3-pictures")
    new = ("model.language_model.", "model.vision_tower.", "model.multi_modal_projector.")
    old = ("language_model.model.", "vision_tower.", "multi_modal_projector.")
    shapes = {}
    for name, shape in golden.shapes.items():
        for a, b in zip(new, old, strict=True):
            name = b + name.removeprefix(a) if name.startswith(a) else name  # noqa: PLW2901
        shapes[name] = shape
    text = golden.config["text_config"]
    few = {key: text[key] for key in ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "sliding_window")}
    few |= {"head_dim": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "query_pre_attn_scalar": 24}
    config = {"model_type": "gemma3", "text_config": few, "vision_config": {}}
    with (
        open_checkpoint(write_folder(golden, tmp_path / "new")) as first,
        open_checkpoint(write_folder(replace(golden, shapes=shapes), tmp_path / "old", config)) as second,
    ):
        assert {n: t.shape for n, t in first.tensors.items()} == {n: t.shape for n, t in second.tensors.items()}
        tapes = [build_tape(model, n_ctx=64) for model in (first, second)]
        assert all(np.array_equal(tapes[0].ops[field], tapes[1].ops[field]) for field in ("kind", "i", "f"))
        assert tapes[0].n_vocab == tapes[1].n_vocab == text["vocab_size"]


def test_experts_as_transformers_4_wrote_them_for_qwen3_vl(tmp_path: Path) -> None:
    golden = load("qwen3-vl-moe")
    turned = {n: (s[0], s[2], s[1]) if ".mlp.experts." in n else s for n, s in golden.shapes.items()}
    down = "model.language_model.layers.1.mlp.experts.down_proj"
    with (
        open_checkpoint(write_folder(golden, tmp_path / "new")) as first,
        open_checkpoint(write_folder(replace(golden, shapes=turned), tmp_path / "old")) as second,
    ):
        assert {n: t.shape for n, t in first.tensors.items()} == {n: t.shape for n, t in second.tensors.items()}
        found = second.tensors["blk.1.ffn_down_exps.weight"].numpy()
        assert np.array_equal(found, weight(down, turned[down]).swapaxes(1, 2))


def test_gemma4_as_on_the_hub(tmp_path: Path) -> None:
    """Widths under other names, and keys and values of layers that read those of another."""
    golden = load("gemma4")
    config = {**golden.config, "global_head_dim": 16}
    del config["per_layer_config"]
    layer = "model.layers.{}.self_attn."
    more = {layer.format(4) + part: golden.shapes[layer.format(1) + part] for part in ("k_proj.weight", "k_norm.weight")}
    with (
        open_checkpoint(write_folder(golden, tmp_path / "new")) as first,
        open_checkpoint(write_folder(replace(golden, shapes=golden.shapes | more), tmp_path / "hub", config)) as second,
    ):
        assert converted(first) == converted(second)
        keys = replace(first.tensors["blk.1.attn_k.weight"], name="blk.4.attn_k.weight")
        tape = build_tape(replace(first, tensors={**first.tensors, keys.name: keys}))
        assert np.array_equal(tape.ops, build_tape(first).ops)
        said = {key: value for key, value in first.metadata.items() if not key.endswith("logit_softcapping")}
        assert 30 in build_tape(replace(first, metadata=said)).ops["f"]  # files that do not say mean that of all Gemma 4
    family = family_of_config(config)
    assert family.hf_metadata({**config, "final_logit_softcapping": None})["gemma4.final_logit_softcapping"] == 0
    for changes, words in (
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"per_layer_config": {"1": {"head_dim": 16}}}, "per_layer_config"),
        ({"per_layer_config": {"1": {"sliding_window": 3}, "4": {"sliding_window": 3}}}, "per_layer_config"),
        ({"vocab_size_per_layer_input": 70}, "vocab_size_per_layer_input"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "proportional expected"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}, "rope_type default expected"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            family.hf_metadata({**config, **changes})
            family.hf_extra_tensors({**config, **changes})
    for changes in ({"layer_types": ["full_attention"]}, {"num_kv_shared_layers": 5}):
        folder = write_folder(golden, tmp_path / next(iter(changes)), {**config, **changes})
        with pytest.raises(ModelFileError), open_checkpoint(folder) as model:
            build_tape(model)


def test_minicpm(tmp_path: Path) -> None:
    """Files without scales mean those of the first models; experts and attention to blocks are refused."""
    golden = load("minicpm")
    with open_checkpoint(write_folder(golden, tmp_path)) as model:
        said = {key: value for key, value in model.metadata.items() if not key.endswith("_scale")}
    hp = family_named("minicpm").hparams(Fields(said, None, "minicpm."))
    assert hp.embedding_scale == 12 and hp.residual_scale == pytest.approx(1.4 / 2**0.5) and hp.logit_scale == 256 / 64
    for changes in ({"num_experts": 8}, {"sparse_config": {"kernel_size": 32}}):
        with pytest.raises(UnsupportedError, match=next(iter(changes))):
            family_of_config(golden.config).hf_metadata({**golden.config, **changes})


def test_files_of_glm_flash_do_not_say_how_experts_are_chosen(tmp_path: Path) -> None:
    with open_checkpoint(write_folder(load("glm4moe-lite"), tmp_path)) as model:
        said = {key: value for key, value in model.metadata.items() if not key.endswith("expert_gating_func")}
    for changes, sigmoid in (({}, False), ({"block_count": 47, "vocab_size": 154880}, True)):
        fields = Fields({**said, **{f"deepseek2.{key}": value for key, value in changes.items()}}, None, "deepseek2.")
        experts = family_named("deepseek2").hparams(fields).experts
        assert experts is not None and experts.sigmoid is sigmoid


@pytest.mark.parametrize(("name", "whole"), [("ministral3", 10), ("llama4", 6)])
def test_queries_grow_from_a_position_on(name: str, whole: int, tmp_path: Path) -> None:
    with open_checkpoint(write_folder(load(name), tmp_path)) as model:
        assert all(w.name != "growth" for w in build_tape(model, n_ctx=whole).weights)
        table = next(w.data for w in build_tape(model, n_ctx=whole + 1).weights if w.name == "growth")
        assert table is not None and (table[:-1] == 1).all() and table[-1] > 1
        with pytest.raises(UnsupportedError, match=r"a context of at most 16777216 \(n_ctx\)"):
            build_tape(model, n_ctx=(1 << 24) + 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts_per_tok": 2},
        {"no_rope_layers": [1, 1, 1, 1, 0]},
        {"layer_types": ["full_attention"] * 5},
        {"moe_layers": [1, 3]},
        {"use_qk_norm": False},
        {"attention_chunk_size": None},
        {"no_rope_layer_interval": 2},
    ],
)
def test_llama4_of_other_layers_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    golden = load("llama4")
    folder = write_folder(golden, tmp_path, {**golden.config, **changes})
    with pytest.raises(UnsupportedError, match="expected"), open_checkpoint(folder) as model:
        build_tape(model)


def test_configs_that_mean_another_model_are_refused(tmp_path: Path) -> None:
    config = load("llama-gqa").config
    family = family_of_config(config)
    for changes, words in (
        ({"hidden_act": "gelu"}, "hidden_act: 'silu' or 'swish' expected, found 'gelu'"),
        (
            {"rope_parameters": {"rope_type": "proportional", "factor": 2.0}},
            "rope_type default, linear, dynamic, llama3, yarn or longrope expected",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            family.hf_metadata({**config, **changes})
    for changes in (
        {"num_attention_heads": "4"},
        {"num_hidden_layers": None},
        {"rope_parameters": [1]},
        {"rms_norm_eps": 10**400},
        {"vocab_size": 10**400},
        {"sliding_window": 2.5},
    ):
        with pytest.raises(FormatError, match=next(iter(changes))):
            family.hf_metadata({**config, **changes})
    folder = write_folder(load("llama-gqa"), tmp_path, {**config, "num_attention_heads": 5, "head_dim": 12})
    with open_checkpoint(folder) as model, pytest.raises(FormatError, match="not 5 heads"):
        model.tensors["blk.0.attn_q.weight"].raw()


def test_broken_values_are_named(tmp_path: Path) -> None:
    pictures, qwen = load("gemma3-pictures"), load("qwen3-vl")
    for n, (golden, changes, words) in enumerate(
        (
            (pictures, {"model_type": ["gemma3"]}, "model_type"),
            (pictures, {"text_config": {**pictures.config["text_config"], "model_type": 3}}, "model_type"),
            (pictures, {"text_config": [1]}, "num_hidden_layers: missing"),
            (qwen, {"text_config": {**qwen.config["text_config"], "rope_parameters": {"mrope_section": "x"}}}, "mrope_section"),
        )
    ):
        folder = write_folder(golden, tmp_path / str(n), {**golden.config, **changes})
        with pytest.raises(ModelFileError, match=words):
            open_checkpoint(folder)
    for name, changes, words in (
        ("glm4moe", {"glm4moe.nextn_predict_layers": 3}, "fewer than the 3 blocks expected"),
        (
            "modernbert",
            {"modern-bert.attention.sliding_window": 1 << 18, "modern-bert.context_length": 1 << 20},
            "at most 131072",
        ),
        ("modernbert", {"modern-bert.hidden_activation": "silu"}, "gelu expected, found 'silu'"),
    ):
        with open_checkpoint(write_folder(load(name), tmp_path / name)) as model:
            changed = replace(model, metadata={**model.metadata, **changes})
            with pytest.raises(ModelFileError, match=words):
                build_tape(changed)


def test_load_builds_for_the_context_that_is_asked_for(tmp_path: Path) -> None:
    golden = load("phi3-short")
    tokens, expected = golden.sequences[0]
    folder = write_folder(golden, tmp_path)
    with llmq.load(folder, n_ctx=golden.n_ctx, engine="reference") as short, llmq.load(folder, engine="reference") as long:
        assert abs(short.logits(tokens.tolist()) - expected).max() < 1e-4
        assert abs(long.logits(tokens.tolist()) - expected).max() > 1e-2
