"""Mixtures of experts: their hyper-parameters, the block that families share, and their tensors in Hugging Face folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq.arch.fields import Fields
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue
from llmq.graph.tape import MAX_EXPERTS

__all__ = ["Experts", "Pick", "hf_expert_metadata", "hf_expert_parts", "hf_halves", "read_experts"]

MAX_WIDTH = 2**24
Pick = Callable[[npt.NDArray[np.generic]], npt.NDArray[np.generic]]
"""Picks a part of a tensor: a view of it, indexed or with its axes swapped."""

SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN = 1, 2, 3  # expert_gating_func


@dataclass(frozen=True)
class Experts:
    """A layer has `count` experts of width n_ff, each token uses `used` of them; n_ff_shared: the width of the feed-forward
    that all tokens use beside them, where a file has one. The rest is as `Graph.route` says."""

    count: int
    used: int
    n_ff: int
    n_ff_shared: int
    sigmoid: bool
    normalize: bool
    scale: float
    groups: int
    groups_used: int


def read_experts(f: Fields, n_ff: int, normalize: bool) -> Experts | None:
    """What the metadata says of experts, None when there are none. n_ff: the model's width of feed-forwards, theirs too when
    nothing else is said; normalize: whether weights are, when nothing is said."""
    count = f.integer("expert_count", low=0, high=MAX_EXPERTS, default=0)
    if count == 0:
        return None
    used = f.integer("expert_used_count", high=count)
    gating = f.integer("expert_gating_func", low=0, default=SOFTMAX) or SOFTMAX
    if gating not in (SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN):
        raise UnsupportedError(f"{f.prefix}expert_gating_func: 1, 2 or 3 expected, found {gating}", path=f.path)
    groups = f.integer("expert_group_count", low=0, high=count, default=1) or 1
    groups_used = f.integer("expert_group_used_count", low=0, high=groups, default=1) or 1
    if count % groups or used > count // groups * groups_used or (gating == SIGMOID and groups == count > 1):
        raise f.error("expert_group_count", f"{groups_used} of {groups} groups cannot give {used} of {count} experts")
    width = f.integer("expert_feed_forward_length", high=MAX_WIDTH, default=n_ff)
    shared = width * f.integer("expert_shared_count", low=0, high=MAX_EXPERTS, default=0)
    return Experts(
        count,
        used,
        width,
        f.integer("expert_shared_feed_forward_length", high=MAX_WIDTH, default=shared or n_ff),
        gating == SIGMOID,
        gating == SOFTMAX_OF_CHOSEN or f.flag("expert_weights_norm", default=normalize),
        f.number("expert_weights_scale", high=1e6, default=1.0, zero=True) or 1.0,
        groups,
        groups_used,
    )


def hf_expert_metadata(f: Fields, prefix: str, normalize: bool) -> dict[str, MetaValue]:
    """The `expert_*` keys for a config.json, none when it has no experts; normalize: what GGUF assumes for this family."""
    if not f.has("num_local_experts", "num_experts", "n_routed_experts"):
        return {}
    out: dict[str, MetaValue] = {
        f"{prefix}expert_count": f.integer("num_local_experts", "num_experts", "n_routed_experts", high=MAX_EXPERTS),
        f"{prefix}expert_used_count": f.integer("num_experts_per_tok", "num_experts_per_token"),
    }
    for key, name in (
        ("expert_group_count", "n_group"),
        ("expert_group_used_count", "topk_group"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
        ("expert_shared_count", "n_shared_experts"),
        ("leading_dense_block_count", "first_k_dense_replace"),
    ):
        if f.has(name):
            out[prefix + key] = f.integer(name, low=0)
    if f.has("routed_scaling_factor"):
        out[f"{prefix}expert_weights_scale"] = f.number("routed_scaling_factor", high=1e6)
    if f.has("norm_topk_prob") and f.flag("norm_topk_prob") != normalize:
        out[f"{prefix}expert_weights_norm"] = f.flag("norm_topk_prob")
    return out


def hf_expert_parts(name: str) -> list[tuple[str, Pick | None]]:
    """The parts of a tensor that holds all experts of a layer, as transformers 5 keeps them: gate and up are its first and
    its last rows. Any other tensor is one part."""
    found = re.fullmatch(r"(.*\.mlp\.experts\.)(gate_up_proj|down_proj)", name)
    if found is None:
        return [(name, None)]
    return hf_halves(found[1]) if found[2] == "gate_up_proj" else [(f"{name}.weight", None)]


def hf_halves(prefix: str) -> list[tuple[str, Pick | None]]:
    """Gate and up from a stack (experts, both, inputs); prefix is that of their names, "….mlp.experts."."""
    return [
        (f"{prefix}gate_proj.weight", lambda x: x[:, : x.shape[1] // 2]),
        (f"{prefix}up_proj.weight", lambda x: x[:, x.shape[1] // 2 :]),
    ]
