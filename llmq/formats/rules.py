"""What must hold between the parts of a model's files, whatever their format."""

from __future__ import annotations

from collections.abc import Sized
from typing import cast

from llmq.errors import FormatError, UnsupportedError, quoted
from llmq.formats.checkpoint import Checkpoint

__all__ = ["check_model"]

_NOT_MODELS = {
    "imatrix": "an importance matrix, for `llmq quantize --imatrix`",
    "adapter": "a LoRA adapter, which needs the model it was made for",
    "mmproj": "a vision or audio projector, which needs its language model",
}


def check_model(model: Checkpoint) -> None:
    """Raise FormatError when metadata and tensors contradict each other, or UnsupportedError when this is no model by
    itself."""
    kind = model.metadata.get("general.type")
    if isinstance(kind, str) and kind in _NOT_MODELS:
        raise UnsupportedError(f"expected a model; this is {_NOT_MODELS[kind]}", path=model.path)
    if not isinstance(model.metadata.get("general.architecture"), str):
        raise FormatError("general.architecture is missing, so this is no model", path=model.path)
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        _check_tokens(model, cast("list[str]", tokens))  # the reader has checked the element type


def _check_tokens(model: Checkpoint, tokens: list[str]) -> None:
    n = len(tokens)
    embedding = model.tensors.get("token_embd.weight")
    if embedding is not None and embedding.shape[0] != n:
        raise FormatError(
            f"tokenizer.ggml.tokens has {n} tokens, but token_embd.weight has {embedding.shape[0]} rows",
            path=model.path,
            offset=embedding.offset,
        )
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        values = model.metadata.get(key)
        if isinstance(values, Sized) and len(values) != n:
            raise FormatError(f"{key} has {len(values)} elements for {n} tokens", path=model.path)
    if len(set(tokens)) != n:
        seen: set[str] = set()
        for i, token in enumerate(tokens):
            if token in seen and token:  # several empty ones, for unused ids, do no harm: no text has them
                raise FormatError(f"token {quoted(token)} appears twice, the second time as {i}", path=model.path)
            seen.add(token)
    for name in ("bos", "eos", "unknown"):
        key = f"tokenizer.ggml.{name}_token_id"
        id = model.metadata.get(key)
        if isinstance(id, int) and not 0 <= id < n:
            raise FormatError(f"{key} is {id}, but there are {n} tokens", path=model.path)
