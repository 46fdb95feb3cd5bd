"""GGJT version 3, llama.cpp's format from June to August 2023, as the GGUF that stands for it. Only LLaMA came in it.

    "tjgg" | u32 version 3 | u32 n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, file type
    n_vocab times  u32 length, bytes | f32 score
    to the end     u32 n_dims | u32 length of the name | u32 ggml type | u32 dims[n_dims] (innermost first) | name
                   padding to 32 | data

Tensor data is as GGUF has it, so nothing is converted. The file does not say the trained context and the epsilon of the norms:
they are taken as llama.cpp took them. Before version 3 quantized blocks were laid out otherwise; such files are refused
(llmq/formats/source.py). Source: llama.cpp of July 2023, llama_file_loader in llama.cpp, and its convert-llama-ggml-to-gguf.py.
"""

from __future__ import annotations

import math
import struct
from functools import partial
from pathlib import Path

import numpy as np

from llmq.errors import FormatError, LimitError, TruncatedError, quoted
from llmq.formats.checkpoint import Checkpoint, MetaValue, Tensor
from llmq.formats.cursor import Cursor
from llmq.formats.gguf_reader import MAX_NAME, tensor_type
from llmq.formats.source import Source

__all__ = ["is_ggjt", "read_ggjt"]

_HEAD = b"tjgg" + struct.pack("<I", 3)
_FIELDS = ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot", "file_type")
_LIMITS = (1 << 20, 1 << 20, 1 << 20, 1 << 12, 1 << 10, 1 << 16, 1 << 10)
_MAX_TENSORS, _MAX_TOKEN = 65_536, 64 << 10
_ALIGNMENT = 32
_CONTEXT, _EPSILON = 2048, 5e-6
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_WHOLE = ("token_embd", "output_norm", "output")
_BLOCK = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up")
_SPECIAL = {0: ("<unk>", _UNKNOWN), 1: ("<s>", _CONTROL), 2: ("</s>", _CONTROL)}
_BYTES = range(3, 259)  # ids of the single bytes


def is_ggjt(path: Path) -> bool:
    """Whether the file begins as GGJT version 3 does."""
    source = Source(path)
    try:
        return source.read(0, 8) == _HEAD
    finally:
        source.close()


def read_ggjt(path: Path) -> Checkpoint:
    """Map a GGJT file of version 3. Raises ModelFileError and OSError."""
    source = Source(path)
    try:
        cursor = Cursor(source, len(_HEAD))
        fields = {name: _field(cursor, name, limit) for name, limit in zip(_FIELDS, _LIMITS, strict=True)}
        vocabulary = _vocabulary(cursor, fields["n_vocab"])
        tensors = _tensors(source, cursor.offset, fields["n_layer"])
        metadata = _metadata(fields, tensors, source)
    except BaseException:
        source.close()
        raise
    return Checkpoint(path, metadata | vocabulary, tensors, sources=[source])


def _field(cursor: Cursor, name: str, limit: int) -> int:
    at = cursor.offset
    value = cursor.u32(name)
    if value > limit or (value < 1 and name != "file_type"):
        raise LimitError(f"{name} is {value}; expected 1 to {limit}", path=cursor.path, offset=at)
    return value


def _vocabulary(cursor: Cursor, n: int) -> dict[str, MetaValue]:
    tokens: list[str] = []
    types: list[int] = []
    scores: list[float] = []
    for id in range(n):
        at = cursor.offset
        size = cursor.u32(f"the length of token {id}")
        if size > _MAX_TOKEN:
            raise LimitError(f"token {id} has {size} bytes; at most {_MAX_TOKEN} are allowed", path=cursor.path, offset=at)
        raw = cursor.numbers(np.dtype("u1"), size, f"token {id}").tobytes()
        scores.append(float(cursor.numbers(np.dtype("<f4"), 1, f"the score of token {id}")[0]))
        if id in _SPECIAL:
            text, kind = _SPECIAL[id]
        elif id in _BYTES and len(raw) == 1:
            text, kind = f"<0x{raw[0]:02X}>", _BYTE
        else:
            try:
                text, kind = raw.decode().replace(" ", "\u2581"), _NORMAL if raw else _CONTROL
            except UnicodeDecodeError:
                raise FormatError(f"token {id} is not UTF-8", path=cursor.path, offset=at + 4) from None
        tokens.append(text)
        types.append(kind)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [*tokens],
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def _tensors(source: Source, at: int, n_layer: int) -> dict[str, Tensor]:
    from gguf.constants import MODEL_ARCH  # noqa: PLC0415 - slow to import, and only such files need it
    from gguf.tensor_mapping import get_tensor_name_map  # noqa: PLC0415

    names = get_tensor_name_map(MODEL_ARCH.LLAMA, n_layer)
    path = source.path
    tensors: dict[str, Tensor] = {}
    while at < source.size:
        cursor = _Part(source, at)
        n_dims, n_name, number = cursor.u32s(3)
        if not 1 <= n_dims <= 2 or not 1 <= n_name <= MAX_NAME:
            raise FormatError(f"a tensor of {n_dims} dimensions with a name of {n_name} bytes", path=path, offset=at)
        shape = tuple(reversed(cursor.u32s(n_dims)))
        old = cursor.bytes(n_name).decode(errors="backslashreplace")
        name = names.get_name(old, try_suffixes=(".weight",))
        qtype = tensor_type(number, old, path, at)
        if name is None or name in tensors or len(tensors) >= _MAX_TENSORS:
            raise FormatError(f"tensor {quoted(old)} is none of LLaMA's, or comes twice", path=path, offset=at)
        if min(shape) < 1 or shape[-1] % qtype.block:
            raise FormatError(f"tensor {quoted(old)} of {qtype.name} has the shape {shape}", path=path, offset=at)
        begin = -(-cursor.at // _ALIGNMENT) * _ALIGNMENT
        nbytes = qtype.nbytes(math.prod(shape))
        if begin + nbytes > source.size:
            raise TruncatedError(
                f"tensor {quoted(old)} ends at byte {begin + nbytes}, but the file has {source.size}; download it again",
                path=path,
                offset=source.size,
            )
        read, release = partial(source.view, begin, nbytes), partial(source.release, begin)
        tensors[name] = Tensor(name, shape, qtype, read, str(path), begin, release)
        at = begin + nbytes
    wanted = [*_WHOLE, *(f"blk.{i}.{name}" for i in range(n_layer) for name in _BLOCK)]
    missing = [name for name in wanted if f"{name}.weight" not in tensors]
    if missing:  # the file has no count of its tensors
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TruncatedError(f"tensor {missing[0]}{more} missing; download the file again", path=path, offset=source.size)
    return tensors


class _Part:
    """The beginning of a tensor, from `at` on."""

    def __init__(self, source: Source, at: int) -> None:
        self.source, self.at = source, at
        self.data = source.read(at, 32 + MAX_NAME)
        self.start = at

    def bytes(self, n: int) -> bytes:
        begin = self.at - self.start
        self.at += n
        if begin + n > len(self.data):
            raise TruncatedError("the file ends inside a tensor's name", path=self.source.path, offset=self.source.size)
        return self.data[begin : begin + n]

    def u32s(self, n: int) -> list[int]:
        return list(struct.unpack(f"<{n}I", self.bytes(4 * n)))


def _metadata(fields: dict[str, int], tensors: dict[str, Tensor], source: Source) -> dict[str, MetaValue]:
    n_embd, n_head = fields["n_embd"], fields["n_head"]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    wk, w1 = shapes["blk.0.attn_k.weight"], shapes["blk.0.ffn_gate.weight"]
    if n_embd % n_head or (wk[0] * n_head) % n_embd:
        raise FormatError("the first block's keys do not fit n_embd and n_head", path=source.path)
    return {
        "general.architecture": "llama",
        "general.type": "model",
        "general.file_type": fields["file_type"],
        "general.quantization_version": 2,
        "llama.context_length": _CONTEXT,
        "llama.embedding_length": n_embd,
        "llama.block_count": fields["n_layer"],
        "llama.feed_forward_length": w1[0],
        "llama.rope.dimension_count": fields["n_rot"],
        "llama.attention.head_count": n_head,
        "llama.attention.head_count_kv": wk[0] * n_head // n_embd,
        "llama.attention.layer_norm_rms_epsilon": _EPSILON,
        "llama.vocab_size": fields["n_vocab"],
    }
