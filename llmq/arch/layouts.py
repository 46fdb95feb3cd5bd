"""How Hugging Face lays out rows where GGUF has them otherwise. Each takes a tensor (rows, …) of any element type and gives
back the same rows in another order; FormatError when the rows do not divide."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError

__all__ = ["Rows", "in_turn", "neighbours", "query_key_value"]

Rows = npt.NDArray[np.generic]


def neighbours(x: Rows, n_head: int, dims: int = 0) -> Rows:
    """Heads whose rotary pairs are rows (j, j + dims/2) to heads with pairs (2j, 2j + 1), of the first `dims` rows of a head
    (0: all)."""
    if dims:
        _check(x, n_head, f"{n_head} heads")
        heads = x.reshape(n_head, len(x) // n_head, *x.shape[1:])
        first = neighbours(heads[:, :dims].reshape(-1, *x.shape[1:]), n_head).reshape(n_head, dims, *x.shape[1:])
        return np.concatenate([first, heads[:, dims:]], axis=1).reshape(x.shape)
    _check(x, 2 * n_head, f"{n_head} heads of an even number of rows")
    out: Rows = x.reshape(n_head, 2, len(x) // n_head // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
    return out


def query_key_value(x: Rows, n_head: int, n_head_kv: int) -> Rows:
    """Groups of (queries, key, value), one for every key head, to all queries, all keys, all values."""
    group = n_head // max(n_head_kv, 1)
    _check(x, n_head_kv * (group + 2), f"{n_head_kv} groups of {group} queries, a key and a value")
    groups = x.reshape(n_head_kv, group + 2, len(x) // (n_head_kv * (group + 2)), *x.shape[1:])
    parts = (groups[:, :group], groups[:, group], groups[:, group + 1])
    return np.concatenate([part.reshape(-1, *x.shape[1:]) for part in parts])


def in_turn(x: Rows, groups: int, heads: int) -> Rows:
    """Heads of which those of a group are neighbours to heads of which neighbours are of different groups."""
    _check(x, heads if heads % groups == 0 else 0, f"{heads} heads in {groups} groups")
    out: Rows = x.reshape(groups, heads // groups, len(x) // heads, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
    return out


def _check(x: Rows, divisor: int, what: str) -> None:
    if divisor < 1 or len(x) % divisor:
        raise FormatError(f"config.json: {len(x)} rows of an attention tensor are not {what}")
