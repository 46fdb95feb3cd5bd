"""Split GGUF: written as llama.cpp names and marks the parts, read as one from any of them, merged, and every rule."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tiny
from gguf import GGUFReader
from test_hostile_files import ARCH, F32, I32, U16, gguf, refused, scalar, tensor

import llmq
from llmq.errors import Cancelled, FormatError, TruncatedError
from llmq.formats import atomic, open_checkpoint
from llmq.quant.quantizer import quantize_model


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return tiny.write_gguf(tiny.checkpoint(), tmp_path / "whole.gguf")


def parts_of(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("m"))


def test_parts_have_the_names_keys_and_tensors_that_llama_cpp_gives_them(whole: Path, tmp_path: Path) -> None:
    report = quantize_model(whole, tmp_path / "m.gguf", "COPY", split_max_tensors=12)
    names = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert parts_of(tmp_path) == names and report.destination == str(tmp_path / names[0]) and len(report.files) == 3
    assert report.file_bytes == sum((tmp_path / name).stat().st_size for name in names)
    readers = [GGUFReader(tmp_path / name) for name in names]
    assert [len(reader.tensors) for reader in readers] == [12, 12, 5]
    for no, reader in enumerate(readers):
        fields = {key: field for key, field in reader.fields.items() if key.startswith("split.")}
        assert [(key, field.contents(), field.types[0].name) for key, field in fields.items()] == [
            ("split.no", no, "UINT16"), ("split.count", 3, "UINT16"), ("split.tensors.count", 29, "INT32"),
        ]  # fmt: skip
        assert ("llama.block_count" in reader.fields) == (no == 0)


@pytest.mark.parametrize("given", [1, 2, 3])
def test_any_part_opens_the_model(given: int, whole: Path, tmp_path: Path) -> None:
    quantize_model(whole, tmp_path / "m.gguf", "COPY", split_max_tensors=12)
    path = tmp_path / f"m-0000{given}-of-00003.gguf"
    with open_checkpoint(whole) as one, open_checkpoint(path) as split:
        assert split.metadata == one.metadata | {"general.quantization_version": 2}
        assert sorted(split.tensors) == sorted(one.tensors)
        for name, item in one.tensors.items():
            assert np.array_equal(item.raw(), split.tensors[name].raw())
    assert llmq.inspect(path).format == "GGUF in 3 parts"


def test_splitting_and_merging_gives_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    quantize_model(whole, tmp_path / "one.gguf", "Q8_0")
    quantize_model(whole, tmp_path / "m.gguf", "Q8_0", split_max_size="20K")
    assert len(parts_of(tmp_path)) > 3
    quantize_model(tmp_path / parts_of(tmp_path)[0], tmp_path / "merged.gguf", "COPY")
    assert (tmp_path / "merged.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()


def test_sizes(tmp_path: Path, whole: Path) -> None:
    quantize_model(whole, tmp_path / "m.gguf", "COPY", split_max_size=60_000)
    for name in parts_of(tmp_path):
        assert sum(int(t.n_bytes) for t in GGUFReader(tmp_path / name).tensors) <= 60_000
    quantize_model(whole, tmp_path / "n.gguf", "COPY", split_max_size="1G")
    assert (tmp_path / "n.gguf").exists()  # one part is no split
    quantize_model(whole, tmp_path / "p.gguf", "COPY", split_max_size=1)  # a tensor is never cut
    assert (tmp_path / "p-00001-of-00029.gguf").exists()
    for size in ("2T", "much", "0M", "-1K", 0):
        with pytest.raises(ValueError, match="split_max_size"):
            quantize_model(whole, tmp_path / "q.gguf", "COPY", split_max_size=size)
    with pytest.raises(ValueError, match="split_max_tensors is 0"):
        quantize_model(whole, tmp_path / "q.gguf", "COPY", split_max_tensors=0)


def test_all_parts_or_none(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Cancelled):
        quantize_model(whole, tmp_path / "m.gguf", "COPY", split_max_tensors=5, progress=lambda _, done, total: done < total)
    assert parts_of(tmp_path) == []
    # the parts take their names last to first; what fails on the way takes them back
    renamed: list[str] = []
    replace = os.replace

    def failing(src: str, dst: str, **folders: int) -> None:
        renamed.append(dst)
        if dst.startswith("m-00002"):
            raise OSError(5, "Input/output error")
        replace(src, dst, **folders)

    monkeypatch.setattr(atomic.os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error"):
        quantize_model(whole, tmp_path / "m.gguf", "COPY", split_max_tensors=8)
    assert renamed == ["m-00004-of-00004.gguf", "m-00003-of-00004.gguf", "m-00002-of-00004.gguf"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.gguf"]


def test_a_part_of_the_source_is_not_overwritten(whole: Path, tmp_path: Path) -> None:
    quantize_model(whole, tmp_path / "m.gguf", "COPY", split_max_tensors=12)
    with pytest.raises(ValueError, match="one of the source's files"):
        quantize_model(tmp_path / "m-00001-of-00003.gguf", tmp_path / "m.gguf", "Q8_0", split_max_tensors=12)


def marks(no: int, count: int = 2, tensors: int = 2) -> list[bytes]:
    return [scalar("split.no", U16, no), scalar("split.count", U16, count), scalar("split.tensors.count", I32, tensors)]


def part(name: str, *keys: bytes) -> bytes:
    return gguf(list(keys), [tensor(name, (8,))], bytes(32))


FIRST, SECOND = part("a", ARCH, *marks(0)), part("b", *marks(1))
RULES = {
    "missing": ({1: FIRST}, TruncatedError, "1 of the 2 parts of this model are missing: 'm-00002-of-00002.gguf'"),
    "first missing": ({2: SECOND}, TruncatedError, "missing: 'm-00001-of-00002.gguf'"),
    "another number": ({1: SECOND, 2: FIRST}, FormatError, "its name must end with -00002-of-00002.gguf"),
    "another model's": ({1: FIRST, 2: part("b", *marks(1, 3))}, FormatError, "split.count is 3 where 2"),
    "the first twice": ({1: FIRST, 2: FIRST}, FormatError, "split.no is 0 where 1"),
    "a whole file": ({1: FIRST, 2: gguf([ARCH])}, FormatError, "split.no is None where 1"),
    "a tensor twice": ({1: FIRST, 2: part("a", *marks(1))}, FormatError, "'a' is in an earlier part"),
    "a tensor too few": (
        {1: part("a", ARCH, *marks(0, 2, 3)), 2: part("b", *marks(1, 2, 3))},
        FormatError, "split.tensors.count is 3, but the parts have 2",
    ),
    "a wrong type": (
        {1: gguf([ARCH, scalar("split.no", F32, 0.0), scalar("split.count", U16, 2)])}, FormatError, "'split.no': expected u16",
    ),
    "65535 parts": ({1: gguf([ARCH, *marks(0, 65535)])}, FormatError, "must end with -00001-of-65535.gguf"),
    "a part cut short": ({1: FIRST, 2: SECOND[:-8]}, TruncatedError, "'b' ends at byte"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str, tmp_path: Path) -> None:
    files, error, message = RULES[rule]
    paths = {no: tmp_path / f"m-0000{no}-of-00002.gguf" for no in files}
    for no, path in paths.items():
        path.write_bytes(files[no])
    blamed = {"a tensor twice": 2, "another model's": 2, "the first twice": 2, "a whole file": 2, "a part cut short": 2}
    given = next(iter(paths.values()))
    if rule in blamed:
        with pytest.raises(error, match=message) as caught:
            open_checkpoint(given)
        assert caught.value.path == str(paths[2])
    else:
        refused(given, error, message)


def test_a_part_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "renamed.gguf").write_bytes(SECOND)
    refused(tmp_path / "renamed.gguf", FormatError, "one of 2 parts of a model: its name must end with -00002-of-00002.gguf")


def test_many_missing_parts_are_named_shortly(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00900.gguf"
    path.write_bytes(gguf([ARCH, *marks(0, 900)]))
    refused(path, TruncatedError, "899 of the 900 parts.*'m-00005-of-00900.gguf' and 895 more")
