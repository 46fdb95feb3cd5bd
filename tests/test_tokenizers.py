"""Tokenizers: the published cases of real vocabularies, decoding, hostile metadata and hostile texts."""

from __future__ import annotations

import lzma
import unicodedata
from pathlib import Path

import pytest

from llmq.errors import FormatError, UnsupportedError
from llmq.text.detokenizer import Detokenizer
from llmq.text.hf_vocab import vocab_metadata
from llmq.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
VOCAB = ROOT / "tests" / "data" / "vocab"
NAMES = ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "bert-bge"]
LOSSLESS = ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "storyteller"]
CASES = (VOCAB / "cases.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("vocab")
    made = {}
    for name in NAMES:
        path = folder / f"{name}.gguf"
        path.write_bytes(lzma.decompress((VOCAB / f"{name}.gguf.xz").read_bytes()))
        made[name] = Tokenizer.from_gguf(path)
    made["storyteller"] = Tokenizer.from_metadata(vocab_metadata(ROOT / "models" / "storyteller"))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_published_cases(tokenizers: dict[str, Tokenizer], name: str) -> None:
    expected = [[int(id) for id in line.split()] for line in (VOCAB / f"{name}.out").read_text().split("\n")]
    assert len(expected) == len(CASES)
    for text, ids in zip(CASES, expected, strict=True):
        assert tokenizers[name].encode(text, add_special=False) == ids, text


@pytest.mark.parametrize("name", LOSSLESS)
def test_decoding_gives_the_text_again(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    every = "\n".join(map(chr, [*range(0x2581), *range(0x2582, 0xD800), *range(0xE000, 0x10000)]))
    for given in [*CASES, every]:
        ids = tokenizer.encode(given, add_special=False)
        text = unicodedata.normalize("NFC", given) if name == "qwen2" else given  # the original of that one normalizes
        assert tokenizer.decode(ids) == text
        detokenizer = Detokenizer(tokenizer, at_start=True)
        pieces = [detokenizer.push(id) for id in ids]
        assert "".join(pieces) + detokenizer.finish() == text
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def tiny(**changes: object) -> dict[str, object]:
    """A byte-level vocabulary of four letters, two merges and one control token."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "abc", "<|end|>"],
        "tokenizer.ggml.token_type": [1, 1, 1, 1, 1, 3],
        "tokenizer.ggml.merges": ["a b", "ab c"],
        "tokenizer.ggml.eos_token_id": 5,
    } | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def test_specials() -> None:
    tokenizer = Tokenizer.from_metadata(tiny(bos_token_id=5, add_bos_token=True))
    assert tokenizer.encode("abc<|end|>", parse_special=True) == [5, 4, 5]
    assert tokenizer.encode("<|end|>abc", parse_special=True) == [5, 4]  # BOS is not added twice
    assert 5 not in tokenizer.encode("abc<|end|>", add_special=False)
    assert tokenizer.decode([4, 5]) == "abc"
    assert tokenizer.decode([4, 5], skip_special=False) == "abc<|end|>"
    assert tokenizer.stop_ids == {5}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": ["a", "b", "c", "ab", "abc", "a"]}, "unique"),
        ({"tokens": []}, "0 tokens"),
        ({"token_type": [1, 1]}, "one per token"),
        ({"token_type": [1, 1, 1, 1, 1, 7]}, "expected 0 to 6"),
        ({"token_type": [6, 1, 1, 1, 1, 1]}, "<0xHH>"),
        ({"merges": ["ab"]}, "two parts"),
        ({"merges": ["a "]}, "two parts"),
        ({"merges": ["a d"]}, "must be tokens"),
        ({"merges": ["b c"]}, "must be tokens"),
        ({"eos_token_id": 6}, "6 tokens"),
        ({"bos_token_id": -1}, "6 tokens"),
        ({"bos_token_id": "a"}, "token id"),
        ({"add_bos_token": 1}, "bool"),
        ({"model": 3}, "string"),
        ({"tokens": ["a", "b", "c", "ab", "abc", "<" + 1100 * "x"]}, "1024"),
    ],
)
def test_broken_metadata_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        Tokenizer.from_metadata(tiny(**changes))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"gpt-2, .*llama-bpe"):
        Tokenizer.from_metadata(tiny(pre="no-such"))
    with pytest.raises(UnsupportedError, match="gpt2"):
        Tokenizer.from_metadata(tiny(model="no-such"))


def test_long_words(tokenizers: dict[str, Tokenizer]) -> None:
    # A megabyte of one word: quadratic merging would take hours.
    tokenizer = tokenizers["gpt-2"]
    for text in ["a" * 2**20, "ab" * 2**19, " " * 2**20, "\u0301" * 2**19]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
