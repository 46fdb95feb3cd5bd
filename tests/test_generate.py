"""Generating text: stops, streams, limits, seeds, log-probabilities, on a model without weights; and the storyteller on both
engines."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import BOS, EOS, N_VOCAB, FakeEngine, FakeTokenizer, logits_after

import llmq
from llmq import LLM, ChatTemplateError, ContextOverflowError, Sampling

STORYTELLER = Path(__file__).parent.parent / "models" / "storyteller"


class Script(FakeEngine):
    """Says `text` after whatever prompt, then EOS."""

    def __init__(self, text: str, n_ctx: int = 4096) -> None:
        super().__init__(n_ctx)
        self.said = [*text.encode(), EOS]
        self.prompts: dict[int, int] = {}

    def run(self, batch):  # type: ignore[no-untyped-def]
        logits = super().run(batch)
        for row, t in enumerate(batch.outputs.tolist()):
            seq = int(batch.sequences[t])
            length = len(self._tokens[seq])
            start = self.prompts.setdefault(seq, length)
            logits[row] = 0
            logits[row, self.said[min(length - start, len(self.said) - 1)]] = 50
        return logits


def says(text: str) -> LLM:
    return LLM(Script(text), FakeTokenizer())  # type: ignore[arg-type]


@pytest.fixture
def llm() -> Iterator[LLM]:
    with LLM(FakeEngine(), FakeTokenizer()) as model:  # type: ignore[arg-type]
        yield model


@pytest.mark.parametrize(
    ("stop", "text", "finish"),
    [
        ((), "one two\n\nthree 🙂 four", "stop"),
        ("two", "one ", "stop"),
        (("\n\n",), "one two", "stop"),
        (("\n\nthx", "four", "🙂"), "one two\n\nthree ", "stop"),
        (("nothing",), "one two\n\nthree 🙂 four", "stop"),
    ],
)
def test_stop_strings_across_tokens(stop: str | tuple[str, ...], text: str, finish: str) -> None:
    done = says("one two\n\nthree 🙂 four").generate("p", stop=stop, temperature=0)
    assert (done.text, done.finish_reason) == (text, finish)
    chunks = list(says("one two\n\nthree 🙂 four").stream("p", stop=stop, temperature=0))
    assert "".join(c.text for c in chunks) == text and "\ufffd" not in text
    assert all("\ufffd" not in c.text for c in chunks), "a stream never splits a character"
    assert [c.finish_reason for c in chunks] == [*[None] * (len(chunks) - 1), "stop"]
    assert tuple(t for c in chunks for t in c.tokens) == done.tokens


def test_a_stream_withholds_only_what_may_become_a_stop() -> None:
    chunks = [c.text for c in says("ab<|en|>cd<|end|>ef").stream("p", stop="<|end|>", temperature=0)]
    assert "".join(chunks) == "ab<|en|>cd" and chunks[:2] == ["a", "b"] and "<|en|" in chunks[2]


def test_an_unfinished_character_comes_at_the_end() -> None:
    done = says("é" * 3).generate("p", max_tokens=3, temperature=0)
    assert done.text == "é\ufffd" and done.finish_reason == "length" and len(done.tokens) == 3


def test_stop_ids_and_end_of_generation() -> None:
    done = says("abcdef").generate("p", temperature=0, stop_token_ids=[ord("d")])
    assert (done.text, done.finish_reason, done.usage.completion_tokens) == ("abc", "stop", 3)
    on = says("ab").generate("p", temperature=0, ignore_eos=True, max_tokens=5)
    assert (on.text, on.finish_reason, on.tokens[2:]) == ("ab", "length", (EOS, EOS, EOS))
    with pytest.raises(ValueError, match="stop_token_ids"):
        says("").generate("p", stop_token_ids=[N_VOCAB])


def test_limits(llm: LLM) -> None:
    assert llm.generate("p", max_tokens=0).finish_reason == "length"
    done = llm.generate([BOS] * 500, seed=1, ignore_eos=True)
    assert done.finish_reason == "length" and done.usage.total_tokens == llm.n_ctx == 512
    with pytest.raises(ContextOverflowError) as info:
        llm.stream([BOS] * 512)
    assert (info.value.prompt_tokens, info.value.n_ctx) == (512, 512)
    cut = llm.generate([BOS, *range(97, 123)] * 40, overflow="truncate_left", max_tokens=12, seed=1, ignore_eos=True)
    assert cut.usage.prompt_tokens == 500 and len(cut.tokens) == 12
    for options, message in (({"overflow": "shift"}, "max_tokens"), ({"overflow": "drop"}, "truncate_left")):
        with pytest.raises(ValueError, match=message):
            llm.generate("p", **options)


def test_seeds_repeat_and_are_reported(llm: LLM) -> None:
    first = llm.generate("p", max_tokens=30, temperature=2)
    again = llm.generate("p", max_tokens=30, temperature=2, seed=first.seed)
    assert first.tokens == again.tokens
    assert len({llm.generate("p", max_tokens=30, temperature=2).tokens for _ in range(5)}) > 1


def test_logprobs_are_those_of_the_model(llm: LLM) -> None:
    done = llm.generate("p", seed=4, max_tokens=6, logprobs=3, temperature=1.5, logit_bias={101: 4}, ignore_eos=True)
    assert done.logprobs is not None and [t.token for t in done.logprobs] == list(done.tokens)
    context = [BOS, ord("p")]
    for entry in done.logprobs:
        logits = logits_after(context).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        assert entry.logprob == pytest.approx(expected[entry.token], abs=1e-4)
        assert [i for i, _ in entry.top] == np.argsort(-expected)[:3].tolist()
        context.append(entry.token)
    chunks = list(llm.stream("p", seed=4, max_tokens=6, logprobs=3, temperature=1.5, logit_bias={101: 4}, ignore_eos=True))
    assert tuple(itertools.chain.from_iterable(c.logprobs or () for c in chunks)) == done.logprobs
    assert llm.generate("p", max_tokens=1).logprobs is None


def test_logit_bias_and_penalties_reach_the_sampler(llm: LLM) -> None:
    only = llm.generate("p", max_tokens=5, logit_bias={65: 200}, ignore_eos=True)
    assert only.text == "AAAAA"
    tired = llm.generate("p", max_tokens=5, logit_bias={65: 200}, presence_penalty=100, frequency_penalty=100, ignore_eos=True)
    assert tired.text.count("A") < 5
    s = Sampling(seed=0, temperature=0, dry_multiplier=50, dry_sequence_breakers=("x",))
    logits = np.zeros(N_VOCAB, np.float32)
    logits[[ord("c"), ord("d")]] = 9, 8
    for history, expected in (("abcab", "d"), ("abcxab", "d"), ("abcxb", "c"), ("abcax", "c"), ("xab", "c")):
        breakers = llm._dry_breakers(s)
        assert chr(s.sampler(N_VOCAB, breakers).sample(logits, array("i", list(history.encode())), 0)) == expected, history


def test_prompts(llm: LLM) -> None:
    assert llm.generate("p", seed=1, max_tokens=5).tokens == llm.generate([BOS, 112], seed=1, max_tokens=5).tokens
    for bad, error in (([], ValueError), ([1, N_VOCAB], ValueError), ([-1], ValueError), (["a", "b"], TypeError)):
        with pytest.raises(error):
            llm.generate(bad)
    ids = np.array([BOS, 112], np.uint16)
    assert llm.generate(ids, seed=1, max_tokens=5).tokens == llm.generate("p", seed=1, max_tokens=5).tokens
    for no_prompt in (None, 5, b"p", [1.5], [[1]], [1, "a"]):
        with pytest.raises(TypeError, match="token ids"):
            llm.generate(no_prompt)
    with pytest.raises(TypeError, match="token ids expected, found str"):
        llm.logits("p")
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        llm.generate("p", temprature=1)
    with pytest.raises(TypeError, match="one string"):
        llm.generate_batch("p")
    with pytest.raises(ValueError, match="n=1"):
        llm.stream("p", n=2)
    assert llm.generate_batch([]) == []


def test_chat() -> None:
    llm = says("Hello!")
    with pytest.raises(ChatTemplateError, match="no chat template"):
        llm.chat([{"role": "user", "content": "Hi"}])
    tokenizer = FakeTokenizer("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]")
    llm = LLM(Script("Hello!"), tokenizer)  # type: ignore[arg-type]
    messages = [{"role": "user", "content": "Hi"}]
    assert llm.render(messages) == "[user]Hi[assistant]"
    reply = llm.chat(messages, temperature=0)
    assert (reply.text, reply.message) == ("Hello!", {"role": "assistant", "content": "Hello!"})
    assert reply.usage.prompt_tokens == 1 + len("[user]Hi[assistant]")
    assert "".join(c.text for c in llm.chat_stream(messages, temperature=0)) == "Hello!"


def test_timings_and_usage(llm: LLM) -> None:
    done = llm.generate("a prompt", max_tokens=9, seed=0, ignore_eos=True)
    assert done.usage == llmq.Usage(9, 9, 0) and done.usage.total_tokens == 18
    t = done.timings
    assert t.ttft > 0 and t.tpot > 0 and t.gen_tps == pytest.approx(1 / t.tpot) and t.prompt_tps > 0


def test_logits_and_perplexity(llm: LLM) -> None:
    tokens = [BOS, *b"some text to look at"]
    expected = np.array([logits_after(tokens[: i + 1]) for i in range(len(tokens))])
    found = llm.logits(tokens)
    assert found.dtype == np.float32 and np.array_equal(found, expected)
    assert llm.logits([]).shape == (0, N_VOCAB)
    with pytest.raises(ContextOverflowError):
        llm.logits([1] * 513)
    text = "the quick brown fox jumps over the lazy dog and goes on" * 3
    result = llm.perplexity(text, n_ctx=32)
    ids, nll = llm.tokenize(text), []
    for start in range(0, len(ids) - 31, 32):
        window = [BOS, *ids[start + 1 : start + 32]]
        for j in range(16, 31):
            logits = logits_after(window[: j + 1]).astype(np.float64)
            nll.append(np.log(np.exp(logits).sum()) - logits[window[j + 1]])
    assert result.value == pytest.approx(np.exp(np.mean(nll)), rel=1e-4) and result.scored_tokens == len(nll)
    assert result.error == pytest.approx(np.exp(np.mean(nll)) * np.std(nll) / np.sqrt(len(nll) - 1), rel=1e-3)
    assert llm.perplexity(text, n_ctx=32, stride=4).scored_tokens == 4 * ((len(ids) - 32) // 4 + 1)
    with pytest.raises(ValueError, match="at least one chunk"):
        llm.perplexity("short", n_ctx=32)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_the_storyteller(engine: str) -> None:
    with llmq.load(STORYTELLER, engine=engine) as llm:  # type: ignore[arg-type]
        prompt = "It was a dark and stormy night"
        s = Sampling(temperature=0, max_tokens=6)
        done = llm.generate(prompt, s)
        ids = llm.tokenize(prompt)
        rows = llm.logits([*ids, *done.tokens])[len(ids) - 1 :]
        for token, row in zip(done.tokens, rows, strict=False):
            assert row[token] >= row.max() - 0.1  # another batch size may be another kernel
        assert "".join(c.text for c in llm.stream(prompt, s)) == done.text == llm.detokenize(done.tokens)
        assert [c.text for c in llm.generate_batch([prompt, "Once", prompt], s)][::2] == [done.text] * 2
        assert llm.perplexity("It was the best of times, it was the worst of times. " * 2, n_ctx=16).value < 300


def test_any_number_of_threads_gives_the_same_tokens() -> None:
    found = set()
    for n in (1, 2, 5):
        with llmq.load(STORYTELLER, n_threads=n) as llm:
            found.add(llm.generate("The captain", max_tokens=20, seed=3).tokens)
    assert len(found) == 1
