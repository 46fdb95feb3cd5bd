"""Writing a model as a Hugging Face folder: `llmq.export_model`, the way back from a GGUF file.

Nothing is written twice: a family's rearranging of rows is undone by asking where it puts each row, and what config.json and
the tokenizer's files must say is checked by reading them back as any folder is read. What does not come back as it was is
refused, so a folder that is written stands for the same model.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmq.errors import Cancelled, FormatError, UnsupportedError, quoted
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint, MetaValue, Tensor
from llmq.formats.huggingface import SAMPLING_HINTS, gguf_names
from llmq.formats.safetensors_writer import SHARD_BYTES, PlannedTensor, write_safetensors
from llmq.quant.rows import dequantize, quantize
from llmq.quant.types import QuantType

if TYPE_CHECKING:
    from llmq.arch.family import Family, Transform
    from llmq.arch.fields import Fields
    from llmq.quant.quantizer import Progress

__all__ = ["ExportReport", "export_model"]

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_COMPARED = ("tokens", "merges", "pre", "add_bos_token", "add_eos_token", "bos_token_id", "eos_token_id", "unknown_token_id")


@dataclass(frozen=True)
class ExportReport:
    """What was written: the folder, its files by name, and how many tensors of how many bytes."""

    source: str
    folder: str
    files: tuple[str, ...]
    tensors: int
    bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


def export_model(
    src: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    dtype: str = "AUTO",
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the model `src` (a GGUF file, mostly) as the new Hugging Face folder `folder`: config.json, generation_config.json,
    tokenizer.json, tokenizer_config.json and safetensors, in shards when they are more than `shard_bytes`.

    dtype: F32, F16 or BF16 for all tensors; AUTO keeps floats as they are (vectors that GGUF widened get the type of the
    matrices back, when that loses nothing) and dequantizes quantized weights to F16. The folder appears whole or not at all.

    Raises ModelFileError (UnsupportedError for a family, scheme or tokenizer that has no way back), Cancelled, ValueError,
    FileExistsError for a folder that is not empty, OSError from the disk."""
    started = time.perf_counter()
    wanted = dtype.upper()
    if wanted not in (*_DTYPES, "AUTO"):
        raise ValueError(f"dtype is {dtype!r}; expected AUTO, {', '.join(_DTYPES)}")
    target = Path(os.path.abspath(folder))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        found = "the folder exists and is not empty" if target.is_dir() else "a file has the name of the folder to be written"
        raise FileExistsError(17, found, str(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_checkpoint(src) as model:
        plan = _Plan(model)
        main = _main_type(model) if wanted == "AUTO" else QuantType[wanted]
        tensors = plan.tensors(main, keep=wanted == "AUTO")
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as made:
            unfinished = Path(made) / target.name
            unfinished.mkdir()
            for name, content in plan.files(_DTYPES[main.name]).items():
                (unfinished / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            plan.check_tokenizer(unfinished)
            total = sum(tensor.nbytes for tensor in tensors)
            _tell(progress, 0, total)
            write_safetensors(unfinished, tensors, lambda done: _tell(progress, done, total), shard_bytes)
            files = tuple(sorted(path.name for path in unfinished.iterdir()))
            os.replace(unfinished, target)
    return ExportReport(os.fspath(src), os.fspath(folder), files, len(tensors), total, time.perf_counter() - started)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None and progress("export", done, total) is False:
        raise Cancelled("the export was cancelled; nothing was written")


def _main_type(model: Checkpoint) -> QuantType:
    """The float type of most weights; F16 when most are quantized."""
    sizes: dict[QuantType, int] = {}
    for tensor in model.tensors.values():
        if len(tensor.shape) > 1:
            kind = tensor.type if tensor.type.is_float else QuantType.F16
            sizes[kind] = sizes.get(kind, 0) + math.prod(tensor.shape)
    return max(sizes, key=sizes.__getitem__, default=QuantType.F32)


class _Plan:
    """config.json and the names of a model's tensors, both checked by the way there."""

    def __init__(self, model: Checkpoint) -> None:
        from llmq.arch import family_named  # noqa: PLC0415 - the families import the formats
        from llmq.arch.fields import Fields  # noqa: PLC0415

        self.model = model
        self.path = str(model.path)
        architecture = Fields(model.metadata, self.path).text("general.architecture")
        self.family = family_named(architecture, self.path)
        if not self.family.hf_class:
            raise UnsupportedError(f"a folder of family {architecture} cannot be written", path=self.path)
        fields = Fields(model.metadata, self.path, f"{architecture}.")
        self.config = self.family.hf_config(fields, model.tensors)
        self._check_config(fields)
        self.extra = self.family.hf_extra_tensors(self.config)
        self._check_extra()
        self.names = self._names()

    def _check_config(self, given: Fields) -> None:
        """The hyper-parameters that come back are those that there were."""
        from llmq.arch.fields import Fields  # noqa: PLC0415

        tokens = {key: value for key, value in self.model.metadata.items() if key == "tokenizer.ggml.tokens"}
        back = {**self.family.hf_metadata(self.config, self.path), **tokens}
        before = dataclasses.asdict(self.family.hparams(given))
        after = dataclasses.asdict(self.family.hparams(Fields(back, self.path, given.prefix)))
        listed = self.model.metadata.get("tokenizer.ggml.tokens")
        if isinstance(listed, list) and before.get("n_vocab") != len(listed):
            raise FormatError(f"vocab_size is {before.get('n_vocab')}, but there are {len(listed)} tokens", path=self.path)
        different = [key for key, value in before.items() if not _same(value, after[key])]
        if different:
            shown = ", ".join(f"{key} ({quoted(before[key], 40)}, would be {quoted(after[key], 40)})" for key in different)
            raise UnsupportedError(f"config.json cannot say what this file does: {shown}", path=self.path)

    def _check_extra(self) -> None:
        for name, values in self.extra.items():
            tensor = self.model.tensors.get(name)
            if tensor is None or not np.allclose(tensor.numpy(), values, rtol=1e-5):
                raise UnsupportedError(f"config.json cannot say what {name} holds", path=self.path)

    def _names(self) -> dict[str, str]:
        """GGUF name -> name of transformers, of every tensor that the folder has."""
        from llmq.arch.hf_names import hf_tensor_name  # noqa: PLC0415

        there = gguf_names(self.family, self.config, self.path)
        names = {}
        for name in self.model.tensors:
            if name in self.extra or name.endswith(self.family.ignored):
                continue
            back = hf_tensor_name(self.family.hf_tensor_names, name)
            if back is None or there(back) != name:
                raise UnsupportedError(
                    f"transformers has no name for tensor {quoted(name)} of {self.family.name}", path=self.path
                )
            names[name] = back
        return names

    def files(self, dtype: str) -> dict[str, dict[str, Any]]:
        """The JSON files of the folder, by name."""
        from llmq.text.hf_export import tokenizer_files  # noqa: PLC0415 - the tokenizers import the formats
        from llmq.text.tokenizer import Tokenizer  # noqa: PLC0415

        metadata = self.model.metadata
        tokenizer = Tokenizer(metadata, path=self.path)
        ends = sorted(tokenizer.stop_ids - {tokenizer.eos_id})
        ids: dict[str, Any] = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        ids["pad_token_id"] = tokenizer.pad_id
        config = {**self.config, **ids, "torch_dtype": dtype, "use_cache": True}
        if isinstance(metadata.get("general.name"), str):
            config["_name_or_path"] = metadata["general.name"]
        generation: dict[str, Any] = dict(ids)
        if ends and tokenizer.eos_id is not None:
            generation["eos_token_id"] = [tokenizer.eos_id, *ends]
        hints = {name: metadata.get(f"general.sampling.{key}") for name, (key, _) in SAMPLING_HINTS.items()}
        generation |= {name: _shortest(value) for name, value in hints.items() if value is not None}
        if any(value is not None for value in hints.values()):
            generation["do_sample"] = True
        return {"config.json": config, "generation_config.json": generation, **tokenizer_files(metadata, Path(self.path))}

    def check_tokenizer(self, folder: Path) -> None:
        """The vocabulary that comes back is the one that there was."""
        from llmq.text.hf_vocab import vocab_metadata  # noqa: PLC0415

        back = vocab_metadata(folder)
        for name in _COMPARED:
            key = f"tokenizer.ggml.{name}"
            if key in self.model.metadata and not _same(self.model.metadata[key], back.get(key)):
                raise UnsupportedError(f"the tokenizer's files cannot say what {key} does", path=self.path)

    def tensors(self, main: QuantType, *, keep: bool) -> list[PlannedTensor]:
        """What is to be written, in the order of the GGUF."""
        planned = []
        for name, back in self.names.items():
            tensor = self.model.tensors[name]
            kind = self._type(tensor, main) if keep else main
            shape = tensor.shape[::-1] if self.family.hf_transposed(name) else tensor.shape
            data = partial(_restored, tensor, kind, self.family, self.config)
            planned.append(PlannedTensor(back, kind.name, shape, kind.nbytes(math.prod(shape)), data))
        return planned

    def _type(self, tensor: Tensor, main: QuantType) -> QuantType:
        """A float as it is, unless it is exact in the type of the matrices, from which GGUF widens vectors."""
        if not tensor.type.is_float:
            return main
        if tensor.type is not QuantType.F32 or main is QuantType.F32:
            return tensor.type
        original = _restored(tensor, QuantType.F32, self.family, self.config)
        narrow = _restored(tensor, main, self.family, self.config)
        widened = dequantize(narrow, main, tensor.shape).reshape(-1)
        return main if np.array_equal(widened, original.view(np.float32)) else QuantType.F32


def _same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple | np.ndarray) and isinstance(b, list | tuple | np.ndarray):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)


def _shortest(value: MetaValue) -> MetaValue:
    from llmq.arch.fields import shortest  # noqa: PLC0415

    return shortest(value) if isinstance(value, float) else value


def _restored(tensor: Tensor, kind: QuantType, family: Family, config: Mapping[str, object]) -> npt.NDArray[np.uint8]:
    """The tensor with its rows as transformers has them, as `kind`: uint8 (bytes,)."""
    values = tensor.numpy()
    transform = family.hf_transform(tensor.name, config)
    if transform is not None:
        values = _undone(transform, values, tensor)
    if family.hf_transposed(tensor.name):
        values = values.T
    try:
        return quantize(np.ascontiguousarray(values).reshape(1, -1), kind).reshape(-1)
    except ValueError as error:
        raise FormatError(f"tensor {quoted(tensor.name)}: {error}", path=tensor.path, offset=tensor.offset) from None


def _undone(transform: Transform, values: npt.NDArray[np.float32], tensor: Tensor) -> npt.NDArray[np.float32]:
    """The inverse of a transform that moves rows, or that adds a number: what it makes of the row numbers tells which."""
    rows = np.arange(len(values))
    made = transform(rows)
    if np.array_equal(np.sort(made), rows):
        out = np.empty_like(values)
        out[made.astype(np.intp)] = values
        return out
    added = made.astype(np.float64) - rows
    if np.ptp(added) == 0:
        back: npt.NDArray[np.float32] = values - np.float32(added[0])
        return back
    raise UnsupportedError(f"tensor {quoted(tensor.name)} cannot be brought back to what transformers has", path=tensor.path)
