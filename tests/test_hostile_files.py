"""Files that must be refused: every rule for GGUF and safetensors, every truncation, flipped bytes, look-alikes.

A refusal is a ModelFileError of the right kind that names the file, the key or tensor, and the byte. Anything else (another
exception, a crash, a hang, a file that loads) is a failure.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from llmq.errors import FormatError, LimitError, ModelFileError, TruncatedError, UnsafeFileError, UnsupportedError
from llmq.formats import open_checkpoint
from llmq.formats.safetensors import open_safetensors
from llmq.formats.source import Source
from llmq.formats.torch_file import open_torch

FUZZ_SECONDS = float(os.environ.get("LLMQ_FUZZ_SECONDS", "2"))
U8, U16, U32, I32, F32, BOOL, STR, ARRAY, U64 = 0, 2, 4, 5, 6, 7, 8, 9, 10


def text(s: str | bytes) -> bytes:
    data = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(data)) + data


def scalar(key: str, kind: int, value: object) -> bytes:
    forms = {U8: "<B", U16: "<H", I32: "<i", U32: "<I", F32: "<f", BOOL: "<B", U64: "<Q"}
    return text(key) + struct.pack("<I", kind) + (text(value) if kind == STR else struct.pack(forms[kind], value))


def array(key: str, kind: int, values: list, n: int | None = None) -> bytes:
    forms = {U8: "B", I32: "i", U32: "I", F32: "f", BOOL: "B"}
    body = b"".join(text(v) for v in values) if kind == STR else struct.pack(f"<{len(values)}{forms.get(kind, 'B')}", *values)
    return text(key) + struct.pack("<IIQ", ARRAY, kind, len(values) if n is None else n) + body


def tensor(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0, n_dims: int | None = None) -> bytes:
    head = text(name) + struct.pack("<I", len(dims) if n_dims is None else n_dims)
    return head + struct.pack(f"<{len(dims)}QIQ", *dims, kind, offset)


ARCH = scalar("general.architecture", STR, "llama")
TOKENS = array("tokenizer.ggml.tokens", STR, ["a", "b", "c"])
EMBD = tensor("token_embd.weight", (8, 3))
DATA = bytes(96)


def gguf(
    kvs: list[bytes],
    tensors: list[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    n_kv: int | None = None,
    n_tensors: int | None = None,
    align: int = 32,
) -> bytes:
    counts = (len(tensors) if n_tensors is None else n_tensors, len(kvs) if n_kv is None else n_kv)
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*kvs, *tensors])
    return head + bytes(-len(head) % align) + data


WHOLE = gguf(
    [
        ARCH, TOKENS, scalar("tokenizer.ggml.bos_token_id", U32, 1), array("tokenizer.ggml.scores", F32, [0.0, 1.0, 2.0]),
        scalar("tokenizer.ggml.add_bos_token", BOOL, 1), array("x.flags", BOOL, [0, 1]), array("x.empty", U8, []),
    ],
    [EMBD, tensor("blk.0.attn_norm.weight", (8,), 0, 96), tensor("q", (32, 2), 2, 128)],
    DATA + bytes(32) + bytes(36),
)  # fmt: skip


def with_tensor(*tensors: bytes, data: bytes = DATA) -> bytes:
    return gguf([ARCH], list(tensors), data)


GGUF_RULES: dict[str, tuple[bytes, type[ModelFileError], str]] = {
    "no tensors fit": (gguf([ARCH], n_tensors=500), LimitError, "500 tensors announced"),
    "too many keys": (gguf([ARCH], data=bytes(2_000_000), n_kv=65_537), LimitError, "65537 metadata entries"),
    "too many tensors": (gguf([ARCH], data=bytes(2_000_000), n_tensors=2**40), LimitError, "tensors announced"),
    "more keys than bytes": (gguf([], n_kv=60_000), LimitError, "60000 metadata entries"),
    "fewer keys than announced": (gguf([ARCH], n_kv=2, data=bytes(64)), FormatError, "key 1 of 2 is empty"),
    "version 4": (gguf([ARCH], version=4), UnsupportedError, "version 4 is unknown"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), UnsupportedError, "big-endian"),
    "long string": (gguf([text("k") + struct.pack("<IQ", STR, 2**63)]), TruncatedError, "'k'.*announces 9223372036854775808"),
    "string past the end": (gguf([text("k") + struct.pack("<IQ", STR, 1000)]), TruncatedError, "announces 1000 bytes"),
    "string over 16 MiB": (gguf([scalar("k", STR, "x" * (2**24 + 1))]), LimitError, "16777217 bytes"),
    "key over 64 KiB": (gguf([ARCH, scalar("k" * 65_536, U8, 0)]), LimitError, "key 1 of 2 has 65536 bytes"),
    "token over 64 KiB": (gguf([array("tokenizer.ggml.tokens", STR, ["a", "x" * 65_537])]), LimitError, r"tokens'\[1\]"),
    "key is not UTF-8": (gguf([text(b"\xff\xfe") + struct.pack("<IB", U8, 0)]), FormatError, "key 0 of 1 is not UTF-8"),
    "token is not UTF-8": (gguf([array("tokenizer.ggml.tokens", STR, ["a", b"\xc3"])]), FormatError, "not UTF-8"),
    "empty key": (gguf([scalar("", U8, 0)]), FormatError, "is empty"),
    "key twice": (gguf([ARCH, ARCH]), FormatError, "'general.architecture' appears twice"),
    "unknown value type": (gguf([text("k") + struct.pack("<II", 13, 0)]), FormatError, "'k' has the unknown value type 13"),
    "array count": (gguf([array("k", U8, [1], 2**24 + 1)]), LimitError, "16777217 elements"),
    "array count beyond the file": (gguf([array("k", F32, [1.0], 1000)]), TruncatedError, "announces 1000 elements"),
    "string array beyond the file": (gguf([array("k", STR, ["a"], 1000)]), TruncatedError, "announces 1000 elements"),
    "nested array": (gguf([text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1)]), FormatError, "nested"),
    "array of an unknown type": (gguf([array("k", 77, [])]), FormatError, "unknown value type 77"),
    "bool of 2": (gguf([scalar("k", BOOL, 2)]), FormatError, "bool of value 2"),
    "array of bools": (gguf([array("k", BOOL, [0, 1, 7])]), FormatError, "neither 0 nor 1"),
    "wrong type": (gguf([ARCH, scalar("llama.block_count", F32, 1.0)]), FormatError, "block_count.*expected u32, found f32"),
    "wrong element type": (
        gguf([array("tokenizer.ggml.tokens", F32, [1.0])]), FormatError, "expected array of str, found array of f32",
    ),
    "scalar for an array": (
        gguf([ARCH, scalar("tokenizer.ggml.scores", F32, 1.0)]), FormatError, "expected array of f32, found f32",
    ),
    "no architecture": (gguf([TOKENS]), FormatError, "general.architecture is missing"),
    "architecture is a number": (gguf([scalar("general.architecture", U32, 7)]), FormatError, "expected str, found u32"),
    "importance matrix": (gguf([scalar("general.type", STR, "imatrix")]), UnsupportedError, "importance matrix"),
    "one of three parts": (gguf([ARCH, scalar("split.count", U16, 3)]), FormatError, "one of 3 parts.*end with -NUMBER-of"),
    "alignment 0": (gguf([ARCH, scalar("general.alignment", U32, 0)]), FormatError, "alignment is 0"),
    "alignment 48": (gguf([ARCH, scalar("general.alignment", U32, 48)]), FormatError, "alignment is 48"),
    "alignment 2^17": (gguf([ARCH, scalar("general.alignment", U32, 2**17)]), FormatError, "alignment is 131072"),
    "alignment as u64": (gguf([ARCH, scalar("general.alignment", U64, 32)]), FormatError, "expected u32, found u64"),
    "0 dimensions": (with_tensor(tensor("t", ()), data=bytes(64)), FormatError, "'t' has 0 dimensions"),
    "5 dimensions": (with_tensor(tensor("t", (1, 1, 1, 1, 1))), FormatError, "'t' has 5 dimensions"),
    "2^32 - 1 dimensions": (with_tensor(tensor("t", (8,), n_dims=2**32 - 1)), FormatError, "4294967295 dimensions"),
    "dimension 0": (with_tensor(tensor("t", (8, 0))), FormatError, r"dimensions \[8, 0\]"),
    "product overflows": (with_tensor(tensor("t", (2**32, 2**32))), FormatError, "fewer than 2"),
    "product wraps to small": (with_tensor(tensor("t", (2**33, 2**31))), FormatError, "fewer than 2"),
    "sum overflows": (with_tensor(tensor("t", (2**61,)), tensor("u", (2**61,), 0, 2**63)), FormatError, "beyond 2"),
    "row is no whole block": (with_tensor(tensor("t", (33,), 2)), FormatError, "rows of 33 are not whole blocks of Q4_0"),
    "removed type": (with_tensor(tensor("t", (32,), 4)), FormatError, "type id 4, which was removed"),
    "unknown type": (with_tensor(tensor("t", (32,), 999)), FormatError, "unknown type id 999"),
    "unsupported type": (with_tensor(tensor("t", (32,), 26)), UnsupportedError, "is I32; llmq reads F32"),
    "empty tensor name": (with_tensor(tensor("", (8,))), FormatError, "the name of tensor 0 of 1 is empty"),
    "tensor name of 64": (with_tensor(tensor("n" * 64, (8,))), LimitError, "64 bytes; at most 63"),
    "tensor twice": (with_tensor(tensor("t", (8,)), tensor("t", (8,), 0, 32)), FormatError, "'t' appears twice"),
    "offset overlaps": (with_tensor(tensor("t", (8,)), tensor("u", (8,), 0, 0)), FormatError, "'u' is announced at offset 0"),
    "offset leaves a hole": (with_tensor(tensor("t", (8,)), tensor("u", (8,), 0, 64)), FormatError, "at offset 64.*end at 32"),
    "offset misaligned": (with_tensor(tensor("t", (8,), 0, 8)), FormatError, "at offset 8"),
    "data missing": (with_tensor(tensor("t", (25,))), TruncatedError, "'t' ends at byte.*download it again"),
    "rows against tokens": (gguf([ARCH, TOKENS], [tensor("token_embd.weight", (8, 2))], DATA), FormatError, "3 tokens.*2 rows"),
    "token twice": (
        gguf([ARCH, array("tokenizer.ggml.tokens", STR, ["a", "", "", "a"])]), FormatError, "'a' appears twice.* as 3",
    ),
    "scores too short": (
        gguf([ARCH, TOKENS, array("tokenizer.ggml.scores", F32, [1.0])]), FormatError, "1 elements for 3 tokens",
    ),
    "types too long": (gguf([ARCH, TOKENS, array("tokenizer.ggml.token_type", I32, [1] * 4)]), FormatError, "4 elements for 3"),
    "bos beyond": (gguf([ARCH, TOKENS, scalar("tokenizer.ggml.bos_token_id", U32, 3)]), FormatError, "bos_token_id is 3"),
    "unk beyond": (
        gguf([ARCH, TOKENS, scalar("tokenizer.ggml.unknown_token_id", U32, 9)]), FormatError, "unknown_token_id is 9",
    ),
}  # fmt: skip


def put(path: Path, data: bytes) -> Path:
    """A new file: overwriting one makes ext4 write to the disk at once."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def refused(path: Path, error: type[ModelFileError], message: str | None, opener: Callable = open_checkpoint) -> ModelFileError:
    with pytest.raises(error, match=message) as caught:
        opener(path)
    assert caught.value.path == str(path) and str(caught.value).startswith(str(path)) and caught.value.code
    assert len(str(caught.value)) < len(str(path)) + 400
    if caught.value.offset is not None:
        assert 0 <= caught.value.offset <= max(path.stat().st_size, 16)
    return caught.value


@pytest.mark.parametrize("rule", GGUF_RULES)
def test_gguf_rule(rule: str, tmp_path: Path) -> None:
    data, error, message = GGUF_RULES[rule]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    refused(path, error, message)


def test_the_whole_file_loads_and_empty_tokens_may_repeat(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for data in (WHOLE, gguf([ARCH, array("tokenizer.ggml.tokens", STR, ["a", "", ""])])):
        put(path, data)
        open_checkpoint(path).close()


def test_names_from_the_file_are_quoted_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([scalar("\n\x1b[31m" + "k" * 5000, BOOL, 2)]))
    error = refused(path, FormatError, "bool of value 2")
    assert "\n" not in str(error) and "\x1b" not in str(error)


def archive(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as z:
            z.writestr("archive/data.pkl", b"x")
    else:
        with tarfile.open(fileobj=out, mode="w") as t:
            t.addfile(tarfile.TarInfo("x"))
    return out.getvalue()


LOOKALIKES = {
    "empty": (b"", TruncatedError, "is empty"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", FormatError, "git lfs pull"),
    "HTML": (b"\n <!DOCTYPE html><html><body>404</body></html>", FormatError, "web page"),
    "JSON": (b'{"error": "not found"}', FormatError, "JSON"),
    "zip": (archive("zip"), FormatError, "zip archive"),
    "gzip": (gzip.compress(b"x" * 100), FormatError, "gzip"),
    "tar": (archive("tar"), FormatError, "tar archive"),
    "pickle": (b"\x80\x02}q\x00.", FormatError, "pickle"),
    "GGML": (b"lmgg" + bytes(64), UnsupportedError, "GGML.*no longer in use.*GGML lacks the scores of tokens"),
    "GGMF 2": (b"fmgg\2\0\0\0" + bytes(64), UnsupportedError, "GGMF.*convert its Hugging Face folder"),
    "GGJT 4": (b"tjgg\4\0\0\0" + bytes(64), UnsupportedError, "GGJT.*llmq reads GGMF version 1 and GGJT 1 to 3"),
    "GGLA": (b"algg\1\0\0\0" + bytes(64), UnsupportedError, "GGLA .a LoRA adapter."),
    "two letters": (b"GG", TruncatedError, "ends after 2 bytes"),
    "zeros": (bytes(4096), FormatError, "begins with 00 00"),
    "text": (b"Once upon a time", FormatError, "begins with"),
}


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_what_only_looks_like_a_model(kind: str, tmp_path: Path) -> None:
    data, error, message = LOOKALIKES[kind]
    for name, opener in (("m.gguf", open_checkpoint), ("m.safetensors", open_safetensors)):
        if name == "m.safetensors" and kind in ("zeros", "text", "two letters", "JSON"):
            continue
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, error, message, opener)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_what_stands_in_for_a_file_of_a_folder(name: str, tmp_path: Path) -> None:
    storyteller = Path(__file__).parent.parent / "models" / "storyteller"
    for file in storyteller.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / name).unlink()
    for kind in ("empty", "LFS pointer", "HTML", "gzip"):
        (tmp_path / name).write_bytes(LOOKALIKES[kind][0])
        with pytest.raises(LOOKALIKES[kind][1], match=LOOKALIKES[kind][2]) as caught:
            open_checkpoint(tmp_path)
        assert caught.value.path == str(tmp_path / name)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ModelFileError, match="model_type" if name == "config.json" else "'model' is missing"):
        open_checkpoint(tmp_path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    refused(tmp_path / "fifo.gguf", UnsafeFileError, "a FIFO")
    refused(tmp_path, FormatError, "no config.json")
    (tmp_path / "x.gguf").write_bytes(WHOLE)
    refused(tmp_path, FormatError, "it holds 'fifo.gguf'")
    with pytest.raises(FileNotFoundError) as caught:
        open_checkpoint(tmp_path / "none.gguf")
    assert caught.value.errno == errno.ENOENT and caught.value.filename.endswith("none.gguf")
    odd = tmp_path / os.fsdecode(b"\xff\xfe.gguf")  # a name that is no UTF-8
    odd.write_bytes(WHOLE)
    open_checkpoint(odd).close()
    odd.write_bytes(WHOLE[:50])
    refused(odd, ModelFileError, None)


def test_every_truncation_of_a_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for n in range(len(WHOLE)):
        put(path, WHOLE[:n])
        refused(path, ModelFileError, None)


def opens_or_refuses(path: Path, data: bytes, opener: Callable) -> None:
    """Any bytes: loaded, every tensor read; or a ModelFileError."""
    put(path, data)
    try:
        opened = opener(path)
    except ModelFileError:
        return
    if isinstance(opened, tuple):
        source, stored, _ = opened
        for item in stored.values():
            assert source.view(item.offset, item.nbytes).size == item.nbytes
            assert item.array().copy().shape == item.shape
        source.close()
    else:
        for item in opened.tensors.values():
            assert item.raw().size == item.nbytes
        opened.close()


def safetensors(header: object, data: bytes = b"", raw: bytes | None = None) -> bytes:
    body = json.dumps(header).encode() if raw is None else raw
    return struct.pack("<Q", len(body)) + body + data


def entry(dtype: object, shape: object, begin: object, end: object) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SMALL = safetensors(
    {
        "__metadata__": {"format": "pt"}, "a": entry("F32", [2, 3], 0, 24), "none": entry("F16", [0, 4], 24, 24),
        "b": entry("BF16", [], 24, 26),
    },
    bytes(26),
)  # fmt: skip

SAFETENSORS_RULES: dict[str, tuple[bytes, type[ModelFileError], str]] = {
    "header over 100 MB": (struct.pack("<Q", 100_000_001) + b"{" + bytes(99), LimitError, "100000001 bytes"),
    "header beyond the file": (struct.pack("<Q", 500) + b'{"a": 1}', TruncatedError, "500 bytes, but 8"),
    "no JSON": (safetensors({}, raw=b"{nonsense"), FormatError, "not JSON"),
    "no UTF-8": (safetensors({}, raw=b'{"\xff": 1}'), FormatError, "not UTF-8"),
    "NUL": (safetensors({}, raw=b'{"a\0": 1}'), FormatError, "NUL byte"),
    "key twice": (safetensors({}, raw=b'{"a": 1, "a": 2}'), FormatError, "'a' appears twice"),
    "inner key twice": (safetensors({}, raw=b'{"a": {"dtype": "F32", "dtype": "F16"}}'), FormatError, "'dtype' appears twice"),
    "NaN": (safetensors({}, raw=b'{"a": NaN}'), FormatError, "NaN is not JSON"),
    "Infinity": (safetensors({}, raw=b'{"a": [-Infinity]}'), FormatError, "Infinity is not JSON"),
    "9 levels": (safetensors({}, raw=b'{"a":' + b"[" * 8 + b"]" * 8 + b"}"), FormatError, "more than 8 levels"),
    "100000 levels": (safetensors({}, raw=b'{"a":' + b"[" * 100_000), FormatError, "more than 8 levels"),
    "huge integer": (safetensors({}, raw=b'{"a":' + b"9" * 5000 + b"}"), FormatError, "not usable JSON"),
    "no object": (safetensors({}, raw=b"{}[]"), FormatError, "not JSON"),
    "metadata of numbers": (safetensors({"__metadata__": {"a": 1}}), FormatError, "__metadata__"),
    "entry is no object": (safetensors({"a": []}), FormatError, "'a': expected an object of dtype"),
    "key missing": (safetensors({"a": {"dtype": "F32", "shape": []}}), FormatError, "'a': expected an object of dtype"),
    "key too many": (
        safetensors({"a": entry("U8", [1], 0, 1) | {"x": 1}}, b"0"), FormatError, "'a': expected an object of dtype",
    ),
    "unknown dtype": (safetensors({"a": entry("F31", [1], 0, 4)}, bytes(4)), FormatError, "unknown dtype 'F31'"),
    "dtype is a list": (safetensors({"a": entry(["F32"], [1], 0, 4)}, bytes(4)), FormatError, "unknown dtype"),
    "negative size": (safetensors({"a": entry("F32", [-1], 0, 4)}, bytes(4)), FormatError, "not a list of at most 8 sizes"),
    "bool for a size": (safetensors({"a": entry("U8", [True], 0, 1)}, b"0"), FormatError, "sizes"),
    "float for a size": (safetensors({"a": entry("U8", [1.0], 0, 1)}, b"0"), FormatError, "sizes"),
    "float for an offset": (safetensors({"a": entry("U8", [1], 0.0, 1)}, b"0"), FormatError, "not two offsets"),
    "offsets backwards": (safetensors({"a": entry("U8", [1], 1, 0)}, b"0"), FormatError, "not two offsets"),
    "9 dimensions": (safetensors({"a": entry("U8", [1] * 9, 0, 1)}, b"0"), FormatError, "sizes"),
    "product overflows": (safetensors({"a": entry("F32", [2**40, 2**40], 0, 4)}, bytes(4)), FormatError, "4 bytes stored"),
    "size against shape": (safetensors({"a": entry("F32", [2], 0, 4)}, bytes(4)), FormatError, "4 bytes stored.* is 8"),
    "hole at the start": (
        safetensors({"a": entry("U8", [1], 1, 2)}, bytes(2)), FormatError, "'a' begins at 1 and leaves a hole",
    ),
    "hole": (safetensors({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, bytes(3)), FormatError, "'b'.*hole"),
    "overlap": (
        safetensors({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, bytes(3)), FormatError, "'b'.*overlaps",
    ),
    "bytes missing": (safetensors({"a": entry("U8", [9], 0, 9)}, bytes(8)), TruncatedError, "'a' ends at byte"),
    "bytes left over": (safetensors({"a": entry("U8", [8], 0, 8)}, bytes(9)), FormatError, "1 bytes after the last tensor"),
}  # fmt: skip


@pytest.mark.parametrize("rule", SAFETENSORS_RULES)
def test_safetensors_rule(rule: str, tmp_path: Path) -> None:
    data, error, message = SAFETENSORS_RULES[rule]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    refused(path, error, message, open_safetensors)


def test_every_truncation_of_a_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    opens_or_refuses(path, SMALL, open_safetensors)
    for n in range(len(SMALL)):
        put(path, SMALL[:n])
        refused(path, ModelFileError, None, open_safetensors)


def test_a_hundred_megabytes_of_brackets_take_seconds_not_minutes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors({}, raw=b'{"a":' + b"[]," * 3_000_000 + b"[]}"))
    refused(path, FormatError, None, open_safetensors)


def test_a_header_that_lies_costs_no_memory(tmp_path: Path) -> None:
    # Counts and sizes near every limit in files of a few hundred bytes: refused before anything is allocated.
    path = tmp_path / "m.gguf"
    tracemalloc.start()
    for kind in (U8, F32, STR, BOOL):
        for n in (2**24, 2**31, 2**40, 2**63, 2**64 - 1):
            path.write_bytes(gguf([array("k", kind, [], n)], data=bytes(64)))
            refused(path, ModelFileError, None)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


CODE, STORAGES = torch_cases.state({"w": ("F32", np.zeros((2, 3), np.float32))})
ZIP = torch_cases.archive(CODE, STORAGES)
STREAM = torch_cases.stream(CODE, {key: (6, data) for key, data in STORAGES.items()})
FORMATS = [(WHOLE, open_checkpoint), (SMALL, open_safetensors), (ZIP, open_torch), (STREAM, open_torch)]


@pytest.mark.parametrize(("whole", "opener"), FORMATS, ids=["gguf", "safetensors", "zip", "stream"])
def test_every_byte_flipped(whole: bytes, opener: Callable, tmp_path: Path) -> None:
    rng = random.Random(7)
    path = tmp_path / "m"
    for at in range(len(whole)):
        for value in {0, 0xFF, whole[at] ^ 1, whole[at] ^ 0x80, rng.randrange(256)}:
            opens_or_refuses(path, whole[:at] + bytes([value]) + whole[at + 1 :], opener)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_spliced_files(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Pieces of valid files cut, repeated, moved and overwritten with chosen integers."""
    path = tmp_path_factory.getbasetemp() / "spliced"
    whole, opener = data.draw(st.sampled_from(FORMATS))
    made = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(made)))
        end = data.draw(st.integers(at, min(len(made), at + 40)))
        piece = data.draw(
            st.one_of(
                st.binary(max_size=12),
                st.sampled_from([struct.pack("<Q", n) for n in (0, 1, 2**31, 2**32, 2**63, 2**64 - 1)]),
                st.just(bytes(made[at:end]) * 2),
            )
        )
        made[at:end] = piece
    opens_or_refuses(path, bytes(made), opener)


def test_fuzz_files(tmp_path: Path) -> None:
    """Random mutations for LLMQ_FUZZ_SECONDS; the seed of a failing round is its file's name."""
    rng = random.Random()
    end = time.monotonic() + FUZZ_SECONDS
    while time.monotonic() < end:
        seed = rng.randrange(2**32)
        one = random.Random(seed)
        whole, opener = one.choice(FORMATS)
        made = bytearray(whole)
        for _ in range(one.choice([1, 2, 4, 16])):
            at = one.randrange(len(made) + 1)
            kind = one.randrange(4)
            if kind == 0:
                made[at : at + 1] = bytes([one.randrange(256)])
            elif kind == 1:
                made[at : at + 8] = struct.pack("<Q", one.choice([0, 1, 2**24, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
            elif kind == 2:
                del made[at : at + one.randrange(1, 16)]
            else:
                source = one.randrange(len(made) + 1)
                made[at:at] = made[source : source + one.randrange(1, 64)]
        path = tmp_path / f"seed-{seed}"
        opens_or_refuses(path, bytes(made), opener)
        path.unlink()


def test_views_of_a_closed_source_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(WHOLE)
    source = Source(path)
    source.close()
    with pytest.raises(ValueError, match="was closed"):
        source.view(0, 4)
    assert np.frombuffer(path.read_bytes(), np.uint8).size == len(WHOLE)


def test_a_file_shortened_while_it_is_open_is_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "m.gguf", np.zeros(32, np.uint8)
    path.write_bytes(WHOLE)
    source = Source(path)
    source.fill(8, 4, out)
    assert out.tobytes() == WHOLE[12:44]
    os.truncate(path, 40)
    with pytest.raises(TruncatedError, match="shortened"):
        source.fill(8, 4, out)
    with pytest.raises(TruncatedError, match="shortened"):
        source.view(0, 4)
    source.close()
