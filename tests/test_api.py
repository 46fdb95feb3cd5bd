"""The public surface: names, loading, closing, pickling, asyncio, OpenAI's shapes."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, FakeTokenizer

import llmq

STORYTELLER = Path(__file__).parent.parent / "models" / "storyteller"
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def llm(engine: FakeEngine) -> Iterator[llmq.LLM]:
    with llmq.LLM(engine, FakeTokenizer(TEMPLATE), name="fake") as model:  # type: ignore[arg-type]
        yield model


def test_every_public_name_is_there() -> None:
    for name in llmq.__all__:
        assert getattr(llmq, name) is not None
    assert set(llmq.__all__) <= set(dir(llmq))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = llmq.lod


def test_importing_llmq_imports_little() -> None:
    code = "import sys, llmq; print([m for m in ('numpy', 'jinja2', 'gguf', 'safetensors') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = "import sys, llmq; llmq.load(sys.argv[1], n_ctx=8).generate('a', max_tokens=1); "
    code += "print([m for m in ('jinja2', 'asyncio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, str(STORYTELLER)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_cxt": 5}, TypeError, "did you mean 'n_ctx'"),
        ({"num_thread": 0}, ValueError, "n_threads"),
        ({"num_ctx": 64, "n_ctx": 64}, TypeError, "given twice"),
        ({"n_ctx": 1}, ValueError, "n_ctx"),
        ({"n_batch": 2.5}, ValueError, "n_batch"),
        ({"engine": "cuda"}, ValueError, "reference"),
        ({"engine": "reference", "threads": 2}, ValueError, "native engine"),
        ({"kv_type": "q8"}, ValueError, "kv_type"),
        ({"lora": ()}, TypeError, "no option 'lora'"),
        ({"chat_template": "alpaka"}, llmq.ChatTemplateError, "chatml"),
    ],
)
def test_load_refuses_what_is_wrong(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        llmq.load(STORYTELLER, **options)


def test_load_understands_other_names_and_pickles_by_path() -> None:
    with llmq.load(STORYTELLER, context_length=128, threads=1, chat_template="chatml") as llm:
        assert (llm.n_ctx, llm.n_threads, llm.name) == (128, 1, "storyteller")
        assert llm.render([{"role": "user", "content": "Hi"}]).startswith("<|im_start|>user\nHi")
        assert "ATTN" in llm.explain()
        with pickle.loads(pickle.dumps(llm)) as copy:
            assert (copy.n_ctx, copy.n_threads) == (128, 1)
            assert copy.generate("Once", seed=1, max_tokens=5).tokens == llm.generate("Once", seed=1, max_tokens=5).tokens
    with pytest.raises(llmq.ModelClosedError):
        llm.generate("Once")
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(llmq.LLM(FakeEngine(), FakeTokenizer()))  # type: ignore[arg-type]


def test_loading_can_be_cancelled_and_tells_its_progress() -> None:
    seen: list[tuple[str, int, int]] = []
    llmq.load(STORYTELLER, progress=lambda *args: seen.append(args)).close()
    assert seen[-1][1] == seen[-1][2] > 0
    with pytest.raises(llmq.Cancelled):
        llmq.load(STORYTELLER, progress=lambda *args: False)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/smaps is Linux's")
def test_weights_are_held_once(tmp_path: Path) -> None:
    """What is packed leaves no pages of the mapped file behind; a page may straddle two tensors."""
    path = tmp_path / "small-pages.gguf"  # of a file that was written in large pieces Linux maps up to megabytes at a touch
    with (Path(llmq.__file__).parent / "data" / "storyteller-Q4_K_M.gguf").open("rb") as source, path.open("wb", 0) as copy:
        while piece := source.read(4096):
            copy.write(piece)
    with llmq.load(path) as llm:
        llm.generate("Once", max_tokens=2, temperature=0)
        held, mine = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            mine = line.endswith(path.name) if "-" in line.split()[0] else mine
            held += int(line.split()[1]) if mine and line.startswith("Rss:") else 0
    assert held * 1024 < path.stat().st_size / 4


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        llmq.load(tmp_path / "none.gguf")


def test_nothing_is_said_at_exit() -> None:
    code = (
        "import llmq, sys\n"
        f"llm = llmq.load({str(STORYTELLER)!r}, n_threads=2)\n"
        "stream = llm.stream('Once', seed=1)\n"
        "next(stream)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_asyncio(llm: llmq.LLM, engine: FakeEngine) -> None:
    s = llmq.Sampling(seed=3, max_tokens=20, ignore_eos=True)
    expected = [llm.generate(p, s).tokens for p in ("a", "b", "c")]

    async def several() -> list[llmq.Completion]:
        return await asyncio.gather(*(llm.agenerate(p, s) for p in ("a", "b", "c")))

    assert [c.tokens for c in asyncio.run(several())] == expected

    async def streamed() -> list[int]:
        return [t async for chunk in llm.astream("a", s) for t in chunk.tokens]

    assert tuple(asyncio.run(streamed())) == expected[0]
    messages = [{"role": "user", "content": "Hi"}]

    async def chats() -> tuple[str, str]:
        reply = await llm.achat(messages, s)
        return reply.text, "".join([c.text async for c in llm.achat_stream(messages, s)])

    one, two = asyncio.run(chats())
    assert one == two != ""

    engine.before = lambda batch: time.sleep(0.002)

    async def cancelled() -> None:
        task = asyncio.create_task(llm.agenerate("z", max_tokens=400, ignore_eos=True))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert len(engine.batches[-1].tokens) < 400 and not any(t.name.startswith("llmq") for t in threading.enumerate())


def test_openai_completions(llm: llmq.LLM) -> None:
    options = {"max_tokens": 4, "seed": 1, "temperature": 1}
    done = llm.create_completion(prompt="abc", logprobs=2, n=2, stop=None, logit_bias={"101": 2}, **options)
    direct = llm.generate("abc", logprobs=2, n=2, logit_bias={101: 2}, **options)
    assert done["object"] == "text_completion" and done["model"] == "fake" and done["id"].startswith("cmpl-")
    assert [c["text"] for c in done["choices"]] == [c.text for c in (direct, *direct.others)]
    assert [c["index"] for c in done["choices"]] == [0, 1]
    usage = done["usage"]
    assert usage["prompt_tokens"] == 4 and usage["total_tokens"] == 4 + usage["completion_tokens"]
    assert usage["completion_tokens"] == sum(len(c.tokens) for c in (direct, *direct.others))
    logprobs = done["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(direct.tokens)
    assert len(llm.create_completion(prompt=["a", "b", [1, 2]], max_tokens=1)["choices"]) == 3
    chunks = list(llm.create_completion(prompt="abc", stream=True, stream_options={"include_usage": True}, **options))
    whole = llm.generate("abc", **options)
    assert "".join(c["choices"][0]["text"] for c in chunks[:-1]) == whole.text
    assert chunks[-2]["choices"][0]["finish_reason"] == whole.finish_reason
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == len(whole.tokens)
    assert len({c["id"] for c in chunks}) == 1
    same = llm.create_completion(prompt=np.array([256, 97, 98, 99]), user="me", suffix=None, echo=None, **options)
    assert same["choices"][0]["text"] == whole.text


def test_openai_chats(llm: llmq.LLM) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    options = {"max_completion_tokens": 5, "seed": 2, "temperature": 1}
    direct = llm.chat(messages, **options)
    done = llm.create_chat_completion(messages=messages, model="gpt", logprobs=True, top_logprobs=2, **options)
    choice = done["choices"][0]
    assert (done["object"], done["model"]) == ("chat.completion", "gpt")
    assert choice["message"] == {"role": "assistant", "content": direct.text}
    assert choice["finish_reason"] == direct.finish_reason
    entry = choice["logprobs"]["content"][0]
    assert bytes(entry["bytes"]).decode() == entry["token"] and len(entry["top_logprobs"]) == 2
    chunks = list(llm.create_chat_completion(messages=messages, stream=True, **options))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == direct.text
    assert chunks[-1]["choices"][0]["delta"] == {} and chunks[-1]["choices"][0]["finish_reason"] == direct.finish_reason
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.create_completion(), TypeError, "prompt is missing"),
        (lambda m: m.create_completion(prompt="a", sufix="b"), TypeError, "no option 'sufix'"),
        (lambda m: m.create_completion(prompt="a", sufix=None), TypeError, "no option 'sufix'"),
        (lambda m: m.create_completion(prompt=5), TypeError, "prompt: a text, token ids, or a list"),
        (lambda m: m.create_embedding(input={"a": 1}), TypeError, "input: a text, token ids, or a list"),
        (lambda m: m.create_completion(prompt=["a", "b"], stream=True), ValueError, "one prompt"),
        (lambda m: m.create_completion(prompt="a", stream_options={}), ValueError, "stream_options"),
        (lambda m: m.create_chat_completion(), TypeError, "messages are missing"),
        (lambda m: m.create_chat_completion(messages=[], response_format={"type": "x"}), ValueError, "response_format"),
        (lambda m: m.create_chat_completion(messages=[], logprobs=3), ValueError, "logprobs"),
        (lambda m: m.create_chat_completion(messages=[], top_logprobs=3), ValueError, "logprobs"),
        (lambda m: m.create_chat_completion(messages=[], tools=[]), TypeError, "no option 'tools'"),
    ],
)
def test_openai_fields_are_never_ignored(llm: llmq.LLM, call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(llm)  # type: ignore[operator]
