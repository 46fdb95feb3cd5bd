"""Stop strings and incremental decoding against their definitions on whole texts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmq.text.detokenizer import Detokenizer
from llmq.text.stops import StopStrings
from llmq.text.tokenizer import Tokenizer

LETTERS = st.text("ab", max_size=24)


def reference(text: str, stops: list[str]) -> tuple[str, str | None]:
    """(what is shown, the stop): the first to be complete, of those the longest."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(LETTERS, st.lists(st.text("ab", min_size=1, max_size=5), max_size=4), st.lists(st.integers(0, 24), max_size=6))
def test_any_cut_of_a_text_gives_the_same(text: str, stops: list[str], cuts: list[int]) -> None:
    shown, stop = reference(text, stops)
    watcher = StopStrings(stops)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    out = ""
    for start, end in pairwise(places):
        out += watcher.push(text[start:end])
        if watcher.matched is not None:
            break
        # no more is withheld than what some stop could begin with
        tail = text[len(out) : end]
        assert tail == "" or any(stop.startswith(tail) for stop in stops)
        assert not any(stop.startswith(text[at:end]) for stop in stops for at in range(len(out)))
    assert (out + watcher.finish(), watcher.matched) == (shown, stop)


def test_stops_are_checked() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings(["a", ""])
    with pytest.raises(TypeError, match="sequence of strings"):
        StopStrings("stop")
    assert StopStrings([]).push("text") == "text"


def bytes_tokenizer() -> Tokenizer:
    """256 tokens, one per byte: id == byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    tokens = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    fixed = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    return Tokenizer.from_metadata({**fixed, "tokenizer.ggml.tokens": tokens})


BYTES = bytes_tokenizer()


@given(st.binary(max_size=40) | st.text(max_size=12).map(str.encode))
def test_incremental_decoding_equals_decoding_at_once(data: bytes) -> None:
    detokenizer = Detokenizer(BYTES)
    out = ""
    for count, byte in enumerate(data, 1):
        out += detokenizer.push(byte)
        whole = data[:count].decode(errors="replace")
        assert whole.startswith(out)
        assert len(whole) - len(out) <= (3 if whole.endswith("\ufffd") else 0)  # at most the bytes of one unfinished character
    assert out + detokenizer.finish() == data.decode(errors="replace") == BYTES.decode(list(data))
