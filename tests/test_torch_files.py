"""PyTorch checkpoints without PyTorch: files that it made, every rule for pickle and zip, and folders of .bin shards."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_hostile_files import put, refused
from test_huggingface import CONFIG, TOKENIZER, folder, weights
from torch_cases import EXPECTED, FACTS, FOLDER, Program, archive, state, stream

from llmq.errors import FormatError, LimitError, ModelFileError, TruncatedError, UnsafeFileError, UnsupportedError
from llmq.formats.torch_file import open_torch
from llmq.inspection import inspect
from llmq.quant.quantizer import quantize_model


def read(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    source, tensors, _ = open_torch(path)
    found = {name: (t.dtype, t.array().copy()) for name, t in tensors.items()}
    source.close()
    return found


@pytest.mark.parametrize("name", ["zip.pt", "stream.pt"])
def test_files_of_pytorch(name: str) -> None:
    found = read(FOLDER / name)
    assert list(found) == list(EXPECTED)
    for key, (dtype, values) in EXPECTED.items():
        assert found[key][0] == dtype
        assert found[key][1].dtype == values.dtype and np.array_equal(found[key][1], values), key


def test_nested_dicts_and_lists_are_joined_with_dots() -> None:
    found = read(FOLDER / "nested.pt")
    assert list(found) == [*(f"model.{name}" for name in EXPECTED), "rates.0"]
    assert np.array_equal(found["model.inner"][1], EXPECTED["inner"][1])


def test_views_are_lazy_and_dense_ones_are_not_copied() -> None:
    source, tensors, _ = open_torch(FOLDER / "zip.pt")
    assert not tensors["f32"].array().flags.owndata and not tensors["f32"].array().flags.writeable
    assert tensors["f32"].strides is None and tensors["transposed"].strides == (1, 3)
    assert tensors["tied"].offset == tensors["f32"].offset
    source.close()


def test_modules_and_programs_are_refused_by_name() -> None:
    refused(FOLDER / "module.pt", UnsafeFileError, "'module/data.pkl': asks for 'torch.nn.modules.linear.Linear'", open_torch)
    refused(FOLDER / "script.pt", FormatError, "'script/code/.*linear.py' is compressed.*TorchScript", open_torch)


class Trap:
    """Pickles to a call of os.mkdir."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_is_never_run(tmp_path: Path) -> None:
    trap = {"weight": Trap(tmp_path / "sprung")}
    for protocol in (0, 1, 2, 3, 4, 5):
        path = put(tmp_path / "m.bin", archive(pickle.dumps(trap, protocol), {}))
        refused(path, UnsafeFileError, "'m/data.pkl': asks for 'posix.mkdir'" if protocol != 5 else "posix.mkdir", open_torch)
    put(path, stream(pickle.dumps(trap, 2), {}))
    refused(path, UnsafeFileError, "the pickle of tensors: asks for 'posix.mkdir'", open_torch)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(trap))  # what Python's own machine does
    assert (tmp_path / "sprung").exists()


def one(shape: tuple = (2, 3), strides: tuple = (3, 1), *, begin: int = 0, size: int = 6, key: str = "0") -> bytes:
    return Program().op(b"}").value("w").tensor("FloatStorage", key, size, (begin, shape, strides)).op(b"s").bytes()


def named(module: str, name: str) -> bytes:
    return Program().name(module, name).bytes()


def of(*codes: bytes) -> bytes:
    return Program().op(*codes).bytes()


CALL = b"ccollections\nOrderedDict\n"
PICKLE_RULES: dict[str, tuple[bytes, type[ModelFileError], str]] = {
    "eval": (named("builtins", "eval"), UnsafeFileError, "'builtins.eval'"),
    "system": (named("os", "system"), UnsafeFileError, "'os.system'"),
    "a dotted name": (named("torch", "_utils._rebuild_tensor_v2"), UnsafeFileError, "'torch._utils._rebuild_tensor_v2'"),
    "a dotted module": (named("torch._utils", "os.system"), UnsafeFileError, "'torch._utils.os.system'"),
    "a name with an escape": (named("torch._ut\\x69ls", "_rebuild_tensor_v2"), UnsafeFileError, "x69ls._rebuild_tensor_v2'"),
    "a name near the list": (named("torch", "load"), UnsafeFileError, "'torch.load'"),
    "a name from the stack": (of(b"\x8c\x02os\x8c\x06system\x93"), UnsafeFileError, "'os.system'"),
    "a name that is a number": (of(b"K\x01K\x02\x93"), FormatError, "no string"),
    "INST": (of(b"(ios\nsystem\n"), UnsafeFileError, "opcode INST"),
    "OBJ": (of(b"(", CALL, b"o"), UnsafeFileError, "opcode OBJ"),
    "NEWOBJ_EX": (of(CALL, b")}\x92"), UnsafeFileError, "opcode NEWOBJ_EX"),
    "EXT1": (of(b"\x82\x01"), UnsafeFileError, "opcode EXT1"),
    "a buffer from elsewhere": (of(b"\x97"), UnsafeFileError, "opcode NEXT_BUFFER"),
    "a persistent id as text": (of(b"Pstorage\n"), UnsafeFileError, "opcode PERSID"),
    "no opcode": (of(b"\xff"), FormatError, "not a whole pickle"),
    "no end": (Program().bytes()[:-1] + b"N", FormatError, "not a whole pickle"),
    "a string cut off": (b"\x80\x02X\xff\xff\xff\x7fabc", FormatError, "not a whole pickle"),
    "a string of 2^63": (b"\x80\x04\x8d" + b"\xff" * 8, FormatError, "not a whole pickle"),
    "an empty stack": (of(b"a"), FormatError, "expected a value on the stack"),
    "append to no list": (of(b"}Na"), FormatError, "expected a list"),
    "items of no dict": (of(b"](NNu"), FormatError, "expected a dict"),
    "a key without a value": (of(b"}(Nu"), FormatError, "a key without a value"),
    "a key that is a tuple": (of(b"}))s"), FormatError, "neither string nor number"),
    "nested a hundred thousand deep": (of(b"}", b")" + b"\x85" * 100_000, b"Ns"), FormatError, "neither string nor number"),
    "no mark": (of(b"Nt"), FormatError, "a mark is missing"),
    "a mark for a value": (of(b"(\x85"), FormatError, "expected a value"),
    "two values": (of(b"NN"), FormatError, "2 values are left"),
    "no value": (of(b""), FormatError, "0 values are left"),
    "memo never set": (of(b"h\x05"), FormatError, "memo 5"),
    "a call of no name": (of(b"K\x01)R"), FormatError, "a call of what is no name"),
    "a call without arguments": (of(CALL, b"NR"), FormatError, "without arguments"),
    "too many arguments": (of(CALL, b"NNN\x87R"), FormatError, "wrong number of arguments"),
    "a storage that is made": (of(b"ctorch\nFloatStorage\n)R"), FormatError, "made, not read"),
    "a number of 800 bits": (of(b"\x8a\x64" + b"\x7f" * 100), FormatError, "a number of"),
    "a persistent id of nothing": (of(b"NQ"), FormatError, "no storage"),
    "pairs that are none": (of(CALL, b"](Ne\x85R"), FormatError, "no pairs"),
    "a storage without a size": (
        Program().op(b"(").value("storage").name("torch", "FloatStorage").value("0").value("cpu").value(-1).op(b"tQ").bytes(),
        FormatError, "a storage without type, key and size",
    ),
    "a storage of a dtype and its other": (
        Program().op(b"(").storage("FloatStorage", "0", 6).storage("HalfStorage", "0", 12).op(b"t").bytes(),
        FormatError, "elements of 4 and of 2 bytes",
    ),
    "a tensor of no storage": (
        Program().name("torch._utils", "_rebuild_tensor_v2").op(b"(NK\x00))t", b"R").bytes(), FormatError, "without a storage",
    ),
    "beyond the storage": (one((2, 4), (4, 1)), FormatError, "'w' of 8 elements reaches to element 7 of a storage of 6"),
    "begins too late": (one(begin=1), FormatError, "reaches to element 6"),
    "a stride too long": (one((2, 3), (2**40, 1)), FormatError, "of a storage of 6"),
    "a negative stride": (one((2, 3), (-3, 1)), FormatError, "are no sizes"),
    "a negative size": (one((-2, 3), (3, 1)), FormatError, "are no sizes"),
    "a size of 2^62": (one((2**62, 1), (1, 1)), FormatError, "are no sizes"),
    "a stride of 0 that multiplies": (one((10**12, 3), (0, 1)), FormatError, "'w' of 3000000000000 elements"),
    "strides for other dimensions": (one((2, 3), (1,)), FormatError, "shape and strides"),
    "9 dimensions": (one((1,) * 9, (1,) * 9), FormatError, "shape and strides"),
    "a bool for a size": (one((True, 3), (3, 1)), FormatError, "are no sizes"),
    "a storage larger than its member": (one(size=7), FormatError, "28 bytes of storage '0' announced, but it has 24"),
    "a storage that is missing": (one(key="1"), FormatError, "storage '1' announced, but it is missing"),
    "a list in itself": (of(b"]q\x00(h\x00h\x00e"), LimitError, "levels"),
    "a name of a million": (
        Program().op(b"}").value("n" * 10**6).tensor("FloatStorage", "0", 6, (0, (6,), (1,))).op(b"s").bytes(),
        LimitError, "name of more than 512",
    ),
    "a name twice": (
        Program().op(b"}(").value("a.b").tensor("FloatStorage", "0", 6, (0, (6,), (1,))).value("a").op(b"}").value("b")
        .tensor("FloatStorage", "0", 6, (0, (6,), (1,))).op(b"su").bytes(),
        FormatError, "two tensors are named 'a.b'",
    ),
    "a million tensors": (
        Program().op(b"](").tensor("FloatStorage", "0", 6, (0, (6,), (1,))).op(b"q\x00", b"h\x00" * 10**5, b"e").bytes(),
        LimitError, "more than 65536 tensors",
    ),
    "too many steps": (of(b"](", b"N" * (1 << 20), b"e"), LimitError, "more than 1048576 steps"),
}  # fmt: skip


@pytest.mark.parametrize("rule", PICKLE_RULES)
def test_pickle_rule(rule: str, tmp_path: Path) -> None:
    code, error, message = PICKLE_RULES[rule]
    refused(put(tmp_path / "m.bin", archive(code, {"0": bytes(24)})), error, message, open_torch)


def test_copies_of_one_list_are_limited(tmp_path: Path) -> None:
    code = of(b"](", b"X\x01\x00\x00\x00aN\x86" * 1500, b"e\x85q\x00]", (CALL + b"h\x00Ra") * 1500, b"\x86")
    path = put(tmp_path / "m.bin", archive(code, {}))
    refused(path, LimitError, "steps", open_torch)


def whole() -> bytes:
    return archive(one(), {"0": bytes(24)})


def entry_changed(at: int, value: bytes) -> bytes:
    """The archive with bytes of its first directory entry replaced."""
    data = whole()
    start = data.index(b"PK\x01\x02") + at
    return data[:start] + value + data[start + len(value) :]


def end_changed(at: int, value: bytes) -> bytes:
    data = whole()
    start = data.rindex(b"PK\x05\x06") + at
    return data[:start] + value + data[start + len(value) :]


def with_duplicate(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning):
        file.writestr("m/data.pkl", one())
        file.writestr("m/data.pkl", one())
    return path.read_bytes()


def zip64_size(size: int) -> bytes:
    """The archive with the first member's sizes in an extra block of 64 bits."""
    data = whole()
    start, extra = data.index(b"PK\x01\x02"), struct.pack("<HHQQ", 1, 16, size, size)
    name = start + 46 + len("m/data.pkl")
    lengths = data[start + 28 : start + 30] + struct.pack("<H", 20)
    entry = data[start : start + 20] + b"\xff" * 8 + lengths + data[start + 32 : name]
    end = data.rindex(b"PK\x05\x06")
    length = struct.pack("<I", end - start + 20)
    return data[:start] + entry + extra + data[name:end] + data[end : end + 12] + length + data[end + 16 :]


ZIP_RULES: dict[str, tuple[bytes, type[ModelFileError], str]] = {
    "compressed": (entry_changed(10, b"\x08\x00"), FormatError, "'m/data.pkl' is compressed"),
    "two sizes": (entry_changed(20, b"\x01\x00\x00\x00"), FormatError, "'m/data.pkl' is compressed"),
    "encrypted": (entry_changed(8, b"\x01\x00"), FormatError, "'m/data.pkl' is encrypted"),
    "larger than the file": (entry_changed(20, struct.pack("<II", 10**9, 10**9)), FormatError, "reaches beyond its archive"),
    "over its neighbour": (
        entry_changed(20, struct.pack("<II", len(one()) + 44, len(one()) + 44)), FormatError, "'m/data.pkl' and 'm/byteorder'",
    ),
    "somewhere else": (entry_changed(42, struct.pack("<I", 7)), FormatError, "is not where the directory says"),
    "beyond the file": (entry_changed(42, struct.pack("<I", 10**9)), FormatError, "is not where the directory says"),
    "another name": (entry_changed(46, b"x/data.pkl"), FormatError, "is not where the directory says"),
    "no entry": (entry_changed(0, b"PK\x09\x09"), FormatError, "ends at member 0 of 3"),
    "more members than bytes": (end_changed(10, b"\xff\xff"), LimitError, "65535 members"),
    "directory beyond the file": (end_changed(16, b"\xf0\xff\xff\x7f"), TruncatedError, "beyond the file"),
    "no directory": (whole()[:-22], TruncatedError, "no directory at its end"),
    "zip64 directory elsewhere": (
        whole()[:-22] + b"PK\x06\x07" + struct.pack("<IQI", 0, 3, 1) + whole()[-22:], FormatError, "zip64 directory is not",
    ),
    "zip64 directory beyond the file": (
        whole()[:-22] + b"PK\x06\x07" + struct.pack("<IQI", 0, 2**63, 1) + whole()[-22:], FormatError, "zip64",
    ),
    "a size in 64 bits beyond the file": (zip64_size(2**62), FormatError, "'m/data.pkl' reaches beyond its archive"),
    "no pickle": (archive(b"", {}).replace(b"data.pkl", b"data.pkx"), FormatError, "without one NAME/data.pkl"),
    "two pickles": (archive(one(), {}, {"n/data.pkl": one()}), FormatError, "without one NAME/data.pkl"),
    "big-endian": (archive(one(), {}).replace(b"little", b"big\0\0\0"), UnsupportedError, "big-endian"),
}  # fmt: skip


@pytest.mark.parametrize("rule", ZIP_RULES)
def test_zip_rule(rule: str, tmp_path: Path) -> None:
    data, error, message = ZIP_RULES[rule]
    refused(put(tmp_path / "m.bin", data), error, message, open_torch)


def test_a_member_twice(tmp_path: Path) -> None:
    data = with_duplicate(tmp_path / "m.zip")
    refused(put(tmp_path / "m.bin", data), FormatError, "'m/data.pkl' appears twice", open_torch)


STREAM_RULES: dict[str, tuple[bytes, type[ModelFileError], str]] = {
    "another magic number": (stream(one(), {}, magic=7), FormatError, "magic number"),
    "no magic number": (pickle.dumps({"a": 1}, 2), FormatError, "magic number"),
    "big-endian": (stream(one(), {}, facts=FACTS | {"little_endian": False}), UnsupportedError, "big-endian"),
    "a key of no tensor": (stream(one(), {"7": (6, bytes(24))}), FormatError, "storage keys are not those"),
    "a storage too short": (stream(one(), {"0": (5, bytes(20))}), FormatError, "storage '0' announced, but it has 20"),
    "a storage beyond the file": (stream(one(), {"0": (6, bytes(23))}), TruncatedError, "storage '0' ends at byte"),
    "a storage of 2^62": (stream(one(), {"0": (2**62, bytes(24))}), TruncatedError, "download it again"),
}  # fmt: skip


@pytest.mark.parametrize("rule", STREAM_RULES)
def test_stream_rule(rule: str, tmp_path: Path) -> None:
    data, error, message = STREAM_RULES[rule]
    refused(put(tmp_path / "m.bin", data), error, message, open_torch)


@pytest.mark.parametrize("name", ["zip", "stream"])
def test_every_truncation(name: str, tmp_path: Path) -> None:
    data = whole() if name == "zip" else stream(one(), {"0": (6, bytes(24))})
    for n in range(len(data)):
        refused(put(tmp_path / "m.bin", data[:n]), ModelFileError, None, open_torch)


def bin_folder(path: Path, given: dict[str, np.ndarray]) -> Path:
    """As `folder` of test_huggingface, in two shards of PyTorch checkpoints, one of each format."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    names = sorted(given)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for i, (shard, mine) in enumerate(shards.items()):
        code, storages = state({name: ("F16", given[name]) for name in mine})
        counted = {key: (len(data) // 2, data) for key, data in storages.items()}
        (path / shard).write_bytes(stream(code, counted) if i else archive(code, storages))
    where = {name: shard for shard, mine in shards.items() for name in mine}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return path


def test_bin_shards_become_the_gguf_of_their_safetensors_twin(tmp_path: Path) -> None:
    given = weights()
    twins = bin_folder(tmp_path / "bin", given), folder(tmp_path / "safe", given)
    for recipe in ("F16", "Q8_0"):
        outputs = []
        for twin in twins:
            quantize_model(twin, tmp_path / "out.gguf", recipe)
            outputs.append((tmp_path / "out.gguf").read_bytes())
        assert outputs[0] == outputs[1]


def test_inspect() -> None:
    found = inspect(FOLDER / "zip.pt")
    assert found.format == "PyTorch checkpoint" and [row.name for row in found.tensors] == list(EXPECTED)
    row = next(row for row in found.tensors if row.name == "transposed")
    assert (row.shape, row.type, row.bytes) == ((3, 2), "F32", 24)
