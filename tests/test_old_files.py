"""Files of llama.cpp before August 2023: GGUF version 1, GGJT and GGMF become the GGUF that they stand for; what else there was
is refused (tests/test_hostile_files.py)."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_hostile_files import opens_or_refuses, put, refused

import llmq
from llmq.errors import FormatError, LimitError, ModelFileError, TruncatedError, UnsupportedError, UnsupportedQuantError
from llmq.formats import open_checkpoint
from llmq.quant.rows import quantize
from llmq.quant.types import QuantType


def text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


def version_1(path: Path) -> bytes:
    """A GGUF of version 3 as version 1: the same, with 32 bits for lengths, counts and dimensions."""
    with open_checkpoint(path) as model:
        infos, data, offset = [], b"", 0
        for tensor in model.tensors.values():
            dims = tensor.shape[::-1]
            infos.append(text(tensor.name) + struct.pack(f"<I{len(dims)}IIQ", len(dims), *dims, tensor.type, offset))
            piece = tensor.raw().tobytes()
            data += piece + bytes(-len(piece) % 32)
            offset = len(data)
        kvs = []
        for key, value in model.metadata.items():
            if isinstance(value, str):
                kvs.append(text(key) + struct.pack("<I", 8) + text(value))
            elif isinstance(value, list):
                kvs.append(text(key) + struct.pack("<III", 9, 8, len(value)) + b"".join(map(text, value)))
            elif isinstance(value, np.ndarray):
                kvs.append(text(key) + struct.pack("<III", 9, 6, len(value)) + value.astype("<f4").tobytes())
            else:
                form = "<If" if isinstance(value, float) else "<II"
                kvs.append(text(key) + struct.pack(form, 6 if isinstance(value, float) else 4, value))
    head = b"GGUF" + struct.pack("<III", 1, len(infos), len(kvs)) + b"".join(kvs + infos)
    return head + bytes(-len(head) % 32) + data


def model_of_version_3(path: Path) -> Path:
    made = tiny.checkpoint()
    made.metadata["tokenizer.ggml.tokens"] = [f"t{i}" for i in range(61)]
    made.metadata["tokenizer.ggml.scores"] = np.arange(61, dtype=np.float32)
    return tiny.write_gguf(made, path)


def test_gguf_of_version_1_is_converted(tmp_path: Path) -> None:
    new = model_of_version_3(tmp_path / "new.gguf")
    old = put(tmp_path / "old.gguf", version_1(new))
    with open_checkpoint(new) as one, open_checkpoint(old) as two:
        assert str(one.metadata) == str(two.metadata) and list(one.tensors) == list(two.tensors)
    for name, path in (("a", new), ("b", old)):
        llmq.convert_model(path, tmp_path / f"{name}.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_every_truncation_of_version_1_is_refused(tmp_path: Path) -> None:
    whole = version_1(model_of_version_3(tmp_path / "new.gguf"))
    header = whole.index(b"token_embd.weight")
    for n in [*range(0, header, 7), *range(header, len(whole), 4001)]:
        refused(put(tmp_path / "old.gguf", whole[:n]), ModelFileError, None)


NAMES = {
    "token_embd": "tok_embeddings", "output_norm": "norm", "output": "output", "attn_norm": "attention_norm",
    "attn_q": "attention.wq", "attn_k": "attention.wk", "attn_v": "attention.wv", "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm", "ffn_gate": "feed_forward.w1", "ffn_down": "feed_forward.w2", "ffn_up": "feed_forward.w3",
}  # fmt: skip
TOKENS = [b"", b"", b"", *(bytes([i]) for i in range(256)), b" ", b"a", b" a", "é".encode()]


def ggjt_head(name: str, shape: tuple[int, ...], kind: int) -> bytes:
    return struct.pack("<III", len(shape), len(name), kind) + struct.pack(f"<{len(shape)}I", *reversed(shape)) + name.encode()


def encoded(values: np.ndarray, qtype: QuantType) -> bytes:
    if not qtype.is_float:
        return quantize(values, qtype).tobytes()
    return values.astype("<f2" if qtype is QuantType.F16 else "<f4").tobytes()


def ggjt(
    qtype: QuantType = QuantType.Q8_0,
    version: int = 3,
    fields: tuple = (263, 64, 32, 4, 2, 16, 7),
    encode: Callable[[np.ndarray, QuantType], bytes] = encoded,
    *,
    magic: bytes = b"tjgg",
    step: int = 32,
) -> tuple[bytes, dict]:
    """A random LLaMA of two key heads as GGJT; and its values by the names of GGUF."""
    out = magic + struct.pack("<I7I", version, *fields)
    for id, token in enumerate(TOKENS):
        out += struct.pack("<I", len(token)) + token + struct.pack("<f", -id)
    rng = np.random.default_rng(3)
    values = {}
    for name, shape in tiny.llama_shapes(len(TOKENS), 64, 2, 96, 32).items() | {("output.weight", (len(TOKENS), 64))}:
        values[name] = rng.standard_normal(shape).astype(np.float32) / 8
    for name, array in sorted(values.items()):
        stem, _, suffix = name.removeprefix("blk.").partition(".weight")
        block, _, rest = stem.rpartition(".")
        old = (f"layers.{block}." if block else "") + NAMES[rest] + ".weight" + suffix
        kind = qtype if array.ndim == 2 else QuantType.F32
        out += ggjt_head(old, array.shape, kind)
        out += bytes(-len(out) % step) + encode(array, kind)
    return out, values


def test_ggjt_of_version_3_is_converted(tmp_path: Path) -> None:
    data, values = ggjt()
    path = put(tmp_path / "old.bin", data)
    llmq.convert_model(path, tmp_path / "new.gguf")
    with llmq.read_tensors(tmp_path / "new.gguf") as tensors:
        assert set(tensors) == set(values)
        for name, array in values.items():
            expected = array.tobytes() if array.ndim == 1 else quantize(array, QuantType.Q8_0).tobytes()
            assert tensors[name].raw().tobytes() == expected and tensors[name].shape == array.shape, name
    with open_checkpoint(tmp_path / "new.gguf") as model:
        assert model.metadata["llama.attention.head_count_kv"] == 2 and model.metadata["llama.feed_forward_length"] == 96
        assert model.metadata["tokenizer.ggml.tokens"][:5] == ["<unk>", "<s>", "</s>", "<0x00>", "<0x01>"]
        assert model.metadata["tokenizer.ggml.tokens"][259:] == ["\u2581", "a", "\u2581a", "é"]
    assert llmq.inspect(path).format == "GGJT" and "llama.block_count" in llmq.inspect(path).metadata
    with llmq.load(tmp_path / "new.gguf") as llm:
        assert llm.tokenize("a a") == [1, 261, 261]
        assert np.isfinite(llm.logits([1, 261])).all()


def old_blocks(values: np.ndarray, qtype: QuantType, version: int) -> tuple[bytes, np.ndarray, bytes]:
    """Weights in blocks of GGJT 1 or 2, written here from their description: the bytes, the exact values, and today's blocks
    with the same integers."""
    x = values.reshape(-1, 32)
    bits, has_min, half = int(qtype.name[1]), qtype.name.endswith("1"), qtype.name.startswith("Q5")
    least, most = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    if has_min:
        numbers = np.concatenate([(most - least) / np.float32(2**bits - 1), least], axis=1)
    else:
        numbers = np.abs(x).max(axis=1, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
    numbers = numbers.astype(np.float16).astype(np.float32) if half else numbers
    d, m = numbers[:, :1], numbers[:, 1:] if has_min else np.float32(0)
    off, low, high = (0, -127, 127) if bits == 8 else (0 if has_min else 2 ** (bits - 1), 0, 2**bits - 1)
    q = np.rint((x - m) / d + off).clip(low, high).astype(np.int16)
    exact = (q - off).astype(np.float32) * d + m
    fours = (q & 15).astype(np.uint8)
    fifth = [np.packbits((q >> 4).astype(np.uint8), axis=1, bitorder="little")] if bits == 5 else []
    today = q.astype(np.int8).view(np.uint8) if bits == 8 else fours[:, :16] | fours[:, 16:] << 4
    then = fours[:, ::2] | fours[:, 1::2] << 4 if bits < 8 and version == 1 else today
    head = numbers.astype(np.float16).view(np.uint8)
    old = np.concatenate([head if half else numbers.view(np.uint8), *fifth, then], axis=1)
    return old.tobytes(), exact.reshape(values.shape), np.concatenate([head, *fifth, today], axis=1).tobytes()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_ggjt_of_versions_1_and_2_keeps_what_it_had(kind: str, version: int, tmp_path: Path) -> None:
    qtype = QuantType[kind]

    def encode(values: np.ndarray, found: QuantType) -> bytes:
        return encoded(values, found) if found.is_float else old_blocks(values, found, version)[0]

    data, values = ggjt(qtype, version, encode=encode)
    path = put(tmp_path / "old.bin", data)
    report = llmq.convert_model(path, tmp_path / "new.gguf")
    llmq.convert_model(path, tmp_path / "exact.gguf", "F32")
    with llmq.read_tensors(tmp_path / "new.gguf") as new, llmq.read_tensors(tmp_path / "exact.gguf") as exact:
        assert set(new) == set(exact) == set(values)
        for name, array in values.items():
            if array.ndim == 1 or qtype.is_float:
                want, today = array.astype(np.float16 if kind == "F16" and array.ndim == 2 else np.float32), None
            else:
                _, want, today = old_blocks(array, qtype, version)
            np.testing.assert_array_equal(exact[name].numpy(), want.astype(np.float32))
            assert new[name].raw().tobytes() == (want.tobytes() if today is None else today), name
    rounded = {t.name for t in report.tensors if not t.exact}
    assert rounded == ({n for n, a in values.items() if a.ndim == 2} if kind in ("Q4_0", "Q4_1", "Q8_0") else set())
    with open_checkpoint(path) as model:
        assert all((t.packed is not None) == (t.name in rounded) for t in model.tensors.values())
    assert llmq.inspect(path).format == "GGJT"


def test_ggmf_is_converted_when_it_holds_floats(tmp_path: Path) -> None:
    data, values = ggjt(QuantType.F16, 1, magic=b"fmgg", step=1)
    llmq.convert_model(put(tmp_path / "old.bin", data), tmp_path / "new.gguf")
    with llmq.read_tensors(tmp_path / "new.gguf") as tensors:
        for name, array in values.items():
            assert tensors[name].raw().tobytes() == encoded(array, QuantType.F16 if array.ndim == 2 else QuantType.F32), name
    quantized = ggjt(QuantType.Q4_0, 1, magic=b"fmgg", step=1)[0]
    refused(put(tmp_path / "q.bin", quantized), UnsupportedError, "is Q4_0, which cannot be taken from a GGMF file; get the")


def test_what_ggjt_1_and_2_did_not_have_or_cannot_give(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    old, _ = ggjt(QuantType.Q4_0, 1, encode=lambda x, t: encoded(x, t) if t.is_float else old_blocks(x, t, 1)[0])
    at = old.index(b"layers.0.attention.wk.weight") - 12
    for number, name in ((4, "Q4_2"), (5, "Q4_3"), (12, "Q4_K"), (99, "type id 99")):
        changed = old[:at] + struct.pack("<I", number) + old[at + 4 :]
        refused(put(path, changed), UnsupportedError, f"wk.weight' is {name}, which cannot be taken from a GGJT 1 file")
    data = old.index(b"layers.0.attention.wk.weight") + len("layers.0.attention.wk.weight")
    data += -data % 32
    for bits, message in ((0x7FC00000, "holds NaN or infinity"), (0x7F000000, "has values beyond float32|beyond binary16")):
        put(path, old[:data] + struct.pack("<I", bits) + old[data + 4 :])
        with pytest.raises(FormatError, match=f"blk.0.attn_k.weight' ({message})"):
            llmq.convert_model(path, tmp_path / "x.gguf")
        assert not (tmp_path / "x.gguf").exists()
    part = ggjt(QuantType.F16, 1, (263, 128, 32, 4, 2, 16, 1))[0]
    refused(put(path, part), UnsupportedError, "has 64 of 128 columns: the file is one of several")


WHOLE = ggjt()[0]
FIRST = WHOLE.index(b"layers.0.attention.wk.weight") - 20  # the header of a tensor


def changed(at: int, value: int) -> bytes:
    return WHOLE[:at] + struct.pack("<I", value) + WHOLE[at + 4 :]


RULES = {
    "no tokens": (changed(8, 0), LimitError, "n_vocab is 0; expected 1 to"),
    "too many layers": (changed(24, 2**31), LimitError, "n_layer is 2147483648"),
    "a token too long": (changed(36, 2**30), LimitError, "token 0 has 1073741824 bytes"),
    "tokens beyond the file": (changed(8, 2**20), ModelFileError, "token"),
    "no dimensions": (changed(FIRST, 0), FormatError, "a tensor of 0 dimensions"),
    "a long name": (changed(FIRST + 4, 2**31), FormatError, "name of 2147483648 bytes"),
    "a removed type": (changed(FIRST + 8, 4), FormatError, "type id 4, which was removed"),
    "a type unknown here": (changed(FIRST + 8, 24), UnsupportedQuantError, "is I8"),
    "rows of no whole blocks": (changed(FIRST + 12, 33), FormatError, r"has the shape \(32, 33\)"),
    "a dimension of 0": (changed(FIRST + 12, 0), FormatError, r"has the shape \(32, 0\)"),
    "beyond the file": (changed(FIRST + 16, 2**31), TruncatedError, "ends at byte.*download it again"),
    "another name": (WHOLE.replace(b"attention.wk", b"attention.wx"), FormatError, "'layers.0.attention.wx.weight' is none"),
    "a tensor twice": (WHOLE.replace(b"attention.wk", b"attention.wv"), FormatError, "none of LLaMA's, or comes twice"),
    "heads that do not fit": (changed(20, 5), FormatError, "keys do not fit n_embd and n_head"),
    "token is no UTF-8": (WHOLE.replace("é".encode(), b"\xc3\xc3"), FormatError, "token 262 is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_ggjt_rule(rule: str, tmp_path: Path) -> None:
    data, error, message = RULES[rule]
    refused(put(tmp_path / "m.bin", data), error, message)


def test_ggjt_cut_or_flipped(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    rng = random.Random(5)
    for n in range(8, len(WHOLE), 997):
        refused(put(path, WHOLE[:n]), ModelFileError, None)
    last = WHOLE.rindex(b"tok_embeddings") - 20
    refused(put(path, WHOLE[:last]), TruncatedError, "tensor token_embd missing")
    for _ in range(300):
        at = rng.randrange(len(WHOLE)) if rng.random() < 0.3 else rng.choice([rng.randrange(60), FIRST + rng.randrange(48)])
        opens_or_refuses(path, WHOLE[:at] + bytes([rng.randrange(256)]) + WHOLE[at + 1 :], open_checkpoint)
