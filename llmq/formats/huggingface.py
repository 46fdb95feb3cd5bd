"""A Hugging Face folder as the GGUF that would be written from it: GGUF metadata, GGUF tensor names and row order.

config.json gives the architecture (through its family in llmq.arch), generation_config.json the sampling hints, the tokenizer's
files the vocabulary, safetensors files or PyTorch checkpoints the tensors. Names follow the tensor-name maps of the `gguf`
package, choices of type llama.cpp's converter: matrices keep their float type, vectors and what is added or looked up by
position become F32.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, UnsupportedError, quoted
from llmq.formats.checkpoint import Checkpoint, MetaValue, Tensor
from llmq.formats.json_file import read_json, read_json_value
from llmq.formats.packed import OrderedRows, PackedWeight, StackedRows, unpacked
from llmq.formats.packed.mxfp4 import is_blocks, mxfp4_blocks, scales_of
from llmq.formats.stored import StoredTensor
from llmq.formats.text_part import text_config, text_tensors
from llmq.formats.weights import open_folder_weights
from llmq.quant.rows import quantize
from llmq.quant.types import QuantType

if TYPE_CHECKING:
    from llmq.arch.family import Family
    from llmq.arch.moe import Pick

__all__ = ["SAMPLING_HINTS", "gguf_names", "is_folder", "open_folder", "stack_experts", "tensor_order"]

_MAX_CONFIG = 16 << 20
_FLOATS = {  # what each becomes; F16 has every value of both kinds of 8 bits
    "F64": QuantType.F32, "F32": QuantType.F32, "F16": QuantType.F16, "BF16": QuantType.BF16,
    "F8_E4M3": QuantType.F16, "F8_E5M2": QuantType.F16,
}  # fmt: skip
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q8_0": 7, "MXFP4": 38}  # general.file_type
_QUANTIZATION_VERSION = 2
_ALWAYS_F32 = re.compile(
    r"(_norm|ffn_gate_inp|ffn_gate_inp_shexp|position_embd|token_types|rope_freqs|ssm_conv1d|shortconv\.conv)\.weight$"
    r"|_exps\.bias$|\.ssm_[ad]$"
)
_EXPERT = re.compile(r"\.experts\.(\d{1,4})\.")
_QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json")  # AutoGPTQ's, AutoAWQ's
SAMPLING_HINTS = {  # generation_config.json: GGUF key after general.sampling.
    "temperature": ("temp", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "repetition_penalty": ("penalty_repeat", float),
}
_POOLING = {  # in 1_Pooling/config.json: pooling_type in GGUF
    "mean": 1,
    "pooling_mode_mean_tokens": 1,
    "cls": 2,
    "pooling_mode_cls_token": 2,
    "lasttoken": 3,
    "pooling_mode_lasttoken": 3,
}


def is_folder(path: Path) -> bool:
    """Whether this is a Hugging Face folder: one with a config.json."""
    return (path / "config.json").exists()


def open_folder(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a Hugging Face folder. Tensors are read, converted and rearranged when asked for.
    Raises ModelFileError (UnsupportedArchError for a model_type of no family) and OSError."""
    folder = Path(path)
    whole = read_json(folder / "config.json", _MAX_CONFIG)
    config = text_config(whole)
    family = _family_of(config, folder)
    sources, stored = open_folder_weights(folder)
    try:
        weights = unpacked(text_tensors(stored, whole), _quantization(config, folder), folder)
        tensors = _gguf_tensors(weights, family, config, folder)
        metadata = _metadata(folder, config, family, tensors)
    except BaseException as error:
        for source in sources:
            source.close()
        if isinstance(error, FormatError) and error.path is None:  # a family's, about a value of the configuration
            raise type(error)(str(error), path=folder / "config.json") from None
        raise
    return Checkpoint(folder, metadata, tensors, sources=sources)


def tensor_order(name: str) -> tuple[int, str]:
    """Sort key of GGUF files: what belongs to no block first, then block by block."""
    block = re.match(r"blk\.(\d+)\.", name)
    return (int(block[1]) if block else -1), name


def _family_of(config: Mapping[str, Any], folder: Path) -> Family:
    from llmq.arch import family_of_config  # noqa: PLC0415 - the families import the formats

    path = folder / "config.json"
    return family_of_config(config, str(path))


def _quantization(config: Mapping[str, Any], folder: Path) -> Mapping[str, object] | None:
    """How another tool quantized the weights: from config.json, or the file that the tools' first versions wrote."""
    for key in ("quantization_config", "compression_config"):
        found = config.get(key)
        if isinstance(found, dict):
            return found
        if found is not None:
            raise FormatError(f"{key}: an object expected, found {quoted(found)}", path=folder / "config.json")
    path = next((folder / name for name in _QUANTIZATION_FILES if (folder / name).exists()), None)
    return None if path is None else read_json(path, _MAX_CONFIG)


def gguf_names(family: Family, config: Mapping[str, object], path: str) -> Callable[[str], str | None]:
    """What GGUF calls a tensor of transformers ("model.norm.weight"); None for one that the model does not have."""
    from gguf.constants import MODEL_ARCH_NAMES  # noqa: PLC0415 - slow to import, and only folders need it
    from gguf.tensor_mapping import get_tensor_name_map  # noqa: PLC0415

    arch = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == family.name), None)
    if arch is None:
        return lambda name: family.hf_names(name, config)
    names = get_tensor_name_map(arch, family.hf_n_layer(config, path))
    return lambda name: family.hf_names(name, config) or names.get_name(family.hf_name(name), try_suffixes=(".weight", ".bias"))


def _gguf_tensors(
    weights: Mapping[str, StoredTensor | PackedWeight], family: Family, config: Mapping[str, Any], folder: Path
) -> dict[str, Tensor]:
    n_layer = family.hf_n_layer(config, str(folder / "config.json"))
    known = gguf_names(family, config, str(folder / "config.json"))
    tied = family.hf_ties and config.get("tie_word_embeddings") is True
    found: dict[str, dict[int, Tensor]] = {}  # by name and expert, -1 for what is not an expert's
    for name, tensor in weights.items():
        for part, pick in () if family.hf_drops(name, config) else family.hf_parts(name, config):
            expert = _EXPERT.search(part)
            gguf_name = known(_EXPERT.sub(".experts.", part))
            if (gguf_name or "").endswith(family.ignored) or (tied and gguf_name == "output.weight"):
                continue
            if gguf_name is None:
                raise FormatError(
                    f"tensor {quoted(name)} is not one of a {family.name} model of {n_layer} layers", path=_path_of(tensor)
                )
            same, place = found.setdefault(gguf_name, {}), int(expert[1]) if expert else -1
            if place in same or (same and -1 in (place, *same)):
                raise FormatError(f"two tensors stand for {gguf_name}, the second is {quoted(name)}", path=_path_of(tensor))
            if isinstance(tensor, PackedWeight):
                same[place] = _packed(gguf_name, tensor, family, config, pick)
            elif is_blocks(tensor):
                same[place] = _microscaled(gguf_name, tensor, weights, pick)
            else:
                same[place] = _converted(gguf_name, tensor, family, config, pick)
    tensors = {name: parts[-1] if -1 in parts else stack_experts(name, parts) for name, parts in found.items()}
    for name, values in family.hf_extra_tensors(config).items():
        tensors[name] = _computed(name, values, folder)
    return {name: tensors[name] for name in sorted(tensors, key=tensor_order)}


def _path_of(tensor: StoredTensor | PackedWeight) -> str:
    return tensor.path if isinstance(tensor, PackedWeight) else str(tensor.source.path)


def _converted(
    name: str, stored: StoredTensor, family: Family, config: Mapping[str, Any], pick: Pick | None = None
) -> Tensor:
    """The GGUF tensor `name` made from a stored one or what `pick` takes of it: widened where GGUF has F32, turned and
    rearranged as the family says."""
    path = str(stored.source.path)
    if stored.dtype not in _FLOATS:
        raise UnsupportedError(
            f"tensor {quoted(stored.name)} is {stored.dtype}; weights are {', '.join(_FLOATS)}",
            path=path,
            offset=stored.offset,
        )
    if not 1 <= len(stored.shape) <= 4 or 0 in stored.shape:
        raise FormatError(
            f"tensor {quoted(stored.name)} has shape {stored.shape}; expected 1 to 4 dimensions, none 0", path=path
        )
    qtype = _FLOATS[stored.dtype]
    shape = stored.shape if pick is None else _picked_shape(stored, pick)
    as_f32 = qtype is not QuantType.F32 and (len(shape) == 1 or _ALWAYS_F32.search(name) is not None)
    transform, transposed = family.hf_transform(name, config), family.hf_transposed(name)
    shape = shape[::-1] if transposed else shape
    skipped = family.hf_skipped_rows(name, config)
    if skipped >= shape[0]:
        raise FormatError(f"tensor {quoted(stored.name)} has {shape[0]} rows; more than {skipped} expected", path=path)
    shape = (shape[0] - skipped, *shape[1:])
    scale, columns = family.hf_scale(name, config), family.hf_columns(name, config)
    _check_columns(stored.name, shape, columns, path)
    as_stored = stored.dtype == qtype.name and not as_f32 and scale is None
    plain = pick is None and transform is None and as_stored and not transposed and not skipped and columns is None

    if plain and stored.strides is None:
        return Tensor.stored(name, stored.shape, qtype, stored.source, stored.offset)

    def rearranged() -> npt.NDArray[np.uint8]:
        values = stored.array()
        if not as_stored:
            wide = as_f32 or qtype is QuantType.F32 or scale is not None
            values = stored.values().astype(np.float32 if wide else np.float16, copy=False)
        values = values if pick is None else pick(values)
        values = (values.T if transposed else values)[skipped:]
        values = values if columns is None else values[:, columns]
        values = np.ascontiguousarray(values if transform is None else transform(values))
        stored.release()
        if scale is not None:
            try:
                return quantize(values.astype(np.float32) * scale, kind).reshape(-1)
            except ValueError:
                message = f"tensor {quoted(stored.name)} times {scale.max():g} has a NaN or an infinity"
                raise FormatError(message, path=path, offset=stored.offset) from None
        return values.reshape(-1).view(np.uint8)

    kind = QuantType.F32 if as_f32 else qtype
    return Tensor(name, shape, kind, rearranged, path)


def _packed(name: str, weight: PackedWeight, family: Family, config: Mapping[str, Any], pick: Pick | None) -> Tensor:
    """The GGUF tensor `name` made from a packed matrix, whose rows are outputs whatever its float form had, or from those of
    its rows that `pick` takes."""
    if family.hf_scale(name, config) is not None:
        raise UnsupportedError(f"tensor {quoted(weight.name)}: a packed matrix cannot be multiplied", path=weight.path)
    transform, columns = family.hf_transform(name, config), family.hf_columns(name, config)
    _check_columns(weight.name, weight.shape, columns, weight.path)
    taken = np.arange(weight.shape[0], dtype=np.intp)
    if pick is not None:
        try:
            taken = pick(taken).astype(np.intp)
        except (IndexError, ValueError):
            taken = taken[:0]
        if taken.ndim != 1 or not len(taken):
            raise UnsupportedError(f"tensor {quoted(weight.name)}: a part of a packed matrix is needed", path=weight.path)
    order = taken if transform is None else transform(taken).astype(np.intp)
    if not np.array_equal(np.sort(order), np.sort(taken)):
        raise UnsupportedError(f"tensor {quoted(weight.name)}: only its rows may change places", path=weight.path)
    rows = OrderedRows(weight, None if pick is None and transform is None else order, columns)
    qtype = weight.type if columns is None or weight.type.is_float else QuantType.F16
    qtype = QuantType.F32 if _ALWAYS_F32.search(name) else qtype
    shape = (len(order), weight.shape[1])
    return Tensor(name, shape, qtype, partial(rows.blocks, qtype, 0, len(order)), weight.path, weight.offset, packed=rows)


def _check_columns(name: str, shape: tuple[int, ...], columns: npt.NDArray[np.intp] | None, path: str) -> None:
    if columns is not None and (len(shape) != 2 or shape[1] != len(columns)):
        raise FormatError(f"tensor {quoted(name)} has shape {shape}; {len(columns)} columns expected", path=path)


def _microscaled(
    name: str, blocks: StoredTensor, weights: Mapping[str, StoredTensor | PackedWeight], pick: Pick | None
) -> Tensor:
    """The GGUF tensor `name` of type MXFP4 made from blocks and their scales, or what `pick` takes of both."""
    scales = scales_of(blocks, weights)
    shape = blocks.shape[:-1] if pick is None else _picked_shape(scales, pick)

    def read() -> npt.NDArray[np.uint8]:
        both = [tensor.array() if pick is None else pick(tensor.array()) for tensor in (blocks, scales)]
        out = mxfp4_blocks(both[0].view(np.uint8), both[1].view(np.uint8))
        blocks.release()
        scales.release()
        return out.reshape(-1)

    return Tensor(name, (*shape[:-1], shape[-1] * 32), QuantType.MXFP4, read, str(blocks.source.path))


def _picked_shape(stored: StoredTensor, pick: Pick) -> tuple[int, ...]:
    try:
        return pick(np.broadcast_to(np.int8(0), stored.shape)).shape
    except (IndexError, ValueError):
        raise FormatError(
            f"tensor {quoted(stored.name)} has shape {stored.shape}, which has not the parts that it should have",
            path=stored.source.path,
            offset=stored.offset,
        ) from None


def stack_experts(name: str, experts: Mapping[int, Tensor]) -> Tensor:
    """The tensors of single experts as one, (experts, …)."""
    first = experts[min(experts)]
    if sorted(experts) != list(range(len(experts))):
        missing = next(i for i in range(max(experts)) if i not in experts)
        raise FormatError(f"{name}: expert {missing} of {max(experts) + 1} is missing", path=first.path)
    ordered = [experts[i] for i in range(len(experts))]
    packed = [tensor.packed for tensor in ordered if tensor.packed is not None]
    rows = StackedRows(packed, first.shape[0]) if len(packed) == len(ordered) else None
    for i, tensor in experts.items():
        if tensor.shape != first.shape or (rows is None and tensor.type is not first.type):
            raise FormatError(
                f"{name}: expert {i} is {tensor.type.name} of shape {tensor.shape}, another {first.type.name} of {first.shape}",
                path=tensor.path,
            )
    if rows is not None:  # each expert is kept in the type that is best for it; together in one that takes all
        kinds = {tensor.type for tensor in ordered}
        shared = [kind for kind in kinds if kind in rows.forms] or [QuantType.F32]
        kind = first.type if len(kinds) == 1 else max(shared)
        all_rows = partial(rows.blocks, kind, 0, len(ordered) * first.shape[0])
        return Tensor(name, (len(experts), *first.shape), kind, all_rows, first.path, first.offset, packed=rows)

    def read() -> npt.NDArray[np.uint8]:
        out = np.empty((len(experts), first.nbytes), np.uint8)
        for row, tensor in zip(out, ordered, strict=True):
            row[:] = tensor.raw()
            tensor.release(0, tensor.nbytes)
        return out.reshape(-1)

    return Tensor(name, (len(experts), *first.shape), first.type, read, first.path, first.offset)


def _computed(name: str, values: npt.NDArray[np.float32], folder: Path) -> Tensor:
    data = np.ascontiguousarray(values, np.float32)
    return Tensor(name, data.shape, QuantType.F32, lambda: data.reshape(-1).view(np.uint8), str(folder))


def _metadata(folder: Path, config: Mapping[str, Any], family: Family, tensors: Mapping[str, Tensor]) -> dict[str, MetaValue]:
    from llmq.text.hf_vocab import vocab_metadata  # noqa: PLC0415 - the tokenizers import the formats

    sizes: dict[QuantType, int] = {}
    for tensor in tensors.values():
        if len(tensor.shape) > 1:
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.nbytes
    main = max(sizes, key=sizes.__getitem__, default=QuantType.F32)
    metadata: dict[str, MetaValue] = {"general.architecture": family.name, "general.type": "model"}
    name = _model_name(folder, config)
    if name:
        metadata["general.name"] = name
    metadata |= family.hf_metadata(config, str(folder / "config.json"))
    if (pooling := _pooling(folder)) is not None:
        metadata[f"{family.name}.pooling_type"] = pooling
    metadata |= {"general.file_type": _FILE_TYPES[main.name], "general.quantization_version": _QUANTIZATION_VERSION}
    metadata |= _sampling_hints(folder)
    embeddings = tensors.get("token_embd.weight")
    return metadata | vocab_metadata(folder, None if embeddings is None else embeddings.shape[0])


def _pooling(folder: Path) -> int | None:
    """How a sentence-transformers folder pools token vectors, as the number that GGUF has for it; None when it says nothing."""
    path = folder / "modules.json"
    if not path.exists():
        return None
    modules = read_json_value(path, _MAX_CONFIG)
    found = None
    for module in modules if isinstance(modules, list) else [None]:
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise FormatError(f"{quoted(module)} is no module with a type", path=path)
        kind, place = module["type"].rsplit(".", 1)[-1], module.get("path")
        if kind == "Pooling":
            if not isinstance(place, str) or not re.fullmatch(r"\w[\w.-]*", place):
                raise FormatError(f"Pooling: the name of a folder beside this file expected, found {quoted(place)}", path=path)
            found = _pooling_mode(folder / place / "config.json")
        elif kind not in ("Transformer", "Normalize"):  # embeddings can be normalized anyway
            raise UnsupportedError(f"the module {quoted(module['type'])} after the model is not supported", path=path)
    return found


def _pooling_mode(path: Path) -> int:
    config = read_json(path, _MAX_CONFIG)
    given = config.get("pooling_mode")  # newer files name it, older ones have a flag for each
    chosen = [given] if given is not None else [k for k, on in config.items() if k.startswith("pooling_mode_") and on is True]
    if len(chosen) != 1 or chosen[0] not in _POOLING:
        raise UnsupportedError(f"pooling by mean, first or last token is supported, found {quoted(chosen)}", path=path)
    return _POOLING[chosen[0]]


def _model_name(folder: Path, config: Mapping[str, Any]) -> str | None:
    """From the configuration or the hub's cache (models--org--name/snapshots/commit). The folder's own name is left out: the
    same files give the same GGUF wherever they lie."""
    given = config.get("_name_or_path")
    if isinstance(given, str) and given.strip("./\\"):
        return given.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    cached = re.search(r"models--[^/]+?--([^/]+)/snapshots/[0-9a-f]+$", str(folder.absolute()))
    return cached[1] if cached else None


def _sampling_hints(folder: Path) -> dict[str, MetaValue]:
    path = folder / "generation_config.json"
    if not path.exists():
        return {}
    config = read_json(path, _MAX_CONFIG)
    hints: dict[str, MetaValue] = {}
    for name, (key, convert) in SAMPLING_HINTS.items():
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31:
            hints[f"general.sampling.{key}"] = convert(value)
    return hints
