"""Random changes, for LLMQ_FUZZ_SECONDS each, to what is read after a file's bytes have been found in order: config.json of
every family, tokenizer.json, chat templates. A model loads and computes, or there is a ModelFileError; nothing else.

A failure names the seed of its round; FUZZ_SEED runs that one again."""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import goldens
import pytest

import llmq
from llmq.errors import ChatTemplateError, ModelFileError, OutOfMemoryError
from llmq.text.template import NAMED_TEMPLATES, ChatTemplate
from llmq.text.tokenizer import Tokenizer

SECONDS = float(os.environ.get("LLMQ_FUZZ_SECONDS", "2"))
VALUES = [None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**16, 2**31 - 1, 2**31, 2**63, 2**64, 10**400, 0.0, 0.5, -0.5, 1e300]
VALUES += [float("inf"), float("nan"), "", "a", "silu", "ab" * 50_000, "\0", "\u2581", [], [0], [1] * 4, {}, {"type": "linear"}]
VALUES += [[[]], {"a": {"b": []}}, ["a", 1], "llama", "ByteLevel", "Sequence", {"rope_type": "yarn", "factor": 1e9}]


def seeds() -> Iterator[int]:
    """One for each round, until the time is up."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        yield int(os.environ.get("FUZZ_SEED", random.randrange(2**32)))


@contextmanager
def told(seed: int) -> Iterator[random.Random]:
    """The random numbers of a round, whose seed a failure names."""
    try:
        yield random.Random(seed)
    except Exception as error:
        raise AssertionError(f"FUZZ_SEED={seed}") from error


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from places(tree[key])


def change(tree: Any, one: random.Random) -> None:
    """One to three places get another value, that of another place, or go."""
    for _ in range(one.choice([1, 1, 1, 2, 3])):
        found = list(places(tree))
        if not found:
            return
        where, key = one.choice(found)
        kind = one.randrange(6)
        if kind == 0:
            del where[key]
        elif kind == 1:
            other, place = one.choice(found)
            where[key] = copy.deepcopy(other[place])
        elif kind == 2 and isinstance(where[key], int):
            where[key] += one.choice([-1, 1, where[key]])
        else:
            where[key] = copy.deepcopy(one.choice(VALUES))


def test_fuzz_configs(tmp_path: Path) -> None:
    models = {name: goldens.load(name) for name in goldens.names("logits", "hidden", "scores", "seq2seq")}
    loaded = 0
    for i, seed in enumerate(seeds()):
        with told(seed) as one, suppress(ModelFileError, OutOfMemoryError):
            golden = models[one.choice(sorted(models))]
            config = copy.deepcopy(golden.config)
            change(config, one)
            with llmq.load(goldens.write_folder(golden, tmp_path / str(i % 8), config), n_ctx=16, n_threads=2) as llm:
                loaded += 1
                if llm.tape is None or not llm.tape.generates:
                    llm.embed([[0, 1]], pooling="mean")
                elif llm.decoder_start is not None:
                    llm.generate([0, 1], max_tokens=2, temperature=0)
                else:
                    llm.logits([0, 1, 2])
    assert loaded or "FUZZ_SEED" in os.environ


def test_fuzz_tokenizers(tmp_path: Path) -> None:
    storyteller = json.loads((Path(__file__).parent.parent / "models" / "storyteller" / "tokenizer.json").read_text())
    storyteller["model"]["vocab"] = dict(list(storyteller["model"]["vocab"].items())[:300])
    storyteller["model"]["merges"] = storyteller["model"]["merges"][:40]
    loaded = 0
    for i, seed in enumerate(seeds()):
        with told(seed) as one, suppress(ModelFileError):
            made = copy.deepcopy(one.choice([goldens.TOKENIZER, storyteller]))
            change(made, one)
            path = tmp_path / f"{i % 8}" / "tokenizer.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(made))
            tokenizer = Tokenizer.from_file(path)
            loaded += 1
            for text in ("ab a b", "", "a\0é \n\n  <|endoftext|>😀", "ab" * 300):
                for parse_special in (False, True):
                    ids = tokenizer.encode(text, parse_special=parse_special)
                    assert all(0 <= id < tokenizer.n_vocab for id in ids)
                    tokenizer.decode(ids)
    assert loaded or "FUZZ_SEED" in os.environ


PIECES = ["{%", "%}", "{{", "}}", "{#", "#}", "-", " ", "\n", "for m in messages", "endfor", "if", "else", "endif", "set x ="]
PIECES += ["x", "m", "messages", "loop.index", "loop", "namespace(a=1)", "raise_exception('a')", "range(9999999)", "|", "trim"]
PIECES += ["tojson", "join", "(", ")", "[", "]", "'a'", '"', ".", "role", "content", "__class__", "+", "*", "**", "%"]
PIECES += ["9" * 9, "~", "\ud800", "macro f()", "endmacro"]
PIECES += ["f()", "in", "not", "is defined", "format(9)", "center(99999999)", "{}", "\0"]


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_fuzz_templates() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "a"}]
    for seed in seeds():
        with told(seed) as one:
            source = one.choice([*NAMED_TEMPLATES.values(), ""])
            for _ in range(one.randrange(1, 8)):
                at = one.randrange(len(source) + 1)
                added = "".join(one.choices(PIECES, k=one.randrange(1, 9)))
                source = source[:at] + added + source[at + one.choice([0, 0, 3]) :]
            start = time.monotonic()
            with suppress(ChatTemplateError):
                ChatTemplate(source, {"bos_token": "<s>"}).render(messages)
            assert time.monotonic() - start < 60
