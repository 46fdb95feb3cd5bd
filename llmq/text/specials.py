"""Which tokens end a generation. Files rarely say all of them, so llama.cpp goes by their names; so does this list."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["end_of_generation"]

_CONTROL, _USER_DEFINED = 3, 4

_END_NAMES = (
    *("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),  # Llama 3, Granite
    *("<|im_end|>", "<|endoftext|>"),  # ChatML, GPT-2, Qwen
    *("<|end|>", "<|return|>", "<|call|>"),  # Phi-3, gpt-oss
    *("<|flush|>", "<|calls|>"),  # Solar
    *("<end_of_turn>", "<eos>", "<turn|>", "<|tool_response>"),  # Gemma
    *("<EOT>", "_<EOT>", "[EOT]", "[EOS]", "[e~["),  # CodeLlama, Kimi, MiniMax
    *("</s>", "<end_of_utterance>", "<｜end▁of▁sentence｜>"),  # Llama 2, SmolVLM, DeepSeek
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),  # ends of a filled-in middle
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
)
_ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")  # gpt-oss writes its structure with them


def end_of_generation(
    tokens: list[str], types: npt.NDArray[np.uint8], named: Mapping[str, int | None]
) -> tuple[npt.NDArray[np.uint8], frozenset[int]]:
    """(token types, ids that end a generation). The ids are those `named` by the file (eos, eot, eom) and those known by name;
    the types, uint8 (n_tokens,), are the file's with the end tokens as control tokens (some converters forget it) and the
    structure of gpt-oss shown."""
    known = frozenset(_END_NAMES + _ALWAYS_SHOWN)
    found = {token: id for id, token in enumerate(tokens) if token in known}
    types = types.copy()
    for name in _ALWAYS_SHOWN:
        if name in found:
            types[found.pop(name)] = _USER_DEFINED
    inner_end = {"<|return|>", "<|call|>"} <= found.keys() or {"<|flush|>", "<|calls|>"} <= found.keys()
    if inner_end and "<|end|>" in found:  # there it ends a message inside a turn
        types[found.pop("<|end|>")] = _USER_DEFINED
    if "<|tool_response>" in found:
        found.pop("</s>", None)  # in Gemma a word like others
    types[list(found.values())] = _CONTROL
    return types, frozenset(found.values()) | {id for id in named.values() if id is not None}
