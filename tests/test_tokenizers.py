"""Tokenizers: the published cases of real vocabularies, decoding, hostile metadata and hostile texts."""

from __future__ import annotations

import base64
import json
import lzma
import struct
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmq import _text
from llmq.errors import FormatError, UnsupportedError
from llmq.formats import open_checkpoint
from llmq.text.detokenizer import Detokenizer
from llmq.text.hf_vocab import vocab_metadata
from llmq.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
VOCAB = ROOT / "tests" / "data" / "vocab"
NAMES = ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "bert-bge"]
LOSSLESS = ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "storyteller"]
CASES = (VOCAB / "cases.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")

GOLDEN = json.loads(lzma.decompress((VOCAB.parent / "tokenizers.json.xz").read_bytes()))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("vocab")
    made = {}
    for name in NAMES:
        path = folder / f"{name}.gguf"
        path.write_bytes(lzma.decompress((VOCAB / f"{name}.gguf.xz").read_bytes()))
        made[name] = Tokenizer.from_gguf(path)
        if name == "bert-bge":
            with open_checkpoint(path) as checkpoint:
                cased = {**checkpoint.metadata, "tokenizer.ggml.normalizer.lowercase": False}
            made["bert-bge cased"] = Tokenizer.from_metadata(cased)
    made["storyteller"] = Tokenizer.from_metadata(vocab_metadata(ROOT / "models" / "storyteller"))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_published_cases(tokenizers: dict[str, Tokenizer], name: str) -> None:
    expected = [[int(id) for id in line.split()] for line in (VOCAB / f"{name}.out").read_text().split("\n")]
    assert len(expected) == len(CASES)
    for text, ids in zip(CASES, expected, strict=True):
        assert tokenizers[name].encode(text, add_special=False) == ids, text


@pytest.mark.parametrize("name", sorted(GOLDEN["cuts"]))
def test_cuts_equal_those_of_the_definitions(name: str) -> None:
    for text, lengths in zip(GOLDEN["texts"], GOLDEN["cuts"][name], strict=True):
        assert [len(word) for word in _text.cut(name, text)] == lengths, text
        assert b"".join(_text.cut(name, text)) == text.encode()


@pytest.mark.parametrize("name", sorted(GOLDEN["ids"]))
def test_ids_equal_the_original_tokenizers(tokenizers: dict[str, Tokenizer], name: str) -> None:
    for text, ids in zip(GOLDEN["texts"], GOLDEN["ids"][name], strict=True):
        assert tokenizers[name].encode(text, add_special=False) == ids, text


def test_the_mark_of_words_may_stand_in_a_word(tokenizers: dict[str, Tokenizer]) -> None:
    # what the tokenizers library gives for the vocabulary with ## in place of the missing marks
    for text, ids in (("lr\u2581\u03b2", [100]), ("e\u2581 \u2581e f", [100, 100, 1042]), ("\u2581", [100])):
        assert tokenizers["bert-bge"].encode(text, add_special=False) == ids, text


def test_gemma_4() -> None:
    # llama.cpp's own kind: merges, in the order of which "ab" comes before "bc" whatever the scores say; no space before a text
    tokens = ["<unk>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "c", "\u2581", "ab", "bc", "\u2581ab"]
    metadata = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([0.0] * (len(tokens) - 2) + [1.0, 0.0], np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, *[6] * 256, *[1] * 7], np.int32),
        "tokenizer.ggml.merges": ["a b", "b c", "\u2581 ab"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    tokenizer = Tokenizer.from_metadata(metadata)
    ids = tokenizer.encode("abc ab\n")
    assert [tokenizer.token(id) for id in ids] == ["<bos>", "ab", "c", "\u2581ab", "<0x0A>"]
    assert tokenizer.decode(ids) == "abc ab\n"


@pytest.mark.parametrize("name", LOSSLESS)
def test_decoding_gives_the_text_again(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    every = "\n".join(map(chr, [*range(0x2581), *range(0x2582, 0xD800), *range(0xE000, 0x10000)]))
    for source in [*CASES, every]:
        ids = tokenizer.encode(source, add_special=False)
        text = unicodedata.normalize("NFC", source) if name == "qwen2" else source  # the original of that one normalizes
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


SPM = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", "<0x41>"],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -9.0, -8.0, -8.0, -1.0, -2.0, 0.0],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1, 6],
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": [0.0]}, "one per token"),
        ({"scores": [float("nan")] * 9}, "finite"),
        ({"scores": ["a"] * 9}, "one per token"),
        ({"token_type": [1] * 9, "tokens": ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "a" * 2000, "c"]}, "1024"),
        ({"model": "t5", "precompiled_charsmap": [1, 2, 3]}, "no such map"),
        ({"model": "t5", "precompiled_charsmap": [4, 0, 0, 0, 0, 0, 0, 0, 255, 0]}, "no such map"),
        ({"model": "t5", "precompiled_charsmap": "x"}, "bytes"),
    ],
)
def test_broken_sentencepiece_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        Tokenizer.from_metadata({**SPM, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()}})


def test_unknown_characters_of_sentencepiece() -> None:
    tokenizer = Tokenizer.from_metadata(SPM)
    assert tokenizer.encode("ab bab", add_special=False) == [6, 5, 3, 5, 7]  # "▁a" before "ab": its score is higher
    assert tokenizer.encode("a") == [1, 6]
    assert tokenizer.encode("xy", add_special=False) == [3, 0]  # without a token for every byte: one unknown token
    ids = {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0}
    unigram = Tokenizer.from_metadata({**SPM, **ids, "tokenizer.ggml.model": "t5"})
    assert unigram.encode("aab") == [4, 7, 2]
    assert unigram.encode("axyb", add_special=False) == [4, 0, 5]


METADATA = st.fixed_dictionaries(
    {
        "tokenizer.ggml.model": st.sampled_from(["gpt2", "llama", "bert", "t5"]),
        "tokenizer.ggml.tokens": st.lists(st.text("ab▁Ġ <0x41>é\0", max_size=6), min_size=1, max_size=8),
    },
    optional={
        "tokenizer.ggml.pre": st.sampled_from(sorted(GOLDEN["cuts"])),
        "tokenizer.ggml.token_type": st.lists(st.integers(0, 6), max_size=8),
        "tokenizer.ggml.scores": st.lists(st.floats(width=32), max_size=8),
        "tokenizer.ggml.merges": st.lists(st.text("ab ▁Ġ", max_size=5), max_size=6),
        "tokenizer.ggml.precompiled_charsmap": st.binary(max_size=24).map(lambda data: np.frombuffer(data, np.uint8)),
        "tokenizer.ggml.unknown_token_id": st.integers(-1, 8),
        "tokenizer.ggml.bos_token_id": st.integers(-1, 8),
        "tokenizer.ggml.add_space_prefix": st.booleans(),
        "tokenizer.ggml.remove_extra_whitespaces": st.booleans(),
        "tokenizer.llmq.lstrip": st.lists(st.integers(0, 8), max_size=2),
        "tokenizer.llmq.rstrip": st.lists(st.integers(0, 8), max_size=2),
        "tokenizer.llmq.whole_word": st.lists(st.integers(0, 8), max_size=2),
    },
)


@settings(max_examples=400, deadline=None)
@given(METADATA, st.text("ab▁ é\n\0<0x41>😀", max_size=30))
def test_any_metadata_loads_or_is_refused(metadata: dict[str, object], text: str) -> None:
    for key in ("token_type", "scores"):  # mostly of the right length, so that more of them load
        values = metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(values, list) and values:
            n = len(metadata["tokenizer.ggml.tokens"])  # type: ignore[arg-type]
            metadata[f"tokenizer.ggml.{key}"] = (values * n)[:n]
    try:
        tokenizer = Tokenizer.from_metadata(metadata)  # type: ignore[arg-type]
    except (FormatError, UnsupportedError):
        return
    for parse_special in (False, True):
        ids = tokenizer.encode(text, parse_special=parse_special)
        assert all(0 <= id < tokenizer.n_vocab for id in ids)
        tokenizer.decode(ids)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"gpt-2, .*llama-bpe"):
        Tokenizer.from_metadata(tiny(pre="no-such"))
    with pytest.raises(UnsupportedError, match="gpt2"):
        Tokenizer.from_metadata(tiny(model="no-such"))


def test_spaces_at_the_end_of_unigram(tmp_path: Path) -> None:
    """tokenizer.json keeps one, unless it says otherwise; ids are those that Hugging Face's tokenizers gives."""
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    words = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}
    precompiled = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(struct.pack("<IIB", 4, 0, 0)).decode()}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    once = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}
    vocab = [["<unk>", 0.0], ["\u2581", -3.0], ["\u2581a", -1.0], ["\u2581b", -2.0]]
    path = tmp_path / "tokenizer.json"
    cases = [([precompiled, once], metaspace, [1]), ([precompiled, strip, once], metaspace, []), ([], words, [])]
    for steps, pre, last in cases:
        normalizer = {"type": "Sequence", "normalizers": steps} if steps else None
        model = {"type": "Unigram", "unk_id": 0, "vocab": vocab}
        path.write_text(json.dumps({"model": model, "normalizer": normalizer, "pre_tokenizer": pre, "added_tokens": []}))
        tokenizer = Tokenizer.from_file(path)
        for text, ids in (("a", [2]), ("  a", [2]), ("a  b", [2, 3]), ("a ", [2, *last]), ("a   ", [2, *last]), ("  ", last)):
            assert tokenizer.encode(text, add_special=False) == ids


def test_unknown_words_of_wordpiece(tmp_path: Path) -> None:
    """The unknown token is the one that the model names, also when no other file does."""
    model = {"type": "WordPiece", "unk_token": "[NO]", "vocab": {"a": 0, "##b": 1, "[NO]": 2}}
    normalizer = {"type": "BertNormalizer", "lowercase": True}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": model, "normalizer": normalizer, "pre_tokenizer": {"type": "BertPreTokenizer"}}))
    assert Tokenizer.from_file(path).encode("ab c a", add_special=False) == [0, 1, 2, 0]


def test_texts_that_are_no_utf8_or_no_plain_str(tokenizers: dict[str, Tokenizer]) -> None:
    """Surrogates as tiktoken has them; a subclass of str is the text that it holds."""
    for tokenizer in tokenizers.values():
        assert tokenizer.encode("a\ud83d\ude00b") == tokenizer.encode("a😀b")
        for lone in ("a\ud83db", "a\udc00b"):
            assert tokenizer.encode(lone) == tokenizer.encode("a\ufffdb")
        assert tokenizer.encode("a\ud83d") == tokenizer.encode("a\ufffd")
        assert tokenizer.encode(np.str_("Hello")) == tokenizer.encode("Hello")
        for wrong in (None, b"a", 5):
            with pytest.raises(TypeError, match="a text expected"):
                tokenizer.encode(wrong)  # type: ignore[arg-type]


def test_long_words(tokenizers: dict[str, Tokenizer]) -> None:
    # A megabyte of one word: quadratic merging would take hours.
    tokenizer = tokenizers["gpt-2"]
    for text in ["a" * 2**20, "ab" * 2**19, " " * 2**20, "\u0301" * 2**19]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text


def test_out_of_memory_is_an_error() -> None:
    code = """
import resource
from pathlib import Path
from llmq.text.hf_vocab import vocab_metadata
from llmq.text.tokenizer import Tokenizer
tokenizer = Tokenizer.from_metadata(vocab_metadata(Path("models/storyteller")))
text = "a" * 2**25
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, used + 2**25))
try:
    tokenizer.encode(text)
except MemoryError as error:
    print("refused:", error)
print(len(tokenizer.encode("a" * 1000)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "refused: no memory to tokenize 33554432 bytes" in done.stdout
    assert done.stdout.split()[-1].isdigit()


def test_threads_share_a_tokenizer(tokenizers: dict[str, Tokenizer]) -> None:
    texts = GOLDEN["texts"] * 3
    for name in ("qwen2", "llama-spm", "bert-bge"):
        alone = [tokenizers[name].encode(text) for text in texts]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(tokenizers[name].encode, texts)) == alone
