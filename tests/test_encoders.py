"""Models that turn texts into vectors or scores: against Hugging Face transformers, from a folder and from GGUF, alone and
packed together; `embed`, `rerank` and what they refuse."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from goldens import Golden, load, names, write_folder
from tiny import batch, checkpoint, tensor, write_gguf

import llmq
from llmq.arch import build_tape, family_of_config
from llmq.cli import main
from llmq.engine.base import Batch, Engine
from llmq.engine.compare import compare
from llmq.engine.native import NativeEngine
from llmq.engine.reference import ReferenceEngine
from llmq.errors import ContextOverflowError, FormatError, UnsupportedError
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint, Tensor
from llmq.graph.tape import Tape

ENGINES: list[Callable[[Tape, Mapping[str, Tensor]], Engine]] = [
    ReferenceEngine,
    partial(NativeEngine, n_threads=2, kv_type="f32", n_batch=16),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", "##s", "##ning", "cat", "dog", "run", "the"]
WORDPIECE = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": w, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, w in enumerate(SPECIAL)
    ],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {w: i for i, w in enumerate(WORDS)},
    },
}


def folder_of(name: str, path: Path, pooling: str | None = None) -> Path:
    """A golden's model as a folder with a WordPiece vocabulary; `pooling` names a mode of sentence-transformers."""
    folder = write_folder(load(name), path)
    (folder / "tokenizer.json").write_text(json.dumps(WORDPIECE))
    special = {f"{word[1:-1].lower()}_token": word for word in SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **special}))
    if pooling is not None:
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        modules = [{"idx": i, "path": p, "type": f"sentence_transformers.models.{kind}"} for i, (p, kind) in enumerate(kinds)]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": False, pooling: True}))
    return folder


def outputs(engine: Engine, golden: Golden) -> list[npt.NDArray[np.float32]]:
    """What the engine makes of every sequence: by itself, and all of them in one batch, shuffled among each other."""
    firsts = [slice(None) if golden.kind == "hidden" else slice(0, 1)] * len(golden.sequences)
    kinds = golden.types or [np.zeros(len(tokens), np.int32) for tokens, _ in golden.sequences]
    out = []
    parts = []
    for (tokens, _), types, rows in zip(golden.sequences, kinds, firsts, strict=True):
        alone = batch((engine.new_sequence(), 0, tokens))
        out.append(engine.run(Batch(alone.tokens, alone.positions, alone.sequences, alone.outputs, types))[rows])
        parts.append((engine.new_sequence(), 0, tokens))
    plain = batch(*parts)
    owner = np.random.default_rng(2).permutation(plain.sequences)
    order = np.empty(len(owner), np.int64)
    for seq, _, _ in parts:
        order[owner == seq] = np.flatnonzero(plain.sequences == seq)
    types = np.concatenate(kinds)[order]
    mixed = Batch(plain.tokens[order], plain.positions[order], plain.sequences[order], plain.outputs, types)
    states = engine.run(mixed)
    return out + [states[mixed.sequences == seq][rows] for (seq, _, _), rows in zip(parts, firsts, strict=True)]


@pytest.mark.parametrize("name", names("hidden", "scores"))
def test_golden(name: str, tmp_path: Path) -> None:
    golden = load(name)
    expected = [states for _, states in golden.sequences] * 2
    with open_checkpoint(write_folder(golden, tmp_path / "model")) as model:
        tape = build_tape(model)
        assert (tape.output, tape.generates, tape.causal) == (golden.kind, False, False)
        with open_checkpoint(write_gguf(model, tmp_path / "model.gguf")) as file:
            for checkpoint_ in (model, file):
                for make in ENGINES:
                    with make(build_tape(checkpoint_), checkpoint_.tensors) as engine:
                        for found, want in zip(outputs(engine, golden), expected, strict=True):
                            assert found.shape == want.shape and abs(found - want).max() < 2e-5 * max(1, abs(want).max())
        assert compare(model, golden.sequences[0][0].tolist(), kv_type="f32").first is None


def test_goldens_see_types_and_later_tokens(tmp_path: Path) -> None:
    golden = load("bert-rank")
    tokens, want = golden.sequences[0]
    with open_checkpoint(write_folder(golden, tmp_path)) as model, ReferenceEngine(build_tape(model), model.tensors) as engine:
        untyped = engine.run(batch((engine.new_sequence(), 0, tokens)))
        shorter = engine.run(batch((engine.new_sequence(), 0, tokens[:-1])))
    assert abs(untyped[0] - want[0]).max() > 1e-3 and abs(shorter[0] - untyped[0]).max() > 1e-3


def test_types_are_checked(tmp_path: Path) -> None:
    with open_checkpoint(write_folder(load("bert"), tmp_path)) as model:
        for make in ENGINES:
            with make(build_tape(model), model.tensors) as engine:
                good = batch((engine.new_sequence(), 0, [5, 6]))
                for types in ([0, 2], [0, -1], [0]):
                    bad = Batch(good.tokens, good.positions, good.sequences, good.outputs, np.array(types, np.int32))
                    with pytest.raises(ValueError, match=r"batch\.types"):
                        engine.run(bad)


@pytest.mark.parametrize("name", ["llama-gqa", "gemma2", "granite", "phi"])
def test_hidden_states_of_decoders(name: str, tmp_path: Path) -> None:
    """The logits are the final hidden state through the output matrix, whatever the family does on the way."""
    golden = load(name)
    tokens, logits = golden.sequences[0]
    with open_checkpoint(write_folder(golden, tmp_path)) as model:
        tape = build_tape(model)
        matrix = model.tensors.get("output.weight", model.tensors["token_embd.weight"]).numpy()
        bias = model.tensors["output.bias"].numpy() if "output.bias" in model.tensors else 0
        scale, cap = model.metadata.get("granite.logit_scale", 1.0), model.metadata.get("gemma2.final_logit_softcapping")
        for make in ENGINES:
            with make(tape, model.tensors) as engine:
                seq = engine.new_sequence()
                states = engine.run(batch((seq, 0, tokens)), hidden=True)
                assert states.shape == (len(tokens), tape.n_embd)
                found = (states @ matrix.T + bias) / scale
                found = found if cap is None else cap * np.tanh(found / cap)
                assert abs(found - logits).max() < 1e-4
                some = engine.run(batch((engine.new_sequence(), 0, tokens), outputs=[3, 7]), hidden=True)
                assert abs(some - states[[3, 7]]).max() < 1e-5
                engine.truncate(seq, len(tokens) - 1)  # the state that a hidden run leaves serves the next one
                assert abs(engine.run(batch((seq, len(tokens) - 1, tokens[-1:]))) - logits[-1]).max() < 1e-4


TEXTS = ["the cat", "a dog runs", "", "running the running dogs and cats, zebras", "x"]


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "none"])
def test_embed(engine: Any, pooling: Any, tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path)
    with llmq.load(folder, engine=engine, n_batch=11) as llm, open_checkpoint(folder) as model:
        plain = llm.embed(TEXTS, pooling=pooling, normalize=False)
        unit = llm.embed(TEXTS, pooling=pooling)
        rule: dict[str, Callable[[Any], Any]] = {"mean": lambda x: x.mean(0), "cls": lambda x: x[0], "last": lambda x: x[-1]}
        with ReferenceEngine(build_tape(model), model.tensors) as exact:
            for n, text in enumerate(TEXTS):
                states = exact.run(batch((exact.new_sequence(), 0, llm.tokenize(text))))
                want = rule.get(pooling, lambda x: x)(states)
                assert abs(plain[n] - want).max() < 0.05  # keys and values are bfloat16 here
                assert np.allclose(unit[n], plain[n] / np.linalg.norm(plain[n], axis=-1, keepdims=True), atol=1e-6)
                assert np.allclose(llm.embed(text, pooling=pooling, normalize=False), plain[n], atol=1e-5)
        if pooling != "none":
            assert isinstance(unit, np.ndarray) and unit.dtype == np.float32 and unit.shape == (len(TEXTS), 64)
            empty = llm.embed([], pooling=pooling)
            assert isinstance(empty, np.ndarray) and empty.shape == (0, 64)
        assert np.allclose(llm.embed([llm.tokenize(TEXTS[0])], pooling=pooling)[0], unit[0], atol=1e-5)


def test_the_file_says_how_to_pool(tmp_path: Path) -> None:
    for key, pooling in (("pooling_mode_cls_token", "cls"), ("pooling_mode_lasttoken", "last"), (None, "mean")):
        folder = folder_of("bert", tmp_path / pooling, key)
        with open_checkpoint(folder) as model:
            file = write_gguf(model, tmp_path / f"{pooling}.gguf")
        for src in (folder, file):
            with llmq.load(src) as llm:
                assert llm.pooling == pooling
                assert np.array_equal(llm.embed(["the cat"]), llm.embed(["the cat"], pooling=llm.pooling))  # type: ignore[arg-type]
    with open_checkpoint(write_folder(load("llama-gqa"), tmp_path / "decoder")) as model:
        with llmq.load(model.path) as llm:
            assert llm.pooling == "last" and llm.embed([[1, 2]]).shape == (1, 64)  # type: ignore[union-attr]
        model.metadata["llama.pooling_type"] = 1
        with llmq.load(write_gguf(model, tmp_path / "mean.gguf")) as llm:
            assert llm.pooling == "mean"
        model.metadata["llama.pooling_type"] = 9
        with pytest.raises(FormatError, match="pooling_type: 0 to 4 expected, found 9"):
            llmq.load(write_gguf(model, tmp_path / "nine.gguf"))


def test_sentence_transformers_folders_that_do_more_are_refused(tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path, "pooling_mode_max_tokens")
    with pytest.raises(UnsupportedError, match="mean, first or last"):
        llmq.load(folder)
    for module, error, words in (
        ({"type": "sentence_transformers.models.Dense", "path": "2_Dense"}, UnsupportedError, "Dense"),
        ({"type": "sentence_transformers.models.Pooling", "path": "../elsewhere"}, FormatError, "beside this file"),
        ({"path": "1_Pooling"}, FormatError, "no module with a type"),
    ):
        (folder / "modules.json").write_text(json.dumps([module]))
        with pytest.raises(error, match=words):
            llmq.load(folder)


def test_what_an_encoder_cannot_do(tmp_path: Path) -> None:
    with llmq.load(folder_of("bert", tmp_path)) as llm:
        for use in (
            lambda: llm.generate("the cat"),
            lambda: llm.stream("the cat"),
            lambda: llm.logits([1, 2]),
            lambda: llm.perplexity("the cat " * 20, n_ctx=16),
        ):
            with pytest.raises(ValueError, match=r"is an encoder .bert.: .* use embed"):
                use()
        with pytest.raises(ValueError, match="'none', 'mean', 'cls', 'last' expected; found 'max'"):
            llm.embed(["a"], pooling="max")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="text 1 has no tokens"):
            llm.embed([[1], []])
        with pytest.raises(ContextOverflowError, match="49 tokens but the context holds 48"):
            llm.embed(["a", [1] * 49])
        with pytest.raises(ValueError, match="a head that scores"):
            llm.rerank("a", ["b"])
        assert llm.embed(["a"]).shape == (1, 64)  # type: ignore[union-attr]
    with pytest.raises(llmq.ModelClosedError):
        llm.embed(["a"])


def test_rerank(tmp_path: Path) -> None:
    folder = folder_of("bert-rank", tmp_path / "one")
    docs = ["cats", "the dog runs", "", "a running cat in the zoo"]
    with llmq.load(folder, n_batch=24) as llm, open_checkpoint(folder) as model:
        assert llm.pooling == "rank"
        scores = llm.rerank("the cat", docs)
        assert scores.shape == (4,) and scores.dtype == np.float32 and np.ptp(scores) > 0.01
        with ReferenceEngine(build_tape(model), model.tensors) as exact:
            for doc, score in zip(docs, scores, strict=True):
                first, second = llm.tokenize("the cat"), llm.tokenize(doc, add_special=False)
                ids = [*first, *second, 3]
                plain = batch((exact.new_sequence(), 0, ids))
                types = np.repeat(np.array([0, 1], np.int32), [len(first), len(second) + 1])
                want = exact.run(Batch(plain.tokens, plain.positions, plain.sequences, plain.outputs, types))[0, 0]
                assert abs(want - score) < 0.02
        with pytest.raises(ValueError, match="this model ranks"):
            llm.embed(docs)
        assert llm.embed(docs, pooling="cls").shape == (4, 64)  # type: ignore[union-attr]
    with llmq.load(folder_of("bert-labels", tmp_path / "three")) as llm, pytest.raises(ValueError, match="gives 3 labels"):
        llm.rerank("the cat", docs)
    with open_checkpoint(tmp_path / "three") as model:
        assert model.metadata["bert.classifier.output_labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_positions_of_roberta_begin_after_the_padding(tmp_path: Path) -> None:
    golden = load("roberta")
    with open_checkpoint(write_folder(golden, tmp_path / "a")) as model:
        assert model.metadata["bert.context_length"] == 46
        assert model.tensors["position_embd.weight"].shape == (46, 64)
    folder = write_folder(golden, tmp_path / "b", {**golden.config, "pad_token_id": 47})
    with pytest.raises(FormatError, match=r"max_position_embeddings|has 48 rows"):
        open_checkpoint(folder)


def test_nomic_configs_of_both_kinds_mean_the_same() -> None:
    new = load("nomic-bert").config
    old = {
        "model_type": "nomic_bert", "n_embd": 64, "n_head": 4, "n_inner": 96, "n_layer": 2, "n_positions": 48,
        "layer_norm_epsilon": 1e-12, "rotary_emb_base": 50, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
        "activation_function": "swiglu", "prenorm": False, "causal": False, "type_vocab_size": 2, "vocab_size": 71,
    }  # fmt: skip
    family = family_of_config(new)
    found, want = family.hf_metadata(old), family.hf_metadata(new)
    assert {k: v for k, v in want.items() if k in found} == found and {k for k in want if k not in found} <= {
        "nomic-bert.attention.key_length",
        "nomic-bert.attention.value_length",
    }
    assert family.hf_metadata({**old, "n_positions": 8192, "max_trained_positions": 2048})["nomic-bert.context_length"] == 2048
    with pytest.raises(UnsupportedError, match="rotary_emb_interleaved"):
        family.hf_metadata({**old, "rotary_emb_interleaved": True})


def test_openai_embeddings(tmp_path: Path) -> None:
    with llmq.load(folder_of("bert", tmp_path)) as llm:
        vectors = llm.embed(["the cat", "a dog"])
        out = llm.create_embedding(input=["the cat", "a dog"], model="m")
        assert (out["object"], out["model"], out["usage"]) == ("list", "m", {"prompt_tokens": 8, "total_tokens": 8})
        assert [row["index"] for row in out["data"]] == [0, 1]
        assert np.allclose([row["embedding"] for row in out["data"]], vectors, atol=1e-6)
        coded = llm.create_embedding(input="the cat", encoding_format="base64", dimensions=64)["data"][0]["embedding"]
        assert np.allclose(np.frombuffer(base64.b64decode(coded), "<f4"), vectors[0], atol=1e-6)
        for fields, words in (
            ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
            ({"input": "a", "dimensions": 32}, "dimensions: 64 expected"),
        ):
            with pytest.raises(ValueError, match=words):
                llm.create_embedding(**fields)
        with pytest.raises(TypeError, match="input is missing"):
            llm.create_embedding()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of("bert", tmp_path / "embed")
    with llmq.load(folder) as llm:
        vectors = llm.embed(["the cat", "a dog"])
    assert main(["embed", str(folder), "the cat", "a dog"]) == 0
    assert np.allclose([[float(x) for x in line.split()] for line in capsys.readouterr().out.splitlines()], vectors, atol=1e-5)
    assert main(["embed", str(folder), "the cat", "--json", "--pooling", "cls", "--raw"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["pooling"] == "cls" and np.linalg.norm(out["embeddings"][0]) > 1.5
    ranker = folder_of("bert-rank", tmp_path / "rank")
    assert main(["embed", str(ranker), "cats", "the dog runs", "--rerank", "the cat", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [r["score"] for r in results] == sorted((r["score"] for r in results), reverse=True)
    assert {r["text"]: r["index"] for r in results} == {"cats": 0, "the dog runs": 1}


def test_a_decoder_that_sees_later_tokens_cannot_generate(tmp_path: Path) -> None:
    model: Checkpoint = checkpoint()
    model.metadata |= {"llama.attention.causal": False}
    tape = build_tape(model)
    assert not tape.causal and not tape.generates and build_tape(checkpoint()).generates


def test_matrices_after_the_mean(tmp_path: Path) -> None:
    # gemma-embedding: the GGUF may hold two of them; they turn the mean of the states as they turn every state.
    golden = load("embedding-gemma")
    rng = np.random.default_rng(4)
    first, second = (rng.standard_normal(shape).astype(np.float32) / 8 for shape in ((96, 64), (64, 96)))
    with open_checkpoint(write_folder(golden, tmp_path / "model")) as model:
        more = {"dense_2.weight": tensor("dense_2.weight", first), "dense_3.weight": tensor("dense_3.weight", second)}
        with open_checkpoint(write_gguf(replace(model, tensors={**model.tensors, **more}), tmp_path / "model.gguf")) as file:
            for make in ENGINES:
                with make(build_tape(file), file.tensors) as engine:
                    for found, (_, states) in zip(outputs(engine, golden), golden.sequences, strict=False):
                        mean = second @ (first @ states.mean(axis=0, dtype=np.float64))
                        assert abs(found.mean(axis=0) - mean).max() < 1e-4 * abs(mean).max()
