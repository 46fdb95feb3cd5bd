"""Files of models: bytes to and from `Checkpoint`."""

from __future__ import annotations

import os
from pathlib import Path

from llmq.errors import FormatError, UnsupportedError
from llmq.formats.checkpoint import Checkpoint, Tensor
from llmq.formats.ggjt import is_ggjt, read_ggjt
from llmq.formats.huggingface import is_folder, open_folder
from llmq.formats.rules import check_model
from llmq.formats.split import open_gguf
from llmq.formats.weights import weights_format

__all__ = ["Checkpoint", "Tensor", "open_checkpoint", "open_unchecked"]


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a model: a GGUF file (vocabulary-only ones too; of a split one any part) or a Hugging Face folder, as GGUF metadata
    and GGUF-named tensors.

    Raises ModelFileError when the files cannot be used (TruncatedError, FormatError, LimitError, UnsupportedError,
    UnsafeFileError), and OSError as the system gives it (FileNotFoundError, PermissionError, …)."""
    model = open_unchecked(Path(path))
    try:
        check_model(model)
    except BaseException:
        model.close()
        raise
    return model


def open_unchecked(path: Path) -> Checkpoint:
    """As `open_checkpoint`, for files that are no model by themselves too."""
    if path.is_dir():
        if is_folder(path):
            return open_folder(path)
        files = sorted(p.name for p in path.iterdir() if p.suffix == ".gguf")
        hint = f"; it holds {files[0]!r}: give that file" if files else ""
        raise FormatError(f"this folder has no config.json, so it is no Hugging Face model{hint}", path=path)
    if path.is_file() and weights_format(path):
        if is_folder(path.parent):
            raise UnsupportedError(f"weights alone are no model; give the folder: {path.parent}", path=path)
        raise UnsupportedError(
            "weights alone are no model: config.json and the tokenizer's files must stand beside them", path=path
        )
    return read_ggjt(path) if is_ggjt(path) else open_gguf(path)
