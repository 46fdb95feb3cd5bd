"""The parts of benchmarks/table.py: each makes some rows, and names the targets they are held against."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from runs import Row, RunFailedError, Runs, Target, child, paired, timed
from synthetic import SHAPES

import llmq
from llmq.benchmark import PEER_SCRIPT, Measure, Peer
from llmq.cpu import cpu_info, default_threads
from llmq.errors import LlmqError
from llmq.sampling import Sampling

PROMPT_TYPES = {
    **{"Q4_0": 6, "Q4_K_M": 6, "Q5_K_M": 6, "Q8_0": 6},
    **{"Q6_K": 9, "IQ4_XS": 9, "IQ3_S": 9},
    **{"F16": 12, "BF16": 12},
}
DECODE_TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K")
FASTER_DECODE = {"Q4_K_M": 1.5, "Q6_K": 1.5}
QUANTIZE_TYPES = ("Q4_K_M", "Q4_0", "Q8_0", "Q6_K")
ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "models" / "storyteller" / "tokenizer.json"
OTHER_PEERS = Path(__file__).with_name("other_peers.py")
LIMIT = Target("90 % of the limit", "percent", least=90)


def times(n: float, amx: bool = False, peer: str = "llama.cpp") -> Target:
    return Target(f"{n:g} x {peer}", least=n, amx=amx)


def prompt(n: int) -> tuple[str, ...]:
    return ("--prompt", str(n), "--gen", "0")


def write(n: int, *more: str) -> tuple[str, ...]:
    return ("--prompt", "0", "--gen", str(n), *more)


def prompts(b: Runs) -> Iterator[Row]:
    """A prompt of 512, by type."""
    for type_, target in PROMPT_TYPES.items():
        yield b.bench(type_, *prompt(512)).row(f"prompt of 512, {type_}", times(target, amx=True))


def long_prompt(b: Runs) -> Iterator[Row]:
    """A prompt of 1,536 against one of 512."""
    short, long = (b.bench("Q4_0", *prompt(n)) for n in (512, 1536))
    percent = 100 * long.measure.median / short.measure.median
    of = {"percent": percent, "percent_of": "of its rate at 512"}
    row = long.row("prompt of 1,536, Q4_0")
    yield Row(**{**vars(row), **of, "targets": (Target("85 % of 512", "percent", least=85),)})


def decode(b: Runs) -> Iterator[Row]:
    """Writing, by type, against the memory's bandwidth."""
    for type_ in DECODE_TYPES:
        faster = [times(FASTER_DECODE[type_])] if type_ in FASTER_DECODE else []
        yield b.bench(type_, *write(32)).row(f"decode, {type_}", LIMIT, *faster)


def depth(b: Runs) -> Iterator[Row]:
    """Writing behind 1,024 tokens against writing behind none."""
    flat, deep = (b.bench("Q4_0", *write(32, "--depth", str(n))) for n in (0, 1024))
    row = deep.row("decode at depth 1,024, Q4_0")
    percent = 100 * deep.measure.median / flat.measure.median
    of = {"percent": percent, "percent_of": "of depth 0"}
    notes = list(row.notes)
    if deep.measure.peer_median and flat.measure.peer_median:
        notes.append(f"peer: {100 * deep.measure.peer_median / flat.measure.peer_median:.0f} % of depth 0")
    yield Row(**{**vars(row), **of, "targets": (Target("90 % of depth 0", "percent", least=90),), "notes": notes})


def together(b: Runs) -> Iterator[Row]:
    """16 sequences decoded together."""
    yield b.bench("Q4_0", *write(16, "--sequences", "16")).row("16 sequences together, Q4_0", times(4))


def small(b: Runs) -> Iterator[Row]:
    """A model so small that Python and barriers would show."""
    yield b.bench("Q4_0", *write(128), shape="58m").row("decode, 58M, Q4_0", times(1.3))


def levels(b: Runs) -> Iterator[Row]:
    """Without AMX: LLMQ_ISA against llama.cpp built for that level."""
    here = cpu_info()["levels"]
    native = "llama.cpp" if "amx" not in here else ""  # where there is AMX the peer needs a build without it
    for isa in ("avx512vnni", "avx2"):
        if isa not in here:
            continue
        peer = f"llama.cpp-{isa}" if f"llama.cpp-{isa}" in b.peers else native if isa == "avx512vnni" else ""
        for type_ in ("Q4_0", "Q4_K_M", "Q6_K", "Q8_0", "F16"):
            yield b.bench(type_, *prompt(512), isa=isa, peer=peer).row(f"{isa}: prompt of 512, {type_}", times(1.2))
        yield b.bench("Q4_K_M", *write(32), isa=isa, peer=peer).row(f"{isa}: decode, Q4_K_M", LIMIT, times(1.5))


def experts(b: Runs) -> Iterator[Row]:
    """A mixture: 8 experts, 2 used, about 1B in all."""
    for type_ in ("Q4_0", "Q4_K_M", "Q6_K", "Q8_0", "F16"):
        run = b.bench(type_, *prompt(512), shape="1b-moe")
        yield run.row(f"mixture of 8 experts, prompt of 512, {type_}", times(6, amx=True))
    yield b.bench("Q4_0", *write(32), shape="1b-moe").row("mixture of 8 experts, decode, Q4_0", LIMIT)


def others(b: Runs) -> Iterator[Row]:
    """The fastest peers at prompts, in bfloat16, on the same shapes."""
    shape = SHAPES[b.shape]
    config = b.folder / f"{b.shape}-config.json"
    sizes = {"vocab_size": shape.vocab, "hidden_size": shape.width, "intermediate_size": shape.hidden}
    sizes |= {"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}
    config.write_text(json.dumps(sizes), encoding="utf-8")
    for name in ("openvino", "transformers"):
        if name not in b.peers:
            continue
        file = config if name == "transformers" else b.model("F16-bytes")
        for type_ in ("Q4_0", "BF16"):
            what, target = f"prompt of 512, {type_}; {name} in 16 bits", times(2, amx=True, peer=name)
            ours: list[float] = []
            peers: list[float] = []
            try:
                with _peer(b, name, file, 520, OTHER_PEERS, name) as peer, llmq.load(b.model(type_), n_ctx=520) as llm:
                    for turn in range(b.repetitions + 1):
                        tokens = np.random.default_rng(turn).integers(300, min(shape.vocab, 30_000), 512).tolist()
                        ours.append(llm.generate(tokens, max_tokens=1, temperature=0, ignore_eos=True).timings.prompt_tps)
                        peers.append(peer.prompt(tokens))
            except (RunFailedError, LlmqError) as error:
                yield Row(what, peer_name=name, targets=(target,), notes=[str(error)])
                continue
            m = Measure("prompt", 512, ours[1:], peer_rates=peers[1:])  # the first warms up
            yield Row(what, m.median, peer=m.peer_median, peer_name=name, ratio=m.ratio, targets=(target,))


def _peer(b: Runs, name: str, model: Path, n_ctx: int, script: Path = PEER_SCRIPT, *more: str) -> Peer:
    try:
        return Peer(model, n_ctx, default_threads(), b.peers[name], 1, script=script, more=more, name=name)
    except (LlmqError, OSError) as error:
        raise RunFailedError(str(error)) from None


def loading(b: Runs) -> Iterator[Row]:
    """From the call of load to the first token in a fresh process, files cached, and the most memory held when the context
    of 512 is full."""
    n_ctx = 512
    for type_ in ("Q4_0", "Q4_K_M", "Q6_K", "Q8_0", "F16"):
        path, notes = b.model(type_), []
        seconds: list[tuple[float, float]] = []
        peak: list[tuple[float, float]] = []
        for turn in range(b.repetitions + 1):  # the first warms the file cache
            run = child([str(Path(__file__).with_name("first_token.py")), str(path), str(n_ctx)], {})
            theirs = (float("nan"), float("nan"))
            if "llama.cpp" in b.peers and not notes:
                try:
                    with _peer(b, "llama.cpp", path, n_ctx) as peer:
                        peer.prompt(list(range(300, 299 + n_ctx)))
                        theirs = (peer.loading, peer.ask({"peak": True}))
                except (RunFailedError, LlmqError) as error:
                    notes.append(str(error))
            if turn:
                seconds.append((run["seconds"], theirs[0]))
                peak.append((run["peak"], theirs[1]))
        measured = "llama.cpp" in b.peers and not notes
        sides = [([o for o, _ in pairs], [p for _, p in pairs] if measured else []) for pairs in (seconds, peak)]
        yield paired(f"load to first token, {type_}", "ms", 1e3, *sides[0], times(1), notes=notes)
        least = path.stat().st_size + b.kv_bytes(n_ctx)
        share = 100 * statistics.median(sides[1][0]) / least
        target = Target("115 % of file and KV", "percent", most=115)
        of = {"percent": share, "percent_of": "of file and KV"}
        yield paired(f"peak memory, context of {n_ctx} full, {type_}", "MB", 1e-6, *sides[1], target, notes=notes, **of)


def quantizing(b: Runs) -> Iterator[Row]:
    """From F16, file to file."""
    source, out = b.model("F16"), b.folder / "written.gguf"
    for type_ in QUANTIZE_TYPES:
        ours: list[float] = []
        peers: list[float] = []
        notes: list[str] = []
        for _ in range(b.repetitions):
            ours.append(timed(lambda type_=type_: llmq.quantize_model(source, out, type_)))  # type: ignore[misc]
            if "llama.cpp" in b.peers and not notes:
                try:
                    with _peer(b, "llama.cpp", b.model("Q4_0", "58m"), 64) as peer:
                        peers.append(peer.ask({"quantize": [str(source), str(out), type_]}))
                except (RunFailedError, LlmqError) as error:
                    notes, peers = [str(error)], []
        yield paired(f"quantize F16 > {type_}", "s", 1, ours, peers, times(4), notes=notes)
    out.unlink()


def sampling(b: Runs) -> Iterator[Row]:
    """The full chain over a vocabulary of 128,000, as a share of a token."""
    n = 128_000
    logits = np.random.default_rng(0).standard_normal(n).astype(np.float32) * 3
    chain = Sampling(seed=1, repeat_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, typical_p=0.95)
    history = np.arange(64, dtype=np.int32)
    sampler = chain.sampler(n)
    taken = statistics.median(timed(lambda step=step: sampler.sample(logits, history, step)) for step in range(50))  # type: ignore[misc]
    percent = 100 * taken * b.bench("Q4_0", *write(16), peer="").measure.median
    target = Target("3 % of a token", "percent", most=3)
    what = "sampling of 128,000, full chain"
    yield Row(what, 1e6 * taken, "us", percent=percent, percent_of="of a token, Q4_0", targets=(target,))


TOKENIZE = """
import sys, time
from tokenizers import Tokenizer
t = Tokenizer.from_file(sys.argv[1]); text = open(sys.argv[2], encoding="utf-8").read()
best = 1e9
for _ in range(5):
    start = time.perf_counter(); t.encode(text); best = min(best, time.perf_counter() - start)
print(best)
"""


def tokenizing(b: Runs) -> Iterator[Row]:
    """English, on one thread, best of five; the peer is `tokenizers`, in the environment of transformers or of llama.cpp."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/**/*.md"))) * 4
    with llmq.load(TOKENIZER.parent, n_ctx=64) as llm:
        ours = min(timed(lambda: llm.tokenize(text)) for _ in range(5))
    peers: list[float] = []
    notes: list[str] = []
    if python := b.peers.get("transformers") or b.peers.get("llama.cpp"):
        file = b.folder / "text.txt"
        file.write_text(text, encoding="utf-8")
        command = [python, "-c", TOKENIZE, str(TOKENIZER), str(file)]
        done = subprocess.run(command, env={"RAYON_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            peers = [float(done.stdout)]
        else:
            notes = (done.stderr.strip().splitlines() or ["tokenizers failed"])[-1:]
    what = f"tokenize {len(text) >> 10} KiB of English"
    yield paired(what, "ms", 1e3, [ours], peers, times(1, peer="tokenizers"), peer_name="tokenizers", notes=notes)


PARTS: tuple[Callable[[Runs], Iterator[Row]], ...] = (
    prompts, long_prompt, decode, depth, together, small, levels, experts, others, loading, quantizing, sampling, tokenizing,
)  # fmt: skip
