"""State-space layers: their hyper-parameters, the two mixers that families share, and their tensors in Hugging Face folders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmq.arch.blocks import rms_norm
from llmq.arch.family import Family, Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import MAX_HEADS, MAX_LAYERS, MAX_WIDTH, HParams
from llmq.arch.moe import Pick
from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value
from llmq.graph.tape import MAX_TAPS

__all__ = [
    "Recurrent",
    "RecurrentFamily",
    "Ssm",
    "convolved",
    "hybrid",
    "layer_kinds",
    "mamba",
    "mamba2",
    "no_step_limit",
    "per_layer",
    "read_ssm",
]

MAX_STATES = 2**12


@dataclass(frozen=True)
class Ssm:
    """Widths: `inner` channels, each convolved with `taps` tokens and keeping `states` numbers. `rank`: of the steps of mamba;
    the heads of mamba2, in `groups` that share B and C."""

    taps: int
    inner: int
    states: int
    rank: int
    groups: int


def no_step_limit(f: Fields, name: str = "time_step_limit") -> None:
    """UnsupportedError when steps are limited, which GGUF has no key for. No limit is 0 to infinity; JSON has no number for
    that, and folders have several ways to write it."""
    found = f.data.get(name)
    if found is not None:
        low, high = found if isinstance(found, list) and len(found) == 2 else (None, 0.0)
        if low != 0 or (isinstance(high, int | float) and high != math.inf):
            raise UnsupportedError(f"{name}: no limit (0 to infinity) expected, found {quoted(found)}", path=f.path)


def hybrid(f: Fields) -> tuple[Fields, tuple[bool, ...]]:
    """The fields of a model of which only some layers are attention, with one number of key heads for these, and which are
    not."""
    f, attends = per_layer(f, "attention.head_count_kv")
    return f, tuple(not on for on in attends)


def per_layer(f: Fields, key: str) -> tuple[Fields, tuple[bool, ...]]:
    """The fields with one number where the file lists one for every layer, 0 for those that have nothing of the kind, and which
    layers have it."""
    n_layer, counts = f.integer("block_count", high=MAX_LAYERS), f.data.get(f.prefix + key)
    counts = counts.tolist() if isinstance(counts, np.ndarray) else counts
    if not isinstance(counts, list):
        return f, (True,) * n_layer
    if len(counts) != n_layer or any(not isinstance(n, int) or isinstance(n, bool) for n in counts):
        raise f.error(key, f"{n_layer} integers expected, found {quoted(counts)}")
    numbers = {n for n in counts if n != 0} or {1}
    if len(numbers) > 1:
        raise UnsupportedError(f"{f.prefix}{key}: one number for all layers expected, found {quoted(counts)}", path=f.path)
    return Fields({**f.data, f.prefix + key: numbers.pop()}, f.path, f.prefix), tuple(n != 0 for n in counts)


def layer_kinds(f: Fields) -> list[str]:
    """The kinds of the layers in a config.json."""
    kinds = f.data.get("layer_types", f.data.get("layers_block_type"))
    n_layer = f.integer("num_hidden_layers", default=len(kinds) if isinstance(kinds, list) else None)
    if not isinstance(kinds, list) or len(kinds) != n_layer or not all(isinstance(kind, str) for kind in kinds):
        raise f.error("layer_types", f"{n_layer} names expected, found {quoted(kinds)}")
    return kinds


@dataclass(frozen=True)
class Recurrent(HParams):
    """`recurrent`: the layers that have a state-space mixer. norm_steps: mamba norms steps, B and C without weights, with this
    epsilon; 0: it does not."""

    ssm: Ssm
    recurrent: tuple[bool, ...]
    norm_steps: float


def read_ssm(f: Fields, *, heads: bool) -> Ssm:
    """The `ssm.*` keys; heads: of mamba2."""
    s = Ssm(
        f.integer("ssm.conv_kernel", low=2, high=MAX_TAPS),
        f.integer("ssm.inner_size", high=MAX_WIDTH),
        f.integer("ssm.state_size", high=MAX_STATES),
        f.integer("ssm.time_step_rank", high=MAX_HEADS if heads else MAX_WIDTH),
        f.integer("ssm.group_count", low=0, high=MAX_HEADS, default=1) or 1 if heads else 1,
    )
    if heads and s.inner % s.rank:
        raise f.error("ssm.time_step_rank", f"a divisor of the inner size {s.inner} expected, found {s.rank}")
    if heads and s.rank % s.groups:
        raise f.error("ssm.group_count", f"a divisor of the {s.rank} heads expected, found {s.groups}")
    return s


def mamba(g: Graph, x: Value, hp: Recurrent) -> Value:
    """The selective mixer (Gu & Dao 2023): a step of its own for every channel."""
    s = hp.ssm
    both = g.linear(x, "ssm_in", 2 * s.inner)
    x, gate = g.slice(both, 0, s.inner, "ssm_x_in"), g.slice(both, s.inner, s.inner, "ssm_gate")
    x = convolved(g, x, s)
    small = g.linear(x, "ssm_x", s.rank + 2 * s.states)
    dt, bc = g.slice(small, 0, s.rank, "ssm_steps"), g.slice(small, s.rank, 2 * s.states, "ssm_bc")
    if g.has("ssm_dt_norm.weight"):
        dt = rms_norm(g, dt, "ssm_dt_norm", hp)
        b, c = g.slice(bc, 0, s.states, "ssm_b"), g.slice(bc, s.states, s.states, "ssm_c")
        bc = g.join(rms_norm(g, b, "ssm_b_norm", hp), rms_norm(g, c, "ssm_c_norm", hp), 1, 2 * s.states, "ssm_bc")
    elif hp.norm_steps:
        dt, bc = g.rmsnorm(dt, None, hp.norm_steps), g.rmsnorm(bc, None, hp.norm_steps, s.states)
    dt = g.act(g.linear(dt, "ssm_dt", s.inner), "softplus")
    a, d = g.w("ssm_a", (s.inner, s.states)), g.w("ssm_d", (s.inner,))
    joined = g.join(x, bc, 1, s.inner + 2 * s.states, "ssm_x_bc")
    y = g.scan(joined, dt, a, d, heads=s.inner, width=1, groups=1, states=s.states)
    return g.linear(g.glu(gate, y, "silu"), "ssm_out", hp.n_embd)


def mamba2(g: Graph, x: Value, hp: Recurrent) -> Value:
    """The mixer of heads (Dao & Gu 2024): one decay and step per head, and RMSNorm of every group of the gated output, where
    the file has its weights."""
    s = hp.ssm
    mixed = s.inner + 2 * s.groups * s.states
    both = g.linear(x, "ssm_in", s.inner + mixed + s.rank)
    gate, x = g.slice(both, 0, s.inner, "ssm_gate"), g.slice(both, s.inner, mixed, "ssm_x_bc")
    dt = g.add_bias(g.slice(both, s.inner + mixed, s.rank, "ssm_steps"), g.w("ssm_dt.bias", (s.rank,)))
    a, d = g.w("ssm_a", (s.rank, 1)), g.w("ssm_d", (s.rank, 1))
    x, dt = convolved(g, x, s), g.act(dt, "softplus")
    y = g.scan(x, dt, a, d, heads=s.rank, width=s.inner // s.rank, groups=s.groups, states=s.states)
    y = g.glu(gate, y, "silu")
    if g.has("ssm_norm.weight"):
        group = s.inner // s.groups
        y = g.rmsnorm(y, g.w("ssm_norm.weight", (s.groups, group)), hp.eps, group)
    return g.linear(y, "ssm_out", hp.n_embd)


def convolved(g: Graph, x: Value, s: Ssm) -> Value:
    bias = g.maybe("ssm_conv1d.bias", (x.width,))
    return g.act(g.conv(x, g.w("ssm_conv1d.weight", (x.width, s.taps)), bias), "silu")


class RecurrentFamily(Family):
    """Of families with these layers: what is theirs in a folder. heads: whether the mixer is that of mamba2."""

    heads = False

    def ssm_metadata(self, f: Fields, s: Ssm) -> dict[str, MetaValue]:
        """The `ssm.*` keys."""
        out = {"conv_kernel": s.taps, "inner_size": s.inner, "state_size": s.states, "time_step_rank": s.rank}
        out |= {"group_count": s.groups} if self.heads else {}
        return {f"{self.name}.ssm.{key}": value for key, value in out.items()}

    def hf_groups(self, config: Mapping[str, object]) -> int:
        """Groups of heads."""
        return Fields(config).integer("n_groups", "mamba_n_groups", default=1)

    def hf_name(self, name: str) -> str:
        return super().hf_name(name).replace(".dt_bias", ".dt_proj.bias")

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        if name.endswith(".conv1d.weight"):  # (channels, 1, taps)
            return [(name, lambda x: x[:, 0])]
        if self.heads and name.endswith((".A_log", ".D")):
            return [(name, lambda x: x[:, None])]
        if self.heads and name.endswith((".mixer.norm.weight", ".mamba.norm.weight")):
            groups = self.hf_groups(config)
            return [(name, lambda x: x.reshape(groups, -1))]
        return super().hf_parts(name, config)

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        return (lambda x: -np.exp(x)) if name.endswith(".ssm_a") else super().hf_transform(name, config)
