"""KL divergence: the definition on small numbers, two real models against each other, refusals, the command."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import fakes
import numpy as np
import pytest
from fakes import N_VOCAB, FakeEngine, FakeTokenizer

import llmq
from llmq.cli import main
from llmq.divergence import PERCENTILES, _compare, _side_by_side
from llmq.model import LLM

STORYTELLER = Path(__file__).parent.parent / "models" / "storyteller"
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. " * 4


def test_the_definition() -> None:
    rng = np.random.default_rng(2)
    p, q = rng.standard_normal((2, 5, 40)).astype(np.float32) * 3
    p[1, 3], q[1, 3] = -np.inf, 2  # what the reference excludes counts nothing
    q[2], follows = p[2] + 1, rng.integers(4, 40, 5)
    divergence, same, log_p, log_q = _compare(p, q, follows.tolist())
    one, other = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True) for x in (p, q))
    with np.errstate(divide="ignore", invalid="ignore"):
        want = np.where(one > 0, one * np.log(one / other), 0).sum(1)
    assert np.allclose(divergence, want, rtol=1e-9, atol=1e-7)
    assert np.array_equal(same, p.argmax(1) == q.argmax(1)) and abs(divergence[2]) < 1e-7
    assert np.allclose(np.exp(log_p), one[np.arange(5), follows]) and np.allclose(np.exp(log_q), other[np.arange(5), follows])


def test_a_perplexity_beyond_all_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "logits_after", lambda tokens: 3e4 * np.arange(N_VOCAB, dtype=np.float32))
    with LLM(FakeEngine(), FakeTokenizer()) as one, LLM(FakeEngine(), FakeTokenizer()) as other:  # type: ignore[arg-type]
        assert one.perplexity(TEXT, n_ctx=32).value == math.inf
        found = llmq.kl_divergence(one, other, TEXT, n_ctx=32)
        assert found.perplexity == math.inf and found.mean == 0


def test_pieces_of_other_lengths_meet() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(12, 1)

    def cut(*lengths: int) -> list[tuple[int, np.ndarray]]:
        ends = np.cumsum(lengths)
        return [(7 + end - n, rows[end - n : end]) for end, n in zip(ends, lengths, strict=True)]

    for one, other in (((12,), (12,)), ((5, 7), (12,)), ((3, 3, 6), (4, 8)), ((1,) * 12, (11, 1))):
        found = list(_side_by_side(iter(cut(*one)), iter(cut(*other)), len(one) > 1))
        assert np.array_equal(np.concatenate([p for _, p, _ in found]), rows)
        assert all(np.array_equal(p, q) and start == 7 + p[0, 0] for start, p, q in found)


def test_two_threads_take_two_models_in_the_same_order() -> None:
    one, other = (LLM(FakeEngine(), FakeTokenizer()) for _ in range(2))  # type: ignore[arg-type]
    started = threading.Barrier(2)

    def work(ref: LLM, model: LLM) -> None:
        started.wait()
        for _ in range(50):
            llmq.kl_divergence(ref, model, TEXT, n_ctx=32)

    both = [threading.Thread(target=work, args=pair, daemon=True) for pair in ((one, other), (other, one))]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert not any(thread.is_alive() for thread in both)
    one.close()
    other.close()


def test_a_quantized_model_against_its_original(tmp_path: Path) -> None:
    for kind in ("Q8_0", "Q3_K_S"):
        llmq.quantize_model(STORYTELLER, tmp_path / kind, kind)
    seen: list[tuple[str, int, int]] = []
    with llmq.load(STORYTELLER, n_batch=16) as ref:
        fine, coarse = (
            llmq.kl_divergence(ref, tmp_path / kind, TEXT, n_ctx=32, max_chunks=2, progress=lambda *x: seen.append(x))
            for kind in ("Q8_0", "Q3_K_S")
        )
        assert seen == [("kl_divergence", i, 2) for i in (1, 2)] * 2
        assert fine.reference_perplexity == pytest.approx(ref.perplexity(TEXT, n_ctx=32, max_chunks=2).value)
        with llmq.load(tmp_path / "Q3_K_S") as model:
            assert coarse.perplexity == pytest.approx(model.perplexity(TEXT, n_ctx=32, max_chunks=2).value, rel=1e-3)
    assert 0 < fine.mean < coarse.mean / 10 and fine.rms_p < coarse.rms_p
    assert fine.same_top >= coarse.same_top and 0 < coarse.error < coarse.mean
    assert list(coarse.percentiles) == list(PERCENTILES)
    assert sorted(coarse.percentiles.values()) == list(coarse.percentiles.values())
    assert coarse.percentiles[0.0] > -1e-6 and coarse.scored_tokens == 30
    assert "KL divergence" in str(coarse) and "median" in str(coarse)
    assert json.loads(json.dumps(coarse.to_dict()))["percentiles"]["99.9"] == coarse.percentiles[99.9]


def test_refusals(tmp_path: Path) -> None:
    with llmq.load(STORYTELLER) as ref:
        with pytest.raises(ValueError, match="one LLM"):
            llmq.kl_divergence(ref, ref, TEXT, n_ctx=32)
        with pytest.raises(ValueError, match="at least one chunk of 64"):
            llmq.kl_divergence(ref, STORYTELLER, "short", n_ctx=64)
        with pytest.raises(llmq.Cancelled, match="after 1 of 2"):
            llmq.kl_divergence(ref, STORYTELLER, TEXT, n_ctx=16, max_chunks=2, progress=lambda *_: False)
        with llmq.load(STORYTELLER) as other:
            other.tokenizer.add_bos = not other.tokenizer.add_bos
            with pytest.raises(ValueError, match="do not share a vocabulary"):
                llmq.kl_divergence(ref, other, TEXT, n_ctx=32)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text(TEXT)
    argv = ["kld", str(STORYTELLER), str(STORYTELLER), str(tmp_path / "text"), "--ctx", "32", "--chunks", "1"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert abs(found["mean"]) < 1e-6 and found["same_top"] == 1 and found["scored_tokens"] == 15
    assert main(argv) == 0
    assert "100.00 ± 0.00 %" in capsys.readouterr().out
    assert main(["kld", str(STORYTELLER), str(tmp_path), str(tmp_path / "text")]) == 1
