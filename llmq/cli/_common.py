"""What verbs share: options for loading and sampling, the embedded model, a progress bar."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmq.errors import LlmqError

if TYPE_CHECKING:
    from llmq.model import LLM, Progress
    from llmq.results import Completion, Timings, Usage
    from llmq.sampling import Sampling

__all__ = [
    "add_load_arguments",
    "add_sampling_arguments",
    "add_split_arguments",
    "as_json",
    "embedded_model",
    "given_text",
    "open_model",
    "progress_bar",
    "read_text",
    "sampling_of",
    "speed_line",
]


def add_load_arguments(parser: argparse.ArgumentParser, *, chunk: int | None = None) -> None:
    """chunk: of a verb that reads a text in chunks, how many tokens make one."""
    group = parser.add_argument_group("loading")
    ctx_help = "tokens of context (default: what the model was trained with)"
    ctx_help = ctx_help if chunk is None else f"tokens of a chunk of the text (default: {chunk})"
    group.add_argument("--ctx", type=int, metavar="N", default=chunk, help=ctx_help)
    group.add_argument("--threads", type=int, metavar="N", help="threads (default: the cores this process may use)")
    group.add_argument("--batch", type=int, metavar="N", default=512, help="most prompt tokens at once (default: 512)")
    group.add_argument("--kv-type", metavar="TYPE", default="bf16", help="keys and values: bf16 (default), f16, f32 or q8_0")
    group.add_argument("--engine", choices=("native", "reference"), default="native", help="native (default) or reference")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split-max-size", metavar="SIZE", help="write parts of at most this size, such as 500M or 2G (powers of 1000)"
    )
    parser.add_argument("--split-max-tensors", type=int, metavar="N", help="write parts of at most N tensors")


def open_model(args: argparse.Namespace, path: str | Path, **options: Any) -> LLM:
    """Load with the options of `add_load_arguments`, with a progress bar."""
    from llmq.loading import load  # noqa: PLC0415 - `llmq --help` stays fast

    with progress_bar() as progress:
        return load(
            path,
            n_ctx=args.ctx,
            n_threads=args.threads,
            n_batch=args.batch,
            kv_type=args.kv_type,
            engine=args.engine,
            progress=progress,
            **options,
        )


def read_text(name: str) -> str:
    """The UTF-8 text file of that name, standard input for "-". ValueError for other bytes, OSError."""
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        name = "standard input" if name == "-" else name
        raise ValueError(f"{name}: UTF-8 expected, found byte 0x{data[error.start]:02x} at {error.start}") from None


def given_text(text: str) -> str:
    """A text that stood on the command line; UnicodeEncodeError when its bytes are no UTF-8."""
    text.encode("utf-8")
    return text


def embedded_model() -> Path:
    """The model that comes with llmq: the GGUF of a wheel, or the folder it is made from in a source tree. LlmqError when there
    is neither."""
    package = Path(str(resources.files("llmq")))
    for found in (*sorted((package / "data").glob("*.gguf")), package.parent / "models" / "storyteller"):
        if found.exists():
            return found
    raise LlmqError("this installation brings no model; give one: llmq run MODEL PROMPT")


_OTHER_NAMES = {"--temp": "--temperature"}
_SAMPLING = [
    ("--max-tokens", int, "most tokens to generate (default: until the model ends or the context is full)"),
    ("--temp", float, "temperature; 0 takes the most probable token (default: 0.8)"),
    ("--top-k", int, "keep the k most probable tokens, 0: off (default: 40)"),
    ("--top-p", float, "keep the most probable until p is reached, 1: off (default: 0.95)"),
    ("--min-p", float, "drop what is less probable than p times the best, 0: off (default: 0.05)"),
    ("--typical-p", float, "locally typical sampling, 1: off (default: 1)"),
    ("--repeat-penalty", float, "1: off (default: 1)"),
    ("--repeat-last-n", int, "tokens the penalties look back, -1: all (default: 64)"),
    ("--presence-penalty", float, "0: off (default: 0)"),
    ("--frequency-penalty", float, "0: off (default: 0)"),
    ("--dry-multiplier", float, "penalty on continuing a repetition, 0: off (default: 0)"),
    ("--xtc-probability", float, "chance to drop the most probable tokens, 0: off (default: 0)"),
    ("--mirostat", int, "1 or 2: hold the surprise steady, 0: off (default: 0)"),
    ("--seed", int, "of the random numbers (default: another one each time)"),
]


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    for flag, kind, text in _SAMPLING:
        names = [flag, *filter(None, [_OTHER_NAMES.get(flag)])]
        group.add_argument(*names, type=kind, metavar="N" if kind is int else "X", help=text)
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end at this text; may be repeated")
    group.add_argument("--ignore-eos", action="store_true", help="go on where the model would end")


def sampling_of(args: argparse.Namespace) -> Sampling:
    from llmq.sampling import Sampling  # noqa: PLC0415

    names = [flag[2:].replace("-", "_") for flag, _, _ in _SAMPLING]
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    return Sampling(**given, stop=tuple(args.stop), ignore_eos=args.ignore_eos)


def speed_line(usage: Usage, timings: Timings) -> str:
    """Counts and speeds; a speed that could not be measured (one token, a prompt that was known) is left out."""
    prompt = f"{usage.prompt_tokens} prompt tokens"
    if usage.cached_tokens:
        prompt += f" ({usage.cached_tokens} reused)"
    parts = [(prompt, timings.prompt_tps), (f"{usage.completion_tokens} generated", timings.gen_tps)]
    line = ", ".join(f"{text} at {rate:.1f} tokens/s" if rate else text for text, rate in parts)
    return line + (f", first token after {1000 * timings.ttft:.0f} ms" if timings.ttft else "")


def as_json(completion: Completion, **more: Any) -> dict[str, Any]:
    out = {name: value for name, value in asdict(completion).items() if name not in ("others", "logprobs")}
    out["usage"]["total_tokens"] = completion.usage.total_tokens
    return out | more


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress callback that draws a bar on a terminal once something has taken more than a second."""
    began = time.monotonic()
    drawn = False

    def show(stage: str, done: int, total: int) -> bool:
        nonlocal drawn
        if sys.stderr.isatty() and time.monotonic() - began > 1.0:
            part = done / total if total else 1.0
            sys.stderr.write(f"\r{stage:<12} [{'#' * int(30 * part):<30}] {100 * part:3.0f} %")
            sys.stderr.flush()
            drawn = True
        return True

    try:
        yield show
    finally:
        if drawn:
            sys.stderr.write("\r" + " " * 60 + "\r")
