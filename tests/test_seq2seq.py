"""Encoder–decoders: against Hugging Face transformers, from a folder and from GGUF, in one go and token by token, with forks;
generating from a text, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from goldens import Golden, load, names, write_folder
from tiny import batch, write_gguf

import llmq
from llmq.arch import build_tape, family_of_config
from llmq.engine.base import Engine
from llmq.engine.compare import compare
from llmq.engine.native import NativeEngine
from llmq.engine.reference import ReferenceEngine
from llmq.errors import ContextOverflowError, FormatError, UnsupportedError
from llmq.formats import open_checkpoint

ENGINES: list[Callable[..., Engine]] = [ReferenceEngine, partial(NativeEngine, n_threads=2, kv_type="f32", n_batch=16)]


def whole(engine: Engine, golden: Golden) -> list[npt.NDArray[np.float32]]:
    """Each pair of texts alone."""
    assert golden.sources is not None
    out = []
    for (tokens, _), source in zip(golden.sequences, golden.sources, strict=True):
        seq = engine.new_sequence()
        engine.encode(seq, source)
        assert (engine.length(seq), engine.source_length(seq)) == (0, len(source))
        out.append(engine.run(batch((seq, 0, tokens))))
        engine.free_sequence(seq)
    return out


def together(engine: Engine, golden: Golden) -> list[npt.NDArray[np.float32]]:
    """All in one batch of halves, the second halves on forks of the first, after the source of another text was replaced."""
    assert golden.sources is not None
    first, second, out = [], [], []
    for (tokens, _), source in zip(golden.sequences, golden.sources, strict=True):
        seq = engine.new_sequence()
        engine.encode(seq, source[::-1].copy())
        engine.encode(seq, source)
        first.append((seq, 0, tokens[: (len(tokens) + 1) // 2]))
    rows = engine.run(batch(*first))
    for (seq, _, head), (tokens, _) in zip(first, golden.sequences, strict=True):
        fork = engine.fork(seq, len(head))
        engine.free_sequence(seq)
        out.append([rows[: len(head)]])
        rows = rows[len(head) :]
        for at in range(len(head), len(tokens)):
            out[-1].append(engine.run(batch((fork, at, tokens[at : at + 1]))))
        second.append(fork)
    for seq in second:
        engine.free_sequence(seq)
    return [np.concatenate(parts) for parts in out]


@pytest.mark.parametrize("name", names("seq2seq"))
def test_golden(name: str, tmp_path: Path) -> None:
    golden = load(name)
    with open_checkpoint(write_folder(golden, tmp_path / "model")) as model:
        assert build_tape(model).has_encoder and build_tape(model).generates
        with open_checkpoint(write_gguf(model, tmp_path / "model.gguf")) as file:
            for checkpoint in (model, file):
                for make in ENGINES:
                    with make(build_tape(checkpoint), checkpoint.tensors) as engine:
                        for way in (whole, together):
                            for found, (_, want) in zip(way(engine, golden), golden.sequences, strict=True):
                                assert abs(found - want).max() < 5e-5, (make, way)
        assert compare(model, golden.sequences[1][0].tolist(), kv_type="f32").first is None


def test_goldens_see_the_text(tmp_path: Path) -> None:
    golden = load("t5-gated")
    assert golden.sources is not None
    tokens, want = golden.sequences[0]
    with open_checkpoint(write_folder(golden, tmp_path)) as model, ReferenceEngine(build_tape(model), model.tensors) as engine:
        seq = engine.new_sequence()
        engine.encode(seq, golden.sources[0][:-1])
        assert abs(engine.run(batch((seq, 0, tokens))) - want).max() > 1e-2


def test_llama_cpps_files_say_less(tmp_path: Path) -> None:
    """Without our keys: as many blocks in the decoder, buckets up to 128, tied logits scaled."""
    golden = load("t5")
    assert golden.sources is not None
    with open_checkpoint(write_folder(golden, tmp_path)) as model:
        for key in ("t5.decoder_block_count", "t5.attention.relative_max_distance", "t5.logit_scale"):
            del model.metadata[key]
        with ReferenceEngine(build_tape(model), model.tensors) as engine:
            for found, (_, want) in zip(whole(engine, golden), golden.sequences, strict=True):
                assert abs(found - want).max() < 5e-5


@pytest.mark.parametrize("make", ENGINES)
def test_rules_of_encode(make: Callable[..., Engine], tmp_path: Path) -> None:
    golden = load("t5")
    with open_checkpoint(write_folder(golden, tmp_path / "t5")) as model, make(build_tape(model), model.tensors) as engine:
        seq = engine.new_sequence()
        with pytest.raises(ValueError, match="the encoder must run first"):
            engine.run(batch((seq, 0, [1])))
        for tokens in ([71], []):
            with pytest.raises(ValueError, match="batch"):
                engine.encode(seq, np.array(tokens, np.int32))
        assert engine.source_length(seq) == 0
        engine.encode(seq, np.array([3, 4], np.int32))
        engine.run(batch((seq, 0, [1])))
        with pytest.raises(ValueError, match="empty sequence"):
            engine.encode(seq, np.array([3], np.int32))
        engine.truncate(seq, 0)
        assert engine.source_length(seq) == 2
    with (
        open_checkpoint(write_folder(load("llama-gqa"), tmp_path / "llama")) as model,
        make(build_tape(model), model.tensors) as engine,
        pytest.raises(ValueError, match="encoder–decoder expected"),
    ):
        engine.encode(engine.new_sequence(), np.array([3], np.int32))


def greedy(engine: Engine, source: list[int], n: int) -> list[int]:
    seq = engine.new_sequence()
    engine.encode(seq, np.array(source, np.int32))
    tokens = [0]
    for at in range(n):
        tokens.append(int(engine.run(batch((seq, at, tokens[-1:])))[0].argmax()))
    return tokens[1:]


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_generate(engine: Any, tmp_path: Path) -> None:
    golden = load("t5-gated")
    folder = write_folder(golden, tmp_path)
    sources = [[3, 4, 5], [3, 4, 5, 6, 7, 8, 9], [3, 4, 5], [9]]
    with open_checkpoint(folder) as model, ReferenceEngine(build_tape(model), model.tensors) as exact:
        want = [greedy(exact, source, 8) for source in sources]
    options = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
    with llmq.load(folder, engine=engine, **({} if engine == "reference" else {"kv_type": "f32"})) as llm:
        done = llm.generate_batch(sources, **options)
        assert [list(c.tokens) for c in done] == want and len({tuple(w) for w in want}) > 1
        assert [c.usage.prompt_tokens for c in done] == [4, 8, 4, 2]
        again = llm.generate(sources[1], **options)  # the same text: nothing is encoded again
        assert list(again.tokens) == want[1]
        streamed = [t for chunk in llm.stream(sources[3], **options) for t in chunk.tokens]
        assert streamed == want[3]


def test_what_is_refused(tmp_path: Path) -> None:
    folder = write_folder(load("t5"), tmp_path)
    with llmq.load(folder, n_ctx=16) as llm:
        with pytest.raises(ContextOverflowError, match="17 tokens"):
            llm.generate([1] * 17)
        assert len(llm.generate([1] * 30, overflow="truncate_left", max_tokens=2, ignore_eos=True).tokens) == 2
        for use in (lambda: llm.logits([1, 2]), lambda: llm.embed(["a"])):
            with pytest.raises(ValueError, match=r"encoder–decoder"):
                use()
    config = load("t5").config
    family = family_of_config(config)
    with pytest.raises(UnsupportedError, match="feed_forward_proj"):
        family.hf_metadata({**config, "feed_forward_proj": "gated-silu"})
    with open_checkpoint(folder) as model:
        model.metadata["t5.block_count"] = 3
        with pytest.raises(FormatError, match=r"enc\.blk\.2"):
            build_tape(model)
