"""The scheduler on an engine whose logits depend on every token before: whatever happens around a generation, it must get what
it gets alone, and nothing that is known may be computed twice."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from array import array
from collections.abc import Iterator

import numpy as np
import pytest
from fakes import BOS, EOS, FakeEngine, FakeTokenizer, logits_after

from llmq.engine.base import Batch
from llmq.errors import Cancelled, LlmqError, ModelClosedError
from llmq.model import LLM
from llmq.sampling import Sampling
from llmq.session import MAX_ACTIVE, MAX_IDLE, fit_prompt


def alone(prompt: list[int], s: Sampling, n_ctx: int = 512, shift: bool = False) -> list[int]:
    """What the tokens must be: no scheduler, no cache."""
    context, out = list(prompt), []
    sampler = s.sampler(FakeEngine.n_vocab)
    while s.max_tokens is None or len(out) < s.max_tokens:
        if len(context) == n_ctx and not shift:
            break
        token = sampler.sample(logits_after(context), array("i", context), len(out))
        if token == EOS and not s.ignore_eos:
            break
        out.append(token)
        context.append(token)
        if len(context) > n_ctx:
            keep = int(context[0] == BOS)
            context = context[:keep] + context[keep + (len(context) - keep + 1) // 2 :]
    return out


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def llm(engine: FakeEngine) -> Iterator[LLM]:
    with LLM(engine, FakeTokenizer(), n_batch=16) as model:  # type: ignore[arg-type]
        yield model


def prompts(n: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[BOS, *(rng.randrange(97, 123) for _ in range(rng.randrange(1, 50)))] for _ in range(n)]


def test_a_prompt_runs_in_chunks_and_alone(llm: LLM, engine: FakeEngine) -> None:
    prompt = [BOS, *range(97, 97 + 39)]
    done = llm.generate(prompt, max_tokens=3, seed=1)
    assert list(done.tokens) == alone(prompt, Sampling(max_tokens=3, seed=1))
    assert [len(b.tokens) for b in engine.batches] == [16, 16, 8, *[1] * (len(done.tokens) - 1)]
    assert [len(b.outputs) for b in engine.batches] == [0, 0, 1, *[1] * (len(done.tokens) - 1)]


def test_a_batch_is_what_each_gets_alone(llm: LLM, engine: FakeEngine) -> None:
    every = prompts(40)
    s = Sampling(seed=11, max_tokens=30, repeat_penalty=1.2)
    progress: list[tuple[str, int, int]] = []
    done = llm.generate_batch(every, s, progress=lambda *args: progress.append(args))
    assert [list(c.tokens) for c in done] == [alone(p, s) for p in every]
    assert progress[-1] == ("generate", 40, 40) and [p[1] for p in progress] == sorted({p[1] for p in progress})
    assert max(len(b.outputs) for b in engine.batches) == MAX_ACTIVE
    for b in engine.batches:  # prompts stay by themselves
        assert len(b.tokens) == len(b.outputs) or len(set(b.sequences.tolist())) == 1
    assert engine.sequences <= MAX_IDLE


def test_eight_threads_get_what_serial_calls_get(llm: LLM, engine: FakeEngine) -> None:
    every = prompts(48, seed=4)
    engine.before = lambda batch: time.sleep(0.0003)
    found: dict[int, list[int]] = {}

    def work(first: int) -> None:
        for i in range(first, 48, 8):
            if i % 3:
                found[i] = list(llm.generate(every[i], seed=i, max_tokens=20).tokens)
            else:
                found[i] = [t for chunk in llm.stream(every[i], seed=i, max_tokens=20) for t in chunk.tokens]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert found == {i: alone(every[i], Sampling(seed=i, max_tokens=20)) for i in range(48)}
    assert max(len(b.outputs) for b in engine.batches) > 1, "overlapping requests share batches"


def test_a_known_prefix_is_not_computed_again(llm: LLM, engine: FakeEngine) -> None:
    s = Sampling(seed=3, max_tokens=8, ignore_eos=True)
    prompt = [BOS, *range(60, 100)]
    first = llm.generate(prompt, s)
    n = engine.computed
    again = llm.generate(prompt, s)  # the same prompt: not even its last token
    assert again.tokens == first.tokens and again.usage.cached_tokens == 41 and engine.computed == n + 7
    n = engine.computed
    turn = [*prompt, *first.tokens, 10, 11, 12]  # a chat goes on: the new tokens, and the last one drawn
    more = llm.generate(turn, s)
    assert list(more.tokens) == alone(turn, s) and engine.computed == n + 3 + 1 + 7
    n = engine.computed
    other = [*prompt[:30], 1, 2, 3]  # a branch
    assert list(llm.generate(other, s).tokens) == alone(other, s) and engine.computed == n + 3 + 7
    n = engine.computed
    shorter = prompt[:20]  # logits of its last token are not known
    assert list(llm.generate(shorter, s).tokens) == alone(shorter, s) and engine.computed == n + 1 + 7


def test_prompts_that_begin_alike_wait_for_each_other(llm: LLM, engine: FakeEngine) -> None:
    system = [BOS, *range(40, 100)]
    every = [[*system, i] for i in range(10)]
    s = Sampling(seed=5, max_tokens=1)
    done = llm.generate_batch(every, s)
    assert [list(c.tokens) for c in done] == [alone(p, s) for p in every]
    assert engine.computed == 62 + 9
    n = engine.computed
    several = llm.generate([*system, 200], max_tokens=2, n=5, seed=9, ignore_eos=True)
    assert engine.computed == n + 1 + 5
    expected = [alone([*system, 200], Sampling(seed=9 + i, max_tokens=2, ignore_eos=True)) for i in range(5)]
    assert [list(c.tokens) for c in (several, *several.others)] == expected
    assert [c.seed for c in (several, *several.others)] == [9, 10, 11, 12, 13]


def test_random_traffic_is_what_each_gets_alone(engine: FakeEngine) -> None:
    rng = random.Random(8)
    with LLM(FakeEngine(n_ctx=90), FakeTokenizer(), n_batch=7) as llm:  # type: ignore[arg-type]
        known: list[list[int]] = prompts(3)
        open_streams = []
        for i in range(150):
            base = rng.choice(known)
            prompt = [*base[: rng.randrange(1, len(base) + 1)], *(rng.randrange(97, 100) for _ in range(rng.randrange(4)))][:80]
            s = Sampling(seed=i, max_tokens=rng.choice([0, 1, 5, None]), temperature=rng.choice([0, 1.0]))
            kind = rng.randrange(4)
            if kind == 0:
                assert [list(c.tokens) for c in llm.generate_batch([prompt, base[:80]], s)] == [
                    alone(prompt, s, 90),
                    alone(base[:80], s, 90),
                ]
            elif kind == 1:
                stream = llm.stream(prompt, s)
                tokens = [t for _, chunk in zip(range(rng.randrange(3)), stream, strict=False) for t in chunk.tokens]
                assert tokens == alone(prompt, s, 90)[: len(tokens)]
                open_streams.append((stream, tokens, alone(prompt, s, 90)))
                if rng.random() < 0.5:
                    open_streams.pop(0)[0].close()
            else:
                found = list(llm.generate(prompt, s).tokens)
                assert found == alone(prompt, s, 90)
                known.append([*prompt, *found])
        for stream, tokens, expected in open_streams:
            assert [*tokens, *(t for chunk in stream for t in chunk.tokens)] == expected
        assert llm._scheduler._active == [] and llm._scheduler._waiting == []


@pytest.mark.parametrize("where", range(0, 400, 7))
def test_an_interrupt_anywhere_leaves_everything_right(where: int) -> None:
    """KeyboardInterrupt after any number of executed lines: the call ends, other generations and later calls are right."""
    engine = FakeEngine()
    llm = LLM(engine, FakeTokenizer(), n_batch=16)  # type: ignore[arg-type]
    s = Sampling(seed=2, max_tokens=12, ignore_eos=True)
    other, mine = prompts(2, seed=6)
    paused = llm.stream(other, s)
    tokens = list(next(paused).tokens)
    left = where

    def trace(frame: object, event: str, arg: object) -> object:
        nonlocal left
        if event == "line" and frame.f_code.co_filename.endswith("session.py"):  # type: ignore[attr-defined]
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)  # type: ignore[arg-type]
        found = list(llm.generate(mine, s).tokens)
        assert found == alone(mine, s)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    assert list(llm.generate(mine, s).tokens) == alone(mine, s)
    assert [*tokens, *(t for chunk in paused for t in chunk.tokens)] == alone(other, s)
    llm.close()


def test_closing_a_stream_cancels(llm: LLM, engine: FakeEngine) -> None:
    with llm.stream([BOS, 97], seed=1, ignore_eos=True) as stream:
        next(stream)
    assert llm._scheduler._active == []
    with pytest.raises(StopIteration):
        next(stream)
    n = len(engine.batches)
    never_read = llm.stream([BOS, 98, 99])
    del never_read
    llm.generate([BOS, 97, 97], max_tokens=1)
    assert len(engine.batches) == n + 1


def test_a_stream_can_be_cancelled_by_another_thread(llm: LLM, engine: FakeEngine) -> None:
    engine.before = lambda batch: time.sleep(0.001)
    stream = llm.stream([BOS, 97], seed=1, ignore_eos=True, max_tokens=400)
    chunks = []

    def read() -> None:
        chunks.extend(stream)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.05)
    stream.close()
    reader.join(10)
    assert not reader.is_alive() and len(chunks) < 400


def test_cancelling_a_batch(llm: LLM, engine: FakeEngine) -> None:
    with pytest.raises(Cancelled):
        llm.generate_batch(prompts(20), max_tokens=5, progress=lambda stage, done, total: done < 3)
    assert llm._scheduler._active == [] and llm._scheduler._waiting == []


def test_an_error_of_the_engine_is_that_of_its_request(llm: LLM, engine: FakeEngine) -> None:
    good, bad = prompts(2, seed=9)

    def before(batch: Batch) -> None:
        if batch.tokens.tolist() == bad[: len(batch.tokens)] and len(batch.tokens) > 1:
            raise MemoryError("no room")

    engine.before = before
    stream = llm.stream(good, seed=1, max_tokens=6, ignore_eos=True)
    tokens = list(next(stream).tokens)
    with pytest.raises(MemoryError, match="no room"):
        llm.generate(bad)
    assert [*tokens, *(t for c in stream for t in c.tokens)] == alone(good, Sampling(seed=1, max_tokens=6, ignore_eos=True))


def test_memory_held_by_idle_sequences_is_given_back_first(llm: LLM, engine: FakeEngine) -> None:
    for prompt in prompts(4):
        llm.generate(prompt, max_tokens=1)
    assert engine.sequences > 1

    def before(batch: Batch) -> None:
        if engine.sequences > 1:
            raise MemoryError("no room")

    engine.before = before
    prompt = [BOS, 1, 2, 3, 4, 5, 6]
    assert list(llm.generate(prompt, max_tokens=3, seed=0).tokens) == alone(prompt, Sampling(seed=0, max_tokens=3))


def test_broken_logits_are_an_error_of_their_request(llm: LLM, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fakes.logits_after", lambda tokens: np.full(FakeEngine.n_vocab, np.nan, np.float32))
    with pytest.raises(ValueError, match="NaN"):
        llm.generate([BOS, 97])
    monkeypatch.undo()
    assert llm.generate([BOS, 98], max_tokens=2, seed=0).tokens


def test_idle_sequences_hold_at_most_one_context() -> None:
    with LLM(FakeEngine(n_ctx=64), FakeTokenizer()) as llm:  # type: ignore[arg-type]
        for prompt in prompts(12, seed=3):
            llm.generate(prompt, max_tokens=2)
            held = [len(idle.tokens) for idle in llm._scheduler._idle]
            assert len(held) == llm._scheduler.engine.sequences  # type: ignore[attr-defined]
            assert len(held) <= 1 or sum(held) <= 64


@pytest.mark.parametrize(
    ("n", "max_tokens", "expected", "limit"),
    [
        (10, None, 10, 22),
        (31, None, 31, 1),
        (32, None, 24, 8),
        (100, None, 24, 8),
        (100, 5, 27, 5),
        (100, 1000, 16, 16),
        (100, 0, 24, 0),
        (10, 1000, 10, 22),
    ],
)
def test_fit_prompt(n: int, max_tokens: int | None, expected: int, limit: int) -> None:
    prompt = list(range(n))
    fitted, found = fit_prompt(prompt, 32, max_tokens, "truncate_left", 1)
    assert (len(fitted), found) == (expected, limit)
    assert list(fitted) == [0, *prompt[n - expected + 1 :]]


def test_shift_drops_the_older_half() -> None:
    with LLM(FakeEngine(n_ctx=32), FakeTokenizer(), n_batch=8) as llm:  # type: ignore[arg-type]
        s = Sampling(seed=1, max_tokens=100, ignore_eos=True)
        prompt = [BOS, *range(97, 107)]
        done = llm.generate(prompt, s, overflow="shift")
        assert list(done.tokens) == alone(prompt, s, 32, shift=True) and len(done.tokens) == 100
        assert done.finish_reason == "length"
        ended = llm.generate(prompt, s)
        assert ended.finish_reason == "length" and len(ended.tokens) == 32 - 11
        assert list(ended.tokens) == alone(prompt, s, 32)


def test_close(engine: FakeEngine) -> None:
    llm = LLM(engine, FakeTokenizer())  # type: ignore[arg-type]
    stream = llm.stream([BOS, 97], seed=1)
    next(stream)
    llm.close()
    llm.close()
    assert engine.closed == 1
    with pytest.raises(ModelClosedError):
        next(stream)
    for use in (lambda: llm.generate("x"), lambda: llm.stream("x"), lambda: llm.logits([1]), lambda: llm.generate_batch(["x"])):
        with pytest.raises(ModelClosedError):
            use()


def test_close_while_another_thread_generates(engine: FakeEngine) -> None:
    engine.before = lambda batch: time.sleep(0.002)
    llm = LLM(engine, FakeTokenizer())  # type: ignore[arg-type]
    errors: list[BaseException] = []

    def work() -> None:
        try:
            llm.generate([BOS, 97], max_tokens=400, ignore_eos=True)
        except ModelClosedError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    time.sleep(0.03)
    llm.close()
    for t in threads:
        t.join(10)
    assert len(errors) == 3 and engine.closed == 1


def test_a_thread_does_not_wait_for_itself(engine: FakeEngine) -> None:
    llm = LLM(engine, FakeTokenizer(), n_batch=4)  # type: ignore[arg-type]
    pieces = llm.score(list(range(97, 117)), 0)
    next(pieces)
    for use in (lambda: llm.generate("x", max_tokens=1), lambda: llm.logits([97])):
        with pytest.raises(LlmqError, match="using the model already"):
            use()
    assert sum(len(rows) for _, rows in pieces) == 16
    assert llm.logits([97]).shape == (1, llm.n_vocab)

    def handler(batch: Batch) -> None:  # as a signal's, in the middle of a step
        with pytest.raises(LlmqError, match="using the model already"):
            llm.generate("x", max_tokens=1)

    engine.before = handler
    assert llm.generate([BOS, 97], max_tokens=2, ignore_eos=True).usage.completion_tokens == 2
    engine.before = None
    llm.close()


def test_a_thread_that_has_the_engine_may_close_the_model(engine: FakeEngine) -> None:
    llm = LLM(engine, FakeTokenizer(), n_batch=4)  # type: ignore[arg-type]
    pieces = llm.score(list(range(97, 117)), 0)
    next(pieces)
    llm.close()
    assert engine.closed == 0
    with pytest.raises(ModelClosedError):
        next(pieces)
    assert engine.closed == 1

    engine = FakeEngine(before=lambda batch: llm.close())  # as in a signal's handler
    llm = LLM(engine, FakeTokenizer())  # type: ignore[arg-type]
    with pytest.raises(ModelClosedError):
        llm.generate([BOS, 97], max_tokens=5, ignore_eos=True)
    assert engine.closed == 1


def in_child(work: object) -> int:
    """Exit code of `work()` in a forked child, 99 when it hangs."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work()  # type: ignore[operator]
        finally:
            os._exit(code)
    for _ in range(1000):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return 99


def test_after_fork_the_child_works(llm: LLM) -> None:
    s = Sampling(seed=1, max_tokens=5, ignore_eos=True)
    stream = llm.stream([BOS, 97], s)
    next(stream)

    def child() -> int:
        try:
            next(stream)
            return 2
        except LlmqError:
            pass
        return 0 if list(llm.generate([BOS, 98], s).tokens) == alone([BOS, 98], s) else 3

    assert in_child(child) == 0
    assert list(llm.generate([BOS, 98], s).tokens) == alone([BOS, 98], s)


def test_after_a_fork_in_the_middle_of_a_step_the_child_raises(llm: LLM, engine: FakeEngine) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def before(batch: Batch) -> None:
        inside.set()
        go_on.wait(20)

    engine.before = before
    worker = threading.Thread(target=lambda: llm.generate([BOS, 97], max_tokens=2))
    worker.start()
    inside.wait(20)

    def child() -> int:
        try:
            llm.generate([BOS, 98], max_tokens=2)
            return 2
        except LlmqError:
            llm.close()
            return 0

    code = in_child(child)
    go_on.set()
    worker.join(20)
    assert code == 0
    engine.before = None
    assert llm.generate([BOS, 99], max_tokens=2, ignore_eos=True).usage.completion_tokens == 2


def test_logits_wait_their_turn(llm: LLM, engine: FakeEngine) -> None:
    engine.before = lambda batch: time.sleep(0.0005)
    tokens = [BOS, *range(50)]
    expected = np.array([logits_after(tokens[: i + 1]) for i in range(len(tokens))])
    done: list[list[int]] = []
    worker = threading.Thread(target=lambda: done.append(list(llm.generate([BOS, 97], seed=1, max_tokens=300).tokens)))
    worker.start()
    for _ in range(5):
        assert np.array_equal(llm.logits(tokens), expected)
    worker.join(30)
    assert done == [alone([BOS, 97], Sampling(seed=1, max_tokens=300))]
