"""What the checkpoints of tests/data/torch hold, and a writer of such files that makes hostile ones too."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "data" / "torch"
STORAGES = {
    "F64": "DoubleStorage", "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "I64": "LongStorage",
    "I32": "IntStorage", "I16": "ShortStorage", "I8": "CharStorage", "U8": "ByteStorage", "BOOL": "BoolStorage",
}  # fmt: skip
# name: (dtype, the stored elements). BF16 and F8 as their bits.
EXPECTED: dict[str, tuple[str, np.ndarray]] = {
    "f64": ("F64", np.array([0.5, -1e300])),
    "f32": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
    "f16": ("F16", np.array([1.5, -2.0], np.float16)),
    "bf16": ("BF16", np.array([0x3F80, 0xC000, 0x7F80], np.uint16)),
    "i64": ("I64", np.array(2**40 + 1)),
    "i32": ("I32", np.array([-7, 7], np.int32)),
    "i16": ("I16", np.array([-300], np.int16)),
    "i8": ("I8", np.array([-1, 1], np.int8)),
    "u8": ("U8", np.array([255, 0], np.uint8)),
    "bool": ("BOOL", np.array([True, False])),
    "f8_e4m3": ("F8_E4M3", np.array([0x38, 0xB8], np.uint8)),
    "f8_e5m2": ("F8_E5M2", np.array([0x3C, 0xBC], np.uint8)),
    "empty": ("F32", np.zeros((0, 3), np.float32)),
    "transposed": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3).T),
    "every_second": ("F32", np.arange(20, dtype=np.float32)[3:10:2]),
    "inner": ("F32", np.arange(24, dtype=np.float32).reshape(4, 6)[1:3, 2:5]),
    "parameter": ("F32", np.ones(4, np.float32)),
    "tied": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
}


class Program:
    """A pickle, opcode by opcode."""

    def __init__(self, protocol: int = 2) -> None:
        self.code = bytearray([0x80, protocol])

    def op(self, *codes: bytes) -> Program:
        self.code += b"".join(codes)
        return self

    def value(self, value: object) -> Program:
        return self.op(pickle.dumps(value, 2)[2:-1])  # without PROTO and STOP

    def name(self, module: str, name: str) -> Program:
        return self.op(f"c{module}\n{name}\n".encode())

    def storage(self, kind: str, key: str, size: int) -> Program:
        self.op(b"(").value("storage").name("torch", kind).value(key).value("cpu").value(size)
        return self.op(pickle.TUPLE, pickle.BINPERSID)

    def tensor(self, kind: str, key: str, size: int, view: tuple[int, tuple, tuple]) -> Program:
        begin, shape, strides = view
        self.name("torch._utils", "_rebuild_tensor_v2").op(b"(").storage(kind, key, size)
        self.value(begin).value(shape).value(strides).value(False).name("collections", "OrderedDict").op(b")R")
        return self.op(pickle.TUPLE, pickle.REDUCE)

    def bytes(self) -> bytes:
        return bytes(self.code) + b"."


def state(tensors: Mapping[str, tuple[str, np.ndarray]]) -> tuple[bytes, dict[str, bytes]]:
    """A pickle of row-major tensors, and the bytes of each storage."""
    program, storages = Program().op(b"}("), {}
    for i, (name, (dtype, values)) in enumerate(tensors.items()):
        storages[str(i)] = np.ascontiguousarray(values).tobytes()
        strides = tuple(int(np.prod(values.shape[j + 1 :])) for j in range(values.ndim))
        program.value(name).tensor(STORAGES[dtype], str(i), values.size, (0, values.shape, strides))
    return program.op(b"u").bytes(), storages


def archive(code: bytes, storages: Mapping[str, bytes], extra: Mapping[str, bytes] | None = None) -> bytes:
    """The zip format."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        members = {"m/data.pkl": code, "m/byteorder": b"little"} | {f"m/data/{k}": v for k, v in storages.items()}
        for name, data in (members | dict(extra or {})).items():
            file.writestr(name, data)
    return out.getvalue()


FACTS = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def stream(
    code: bytes, storages: Mapping[str, tuple[int, bytes]], magic: int = 0x1950A86A20F9469CFC6C, facts: object = FACTS
) -> bytes:
    """The format before 1.6; storages are (elements, bytes)."""
    out = pickle.dumps(magic, 2) + pickle.dumps(1001, 2) + pickle.dumps(facts, 2) + code + pickle.dumps(list(storages), 2)
    return out + b"".join(struct.pack("<q", n) + data for n, data in storages.values())
