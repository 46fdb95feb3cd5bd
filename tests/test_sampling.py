"""The sampler chain against its meaning in NumPy, float64, sorting everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmq import _native
from llmq.sampling import Sampling


def philox(seed: int, step: int, stream: int) -> float:
    """Philox 4x32-10 as its paper writes it."""
    mask = 2**32 - 1
    c = [step & mask, step >> 32, stream, 0]
    k = [seed & mask, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return ((c[0] << 32 | c[1]) >> 11) / 2**53


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max())
    return e / e.sum()


def best_first(x: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return ids[np.lexsort((ids, -x[ids]))]


def penalised(s: Sampling, logits: np.ndarray, history: list[int], breakers: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    for token, bias in (s.logit_bias or {}).items():
        x[token] += bias
    window = history if s.repeat_last_n < 0 else history[len(history) - min(s.repeat_last_n, len(history)) :]
    for token in set(window):
        x[token] = x[token] * s.repeat_penalty if x[token] <= 0 else x[token] / s.repeat_penalty
        x[token] -= window.count(token) * s.frequency_penalty + s.presence_penalty
    if s.dry_multiplier:
        past = history if s.dry_last_n < 0 else history[len(history) - min(s.dry_last_n, len(history)) :]
        longest: dict[int, int] = {}
        for end in range(1, len(past)):
            m = 0
            while m < min(end, 50) and past[end - 1 - m] == past[-1 - m] and not breakers[past[-1 - m]]:
                m += 1
            if not breakers[past[end]]:
                longest[past[end]] = max(m, longest.get(past[end], 0))
        for token, m in longest.items():
            if m >= s.dry_allowed_length:
                x[token] -= s.dry_multiplier * s.dry_base ** (m - s.dry_allowed_length)
    return x.astype(np.float32)


def kept(s: Sampling, x: np.ndarray, xtc: bool) -> np.ndarray:
    """Ids that can be drawn, best first (in the order of ids when every cut is off)."""
    ids = best_first(x, np.flatnonzero(x > -np.inf))
    if 0 < s.top_k < len(x):
        ids = ids[: s.top_k]
    if s.typical_p < 1:
        p = softmax(x[ids])
        score = np.abs(-np.log(p) + np.sum(p * np.log(p)))
        order = np.argsort(score, kind="stable")
        n = int(np.argmax(np.cumsum(p[order]) > s.typical_p)) + 1 if p.sum() > s.typical_p else len(ids)
        ids = best_first(x, ids[order[:n]])
    if s.top_p < 1:
        mass = np.cumsum(softmax(x[ids]))
        ids = ids[: int(np.argmax(mass >= s.top_p)) + 1 if mass[-1] >= s.top_p else len(ids)]
    if s.min_p > 0:
        ids = ids[x[ids] >= x[ids[0]] + np.log(s.min_p)]
    if xtc:
        above = int(np.sum(softmax(x[ids]) >= s.xtc_threshold))
        ids = ids[max(above - 1, 0) :]
    off = not 0 < s.top_k < len(x) and s.typical_p >= 1 and s.top_p >= 1 and s.min_p <= 0 and not xtc
    return np.sort(ids) if off else ids


def reference(
    s: Sampling, logits: np.ndarray, history: list[int], step: int, breakers: np.ndarray
) -> tuple[int, float]:
    """The token, and how near the draw was to another one."""
    x = penalised(s, logits, history, breakers)
    if s.temperature < 1e-5:
        return int(np.argmax(x)), 1.0
    assert s.seed is not None
    xtc = s.xtc_probability > 0 and philox(s.seed, step, 1) < s.xtc_probability
    ids = kept(s, x, xtc)
    mass = np.cumsum(softmax(x[ids] / np.float64(s.temperature)))
    u = philox(s.seed, step, 0)
    at = int(np.argmax(mass > u)) if mass[-1] > u else len(ids) - 1
    return int(ids[at]), float(np.min(np.abs(mass - u)))


options = st.fixed_dictionaries(
    {"seed": st.integers(0, 2**64 - 1)},
    optional={
        "temperature": st.sampled_from([0.0, 1e-6, 0.05, 0.7, 1.0, 3.0]),
        "top_k": st.sampled_from([0, 1, 2, 7, 40, 5000]),
        "top_p": st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
        "min_p": st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
        "typical_p": st.sampled_from([0.05, 0.5, 0.95, 1.0]),
        "repeat_penalty": st.sampled_from([0.7, 1.0, 1.3]),
        "repeat_last_n": st.sampled_from([-1, 0, 3, 64]),
        "presence_penalty": st.sampled_from([-1.0, 0.0, 0.7]),
        "frequency_penalty": st.sampled_from([-0.5, 0.0, 0.3]),
        "dry_multiplier": st.sampled_from([0.0, 0.8]),
        "dry_allowed_length": st.sampled_from([1, 2, 4]),
        "dry_last_n": st.sampled_from([-1, 0, 9]),
        "xtc_probability": st.sampled_from([0.0, 0.5, 1.0]),
        "xtc_threshold": st.sampled_from([0.0, 0.05, 0.1, 0.4]),
        "logit_bias": st.dictionaries(st.integers(0, 19), st.sampled_from([-np.inf, -5.0, 0.5, 8.0]), max_size=3),
    },
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(options, st.integers(0, 2**32), st.sampled_from([1, 20, 333, 4096]), st.sampled_from([0.1, 1.0, 40.0]), st.booleans())
def test_chain_is_the_reference(chain: dict, seed: int, n_vocab: int, spread: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(n_vocab) * spread).astype(np.float32)
    if ties:
        logits = np.round(logits)
    history = rng.integers(0, min(n_vocab, 6), rng.integers(0, 60)).tolist()
    breakers = (rng.random(n_vocab) < 0.1).astype(np.uint8)
    chain["logit_bias"] = {k: v for k, v in chain.get("logit_bias", {}).items() if k < n_vocab and n_vocab > 1}
    s = Sampling(**chain)
    sampler = s.sampler(n_vocab, breakers)
    before = logits.copy()
    for step in (0, 1, 2**40):
        token = sampler.sample(logits, np.array(history, np.int32), step)
        expected, margin = reference(s, logits, history, step, breakers)
        if margin > 1e-4:  # else the draw fell on a boundary, where float32 may decide otherwise
            assert token == expected or _on_a_boundary(s, logits, history, breakers)
    assert np.array_equal(logits, before)


def _on_a_boundary(s: Sampling, logits: np.ndarray, history: list[int], breakers: np.ndarray) -> set[int]:
    """What moves when every threshold moves by a rounding error: cuts are sums in float32 there and float64 here."""
    import dataclasses  # noqa: PLC0415

    x = penalised(s, logits, history, breakers)
    found = []
    for shift in (-1e-5, 1e-5):
        moved = dataclasses.replace(
            s,
            typical_p=min(max(s.typical_p + shift, 0.0), 1.0) if s.typical_p < 1 else 1.0,
            top_p=min(max(s.top_p + shift, 0.0), 1.0) if s.top_p < 1 else 1.0,
            min_p=min(max(s.min_p * (1 + shift), 0.0), 1.0),
            xtc_threshold=min(max(s.xtc_threshold + shift, 0.0), 1.0),
        )
        found.append(set(kept(moved, x, s.xtc_probability > 0).tolist()))
    return found[0] ^ found[1]


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampling(seed=3, temperature=1, top_k=0, top_p=1, min_p=0).sampler(4)
    counts = np.bincount([sampler.sample(logits, np.zeros(0, np.int32), i) for i in range(20000)], minlength=4)
    assert np.abs(counts / 20000 - [0.5, 0.3, 0.15, 0.05]).max() < 0.012


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_holds_the_surprise(version: int) -> None:
    rng = np.random.default_rng(5)
    logits = (-1.1 * np.log(np.arange(1, 5001)) + rng.standard_normal(5000) * 0.1).astype(np.float32)  # Zipf, as words are
    surprise = -np.log2(softmax(logits))
    means = []
    for tau in (2.0, 5.0):
        s = Sampling(seed=1, temperature=1, mirostat=version, mirostat_tau=tau)
        sampler = s.sampler(5000)
        drawn = [sampler.sample(logits, np.zeros(0, np.int32), i) for i in range(3000)]
        mu, held = 2 * tau, []
        for token in drawn if version == 2 else ():
            ids = best_first(logits, np.flatnonzero(surprise <= max(mu, surprise.min())))
            assert token in ids
            p = softmax(logits[ids])[np.flatnonzero(ids == token)[0]]
            mu -= 0.1 * (-np.log2(p) - tau)
            held.append(-np.log2(p))
        means.append(np.mean(held) if held else np.mean(surprise[drawn]))
    assert means[1] > means[0] + 1.5
    if version == 2:
        assert abs(means[0] - 2) < 0.1 and abs(means[1] - 5) < 0.1


def test_top_logprobs_are_the_raw_distribution() -> None:
    rng = np.random.default_rng(9)
    for n, k in ((1, 1), (300, 5), (300, 300), (128256, 40), (128256, 0)):
        logits = (rng.standard_normal(n) * 4).astype(np.float32)
        expected = logits - (np.log(np.sum(np.exp(logits.astype(np.float64) - logits.max()))) + logits.max())
        order = best_first(logits, np.arange(n))[:k]
        logprob, top = _native.top_logprobs(logits, n // 2, k)
        assert logprob == pytest.approx(expected[n // 2], abs=1e-5)
        assert [i for i, _ in top] == order.tolist()
        assert [p for _, p in top] == pytest.approx(expected[order].tolist(), abs=1e-5)
    rows = (rng.standard_normal((3, 500)) * 9).astype(np.float32)
    expected = rows[[0, 1, 2], [7, 499, 0]] - np.log(np.sum(np.exp(rows.astype(np.float64)), axis=1))
    assert _native.target_logprobs(rows, np.array([7, 499, 0], np.int32)) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="target"):
        _native.target_logprobs(rows, np.array([7, 500, 0], np.int32))


@pytest.mark.parametrize("at", [0, 15, 16, 700, 999])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits_are_an_error(at: int, bad: float) -> None:
    logits = np.zeros(1000, np.float32)
    logits[at] = bad
    for chain in ({}, {"temperature": 0}, {"top_k": 0, "top_p": 1, "min_p": 0}, {"mirostat": 2}):
        with pytest.raises(ValueError, match="NaN"):
            Sampling(seed=0, **chain).sampler(1000).sample(logits, np.zeros(0, np.int32), 0)
    with pytest.raises(ValueError, match="NaN"):
        _native.top_logprobs(logits, 3, 2)
    with pytest.raises(ValueError, match="above -infinity"):
        Sampling(seed=0).sampler(8).sample(np.full(8, -np.inf, np.float32), np.zeros(0, np.int32), 0)


def test_a_token_outside_the_vocabulary_is_an_error() -> None:
    history = np.array([1, 2, 1000], np.int32)
    for chain in ({"repeat_penalty": 1.1}, {"dry_multiplier": 1.0}):
        with pytest.raises(ValueError, match="range"):
            Sampling(seed=0, **chain).sampler(1000).sample(np.zeros(1000, np.float32), history, 0)
    with pytest.raises(ValueError, match=r"0\.\.999 expected, found 1000"):
        Sampling(seed=0, logit_bias={1000: 1}).sampler(1000)


def test_names_of_other_libraries() -> None:
    s = Sampling(max_new_tokens=5, temp=0.5, repetition_penalty=1.1, rng_seed=-1, stop_strings="x", logit_bias={"7": -1})
    assert (s.max_tokens, s.temperature, s.repeat_penalty, s.seed) == (5, 0.5, 1.1, None)
    assert (s.stop, s.logit_bias) == (("x",), {7: -1.0})
    scalars = Sampling(temperature=np.float32(0.5), top_k=np.int64(3))
    assert scalars == Sampling(temperature=0.5, top_k=3) and type(scalars.temperature) is float
    assert s.replace(n_predict=-1).max_tokens is None and s.replace(n_predict=-1).temperature == 0.5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temprature": 1}, TypeError, "did you mean 'temperature'"),
        ({"max_new_token": 1}, TypeError, "did you mean 'max_tokens'"),
        ({"grammar": "x"}, TypeError, "no option 'grammar'"),
        ({"max_tokens": 1, "num_predict": 2}, TypeError, "given twice, as 'max_tokens' and 'num_predict'"),
        ({"num_predict": 2, "max_tokens": 1}, TypeError, "given twice, as 'num_predict' and 'max_tokens'"),
        ({"temperature": -1}, ValueError, "temperature"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"top_p": 1.5}, ValueError, "0.0 to 1.0"),
        ({"top_p": "1"}, ValueError, "a number"),
        ({"top_k": 1.5}, ValueError, "whole number"),
        ({"top_k": True}, ValueError, "top_k"),
        ({"max_tokens": -2}, ValueError, "max_tokens"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"stop": ["a", ""]}, ValueError, "non-empty"),
        ({"stop": [1]}, ValueError, "stop"),
        ({"stop_token_ids": [-1]}, ValueError, "stop_token_ids"),
        ({"logit_bias": {1: float("inf")}}, ValueError, "logit_bias"),
        ({"logit_bias": {"a": 1}}, ValueError, "logit_bias"),
        ({"logit_bias": {1: 1e39}}, ValueError, "numbers up to"),
        ({"logit_bias": 5}, ValueError, "logit_bias: token ids and numbers"),
        ({"stop": 5}, ValueError, "stop: a sequence"),
        ({"stop_token_ids": 5}, ValueError, "stop_token_ids: a sequence"),
        ({"n": 0}, ValueError, "n: 1 to"),
        ({"mirostat": 3}, ValueError, "mirostat"),
        ({"ignore_eos": 1}, ValueError, "ignore_eos"),
    ],
)
def test_what_is_wrong_is_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Sampling(**options)
    with pytest.raises(error, match=message):
        Sampling().replace(**options)


def test_seeds() -> None:
    assert Sampling(seed=5).seeded(2) == Sampling(seed=7)
    assert len({Sampling().seeded().seed for _ in range(8)}) > 1
    sampler = Sampling(seed=5, temperature=1).sampler(50)
    logits = np.zeros(50, np.float32)
    draws = [sampler.sample(logits, np.zeros(0, np.int32), i) for i in range(40)]
    assert draws == [Sampling(seed=5, temperature=1).sampler(50).sample(logits, np.zeros(0, np.int32), i) for i in range(40)]
    assert len(set(draws)) > 10
