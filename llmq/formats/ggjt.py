"""GGMF and GGJT, llama.cpp's formats from March to August 2023, as the GGUF that stands for them. Only LLaMA came in them.

    "fmgg" or "tjgg" | u32 version | u32 n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, file type
    n_vocab times  u32 length, bytes | f32 score
    to the end     u32 n_dims | u32 length of the name | u32 ggml type | u32 dims[n_dims] (innermost first) | name
                   padding to 32 (not in GGMF) | data

In GGJT 3 tensor data is as GGUF has it; in 1 and 2 the blocks differ (ggjt_blocks.py). Those of GGMF differ among its files,
so only floats are taken from it. GGML, before it, has no scores of tokens and is refused (llmq/formats/source.py). The file
does not say the trained context and the epsilon of the norms: they are taken as llama.cpp took them. Source: llama.cpp of
July 2023, llama_file_loader in llama.cpp, and its convert-llama-ggml-to-gguf.py.
"""

from __future__ import annotations

import math
import struct
from functools import partial
from pathlib import Path

import numpy as np

from llmq.errors import FormatError, LimitError, TruncatedError, UnsupportedError, quoted
from llmq.formats.checkpoint import Checkpoint, MetaValue, Tensor
from llmq.formats.cursor import Cursor
from llmq.formats.ggjt_blocks import SAME, FullScales, relaid_fives, stored_bytes
from llmq.formats.gguf_reader import MAX_NAME, tensor_type
from llmq.formats.packed.weight import OrderedRows
from llmq.formats.source import Source
from llmq.formats.stored import StoredTensor
from llmq.quant.types import QuantType

__all__ = ["is_ggjt", "read_ggjt"]

_VERSIONS = {b"fmgg\1\0\0\0": 0, b"tjgg\1\0\0\0": 1, b"tjgg\2\0\0\0": 2, b"tjgg\3\0\0\0": 3}  # first bytes: GGJT's, 0 is GGMF
_HEAD_BYTES = 8
_FIELDS = ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot", "file_type")
_LIMITS = (1 << 20, 1 << 20, 1 << 20, 1 << 12, 1 << 10, 1 << 16, 1 << 10)
_MAX_TENSORS, _MAX_TOKEN = 65_536, 64 << 10
_ALIGNMENT = 32
_REMOVED = {4: "Q4_2", 5: "Q4_3"}  # ids of types that version 1 had
_CONTEXT, _EPSILON = 2048, 5e-6
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_WHOLE = ("token_embd", "output_norm", "output")
_BLOCK = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up")
_SPECIAL = {0: ("<unk>", _UNKNOWN), 1: ("<s>", _CONTROL), 2: ("</s>", _CONTROL)}
_BYTES = range(3, 259)  # ids of the single bytes


def is_ggjt(path: Path) -> bool:
    """Whether the file begins as one of these does."""
    source = Source(path)
    try:
        return source.read(0, _HEAD_BYTES) in _VERSIONS
    finally:
        source.close()


def read_ggjt(path: Path) -> Checkpoint:
    """Map a GGMF or GGJT file. Raises ModelFileError and OSError."""
    source = Source(path)
    try:
        version = _VERSIONS[source.read(0, _HEAD_BYTES)]
        cursor = Cursor(source, _HEAD_BYTES)
        fields = {name: _field(cursor, name, limit) for name, limit in zip(_FIELDS, _LIMITS, strict=True)}
        vocabulary = _vocabulary(cursor, fields["n_vocab"])
        tensors = _tensors(source, cursor.offset, fields, version)
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


def _tensors(source: Source, at: int, fields: dict[str, int], version: int) -> dict[str, Tensor]:
    from gguf.constants import MODEL_ARCH  # noqa: PLC0415 - slow to import, and only such files need it
    from gguf.tensor_mapping import get_tensor_name_map  # noqa: PLC0415

    n_layer, alignment = fields["n_layer"], 1 if version == 0 else _ALIGNMENT
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
        qtype, size = _type(number, old, version, path, at)
        if name is None or name in tensors or len(tensors) >= _MAX_TENSORS:
            raise FormatError(f"tensor {quoted(old)} is none of LLaMA's, or comes twice", path=path, offset=at)
        if min(shape) < 1 or shape[-1] % qtype.block:
            raise FormatError(f"tensor {quoted(old)} of {qtype.name} has the shape {shape}", path=path, offset=at)
        if name == "token_embd.weight" and shape[-1] < fields["n_embd"]:
            raise UnsupportedError(
                f"tensor {quoted(old)} has {shape[-1]} of {fields['n_embd']} columns: the file is one of several that cut each "
                "tensor, which are not joined; get the model as GGUF, or convert its Hugging Face folder",
                path=path,
                offset=at,
            )
        begin = -(-cursor.at // alignment) * alignment
        nbytes = math.prod(shape) // qtype.block * size
        if begin + nbytes > source.size:
            raise TruncatedError(
                f"tensor {quoted(old)} ends at byte {begin + nbytes}, but the file has {source.size}; download it again",
                path=path,
                offset=source.size,
            )
        tensors[name] = _tensor(StoredTensor(name, qtype.name, shape, source, begin, nbytes), qtype, version)
        at = begin + nbytes
    wanted = [*_WHOLE, *(f"blk.{i}.{name}" for i in range(n_layer) for name in _BLOCK)]
    missing = [name for name in wanted if f"{name}.weight" not in tensors]
    if missing:  # the file has no count of its tensors
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TruncatedError(f"tensor {missing[0]}{more} missing; download the file again", path=path, offset=source.size)
    return tensors


def _type(number: int, name: str, version: int, path: Path, at: int) -> tuple[QuantType, int]:
    """The type of a tensor, and the bytes of a block of it in the file."""
    if version == 3:
        qtype = tensor_type(number, name, path, at)
        return qtype, qtype.block_bytes
    found = next((qtype for qtype in QuantType if int(qtype) == number), None)
    size = None if found is None else stored_bytes(found)
    if found is None or size is None or (version == 0 and found not in SAME):
        kind = _REMOVED.get(number) or (f"type id {number}" if found is None else found.name)
        given = "GGMF" if version == 0 else f"GGJT {version}"
        raise UnsupportedError(
            f"tensor {quoted(name)} is {kind}, which cannot be taken from a {given} file; get the model as GGUF, or convert "
            "its Hugging Face folder",
            path=path,
            offset=at,
        )
    return found, size


def _tensor(stored: StoredTensor, qtype: QuantType, version: int) -> Tensor:
    name, shape, path, begin = stored.name, stored.shape, str(stored.source.path), stored.offset
    view = partial(stored.source.view, begin, stored.nbytes)
    if stored.nbytes != qtype.nbytes(stored.size):
        kind, matrix = f"{qtype.name} of GGJT {version}", (stored.size // shape[-1], shape[-1])
        weight = FullScales(name, kind, matrix, stored.nbytes, path, begin, stored=qtype, version=version, raw=view)
        packed = OrderedRows(weight)
        return Tensor(name, shape, qtype, partial(packed.blocks, qtype, 0, matrix[0]), path, begin, packed=packed)
    if version == 1 and qtype not in SAME:
        return Tensor(name, shape, qtype, lambda: relaid_fives(view(), qtype), path, begin)
    return Tensor.stored(name, shape, qtype, stored.source, begin)


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
