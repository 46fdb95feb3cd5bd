"""Files of llama.cpp before August 2023: GGUF version 1 and GGJT version 3 become the GGUF that they stand for, the older ones
are refused (tests/test_hostile_files.py)."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_hostile_files import opens_or_refuses, put, refused

import llmq
from llmq.errors import FormatError, LimitError, ModelFileError, TruncatedError, UnsupportedQuantError
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


def ggjt_tensor(name: str, shape: tuple[int, ...], kind: int, data: bytes, at: int) -> bytes:
    head = struct.pack("<III", len(shape), len(name), kind) + struct.pack(f"<{len(shape)}I", *reversed(shape)) + name.encode()
    return head + bytes(-(at + len(head)) % 32) + data


def ggjt(qtype: QuantType = QuantType.Q8_0, version: int = 3, fields: tuple = (263, 64, 32, 4, 2, 16, 7)) -> tuple[bytes, dict]:
    """A random LLaMA of two key heads as GGJT; and its values by the names of GGUF."""
    out = b"tjgg" + struct.pack("<I7I", version, *fields)
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
        data = quantize(array, kind).tobytes() if kind is not QuantType.F32 else array.tobytes()
        out += ggjt_tensor(old, array.shape, kind, data, len(out))
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
