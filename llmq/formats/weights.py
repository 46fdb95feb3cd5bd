"""Files of weights alone, safetensors or PyTorch, one or several: what a model folder keeps beside its config.json."""

from __future__ import annotations

from pathlib import Path

from llmq.errors import FormatError, TruncatedError, UnsafeFileError, quoted, some_of
from llmq.formats.json_file import read_json
from llmq.formats.safetensors import open_safetensors
from llmq.formats.source import Source
from llmq.formats.stored import Opened, StoredTensor
from llmq.formats.torch_file import is_torch_file, open_torch

__all__ = ["open_folder_weights", "open_weights", "weights_format"]

_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")  # in the order in which transformers looks for them
_AUTO_GPTQ = "gptq_model-*bit-*g.safetensors"  # what AutoGPTQ calls its file
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_MAX_INDEX = 100_000_000


def weights_format(path: Path) -> str | None:
    """ "safetensors" or "PyTorch checkpoint" for a file that its name or its first bytes show to be one, else None."""
    if path.suffix == ".safetensors":
        return "safetensors"
    if path.suffix not in _SUFFIXES:
        return None
    source = Source(path)
    try:
        return "PyTorch checkpoint" if is_torch_file(source.read(0, 8)) else None
    finally:
        source.close()


def open_weights(path: Path) -> Opened:
    """Open one file of either kind. Raises ModelFileError and OSError."""
    return open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path)


def open_folder_weights(folder: Path) -> tuple[list[Source], dict[str, StoredTensor]]:
    """The weights of a model folder: the open files, and the tensors under their own names. Raises ModelFileError and
    OSError."""
    own = sorted(path.name for path in folder.glob(_AUTO_GPTQ))
    for name in (*_IN_FOLDER, *(own if len(own) == 1 else ())):
        if (folder / name).exists():
            source, tensors, _ = open_weights(folder / name)
            return [source], tensors
        if (folder / f"{name}.index.json").exists():
            return _open_shards(folder, f"{name}.index.json")
    found = sorted(p.name for p in folder.iterdir() if p.suffix in (*_SUFFIXES, ".gguf"))
    raise FormatError(
        f"expected {' or '.join(_IN_FOLDER)} (or one with .index.json) in this folder, found "
        + (quoted(found) if found else "no weights"),
        path=folder,
    )


def _open_shards(folder: Path, index_name: str) -> tuple[list[Source], dict[str, StoredTensor]]:
    """The shards of an index; their tensors in the order of the shards' names. The index and the shards must name the same
    tensors."""
    index_path = folder / index_name
    where = read_json(index_path, _MAX_INDEX).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
        raise FormatError("the index has no weight_map of tensor names to file names", path=index_path)
    shards = sorted(set(where.values()))
    unsafe = next((shard for shard in shards if shard in ("", ".", "..") or any(char in shard for char in "/\\\0")), None)
    if unsafe is not None:
        raise UnsafeFileError(f"the index names the shard {quoted(unsafe)}; only bare file names are allowed", path=index_path)
    absent = [shard for shard in shards if not (folder / shard).exists()]
    if absent:
        raise TruncatedError(f"{len(absent)} of the {len(shards)} shards are missing: {some_of(absent)}", path=index_path)
    sources: list[Source] = []
    tensors: dict[str, StoredTensor] = {}
    try:
        for shard in shards:
            source, found, _ = open_weights(folder / shard)
            sources.append(source)
            for name, tensor in found.items():
                if where.get(name) != shard:
                    raise FormatError(
                        f"tensor {quoted(name)} is in {quoted(shard)}, but the index says {quoted(where.get(name))}",
                        path=index_path,
                    )
                tensors[name] = tensor
        missing = next((name for name in where if name not in tensors), None)
        if missing is not None:
            raise FormatError(
                f"tensor {quoted(missing)} is not in {quoted(where[missing])}, where the index says it is", path=index_path
            )
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources, tensors
