"""Rotary position embedding: the inverse frequencies of each scaling scheme.

Column pair j of a head turns by position * freq[j], freq[j] = base^(-2j/dims) (Su et al. 2021, RoFormer), changed by

    linear   freq / factor (positions interpolated, Chen et al. 2023)
    llama3   freq / factors[j], the factors coming with the file as the tensor rope_freqs.weight
    longrope the same with the tensors rope_factors_short.weight or, for a context longer than the original one,
             rope_factors_long.weight; cos, sin scaled (Ding et al. 2024); also of files that say none and have the tensors
    dynamic  for a context c beyond the original one o with the larger base b (factor c/o - factor + 1)^(dims / (dims - 2)),
             from the first token on (NTK-aware scaling, bloc97 2023; what transformers does when all come at once)
    yarn     per pair between freq and freq / factor by how often it turns within the original context, and cos, sin scaled
             (Peng et al. 2023)

Tables are computed in float64 and rounded once to float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq.arch.fields import Fields, shortest
from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue

__all__ = [
    "Rope",
    "hf_rope",
    "hf_rope_metadata",
    "hf_rope_scaling",
    "hf_sections",
    "llama3_factors",
    "llama3_scaling",
    "longrope_metadata",
    "longrope_tensors",
    "read_rope",
    "yarn_scale",
]


_LONG = ("longrope", "su")


@dataclass(frozen=True)
class Rope:
    """How positions turn `dims` columns of every head (an even number, at most the head's width)."""

    dims: int
    base: float = 10000.0
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 0
    attn_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncates: bool = True  # YaRN's range of pairs is rounded outwards
    factored: bool = True  # by rope_freqs.weight, where the file has it

    def table(self, factors: npt.NDArray[np.float32] | None = None, context: int = 0) -> npt.NDArray[np.float32]:
        """Inverse frequencies for sequences of up to `context` tokens, float32 (dims/2,); `factors` (same shape) divide
        them."""
        base = self.base
        if self.scaling == "dynamic" and context > self.original_context:
            stretched = self.factor * context / self.original_context - (self.factor - 1)
            base *= stretched ** (self.dims / max(self.dims - 2, 1))
        freq = base ** (-2.0 * np.arange(self.dims // 2) / self.dims)
        if factors is not None:
            freq = freq / factors.astype(np.float64)
        if self.scaling == "linear":
            freq = freq / self.factor
        elif self.scaling == "yarn":
            keep = self._yarn_keep()
            freq = freq * keep + freq / self.factor * (1 - keep)
        with np.errstate(over="ignore"):  # the graph refuses infinities
            return freq.astype(np.float32)

    @property
    def scale(self) -> float:
        """What cos and sin are multiplied with."""
        return self.attn_factor * yarn_scale(self.factor) if self.scaling == "yarn" else self.attn_factor

    def _yarn_keep(self) -> npt.NDArray[np.float64]:
        # 1 for pairs that turn more than beta_fast times within the original context, 0 for less than beta_slow, a ramp
        # between.
        def pair_turning(times: float) -> float:
            return self.dims * math.log(self.original_context / (times * 2 * math.pi)) / (2 * math.log(self.base))

        low, high = pair_turning(self.beta_fast), pair_turning(self.beta_slow)
        if self.truncates:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dims - 1)
        ramp = (np.arange(self.dims // 2) - low) / max(high - low, 0.001)
        return np.asarray(1 - np.clip(ramp, 0, 1), np.float64)


def yarn_scale(factor: float, mscale: float = 1.0) -> float:
    """YaRN's attention temperature for a context stretched by factor."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def llama3_factors(
    base: float, dims: int, *, factor: float, low: float, high: float, original_context: int
) -> npt.NDArray[np.float32]:
    """What Llama 3.1 divides its frequencies by, float32 (dims/2,): 1 for wavelengths under original_context / high, factor
    for those over original_context / low, a blend between, if any."""
    freq = base ** (-2.0 * np.arange(dims // 2) / dims)
    turns = original_context * freq / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1) if high > low else turns >= high
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def read_rope(f: Fields, head_dim: int, n_ctx_train: int, *, truncates: bool = True) -> Rope:
    """The scheme that GGUF metadata asks for; it has no key for `truncates`."""
    dims = f.integer("rope.dimension_count", low=2, high=head_dim, default=head_dim)
    if dims % 2:
        raise f.error("rope.dimension_count", f"an even number expected, found {dims}")
    base = f.number("rope.freq_base", low=1.0, high=1e12, default=10000.0)
    scaling = f.text("rope.scaling.type", default="none")
    if f.has("rope.scaling.dynamic_factor"):
        return Rope(dims, base, "dynamic", f.number("rope.scaling.dynamic_factor", high=1e6), n_ctx_train)
    if not f.has("rope.scaling.type") and f.has("rope.scale_linear"):
        scaling = "linear"
    factor = f.number("rope.scaling.factor", "rope.scale_linear", high=1e6, default=1.0)
    attn_factor = f.number("rope.scaling.attn_factor", high=1e6, default=1.0)
    if scaling == "linear":
        return Rope(dims, base, scaling, factor, attn_factor=attn_factor)
    original = f.integer("rope.scaling.original_context_length", high=2**27, default=n_ctx_train)
    if scaling in ("none", "longrope"):
        return Rope(dims, base, scaling, 1.0, original, attn_factor)
    if scaling == "yarn":
        if f.has("rope.scaling.yarn_ext_factor") and f.number("rope.scaling.yarn_ext_factor", low=-math.inf) not in (1.0, -1.0):
            raise UnsupportedError(f"{f.prefix}rope.scaling.yarn_ext_factor: only 1 is supported", path=f.path)
        fast = f.number("rope.scaling.yarn_beta_fast", high=1e6, default=32.0)
        slow = f.number("rope.scaling.yarn_beta_slow", high=1e6, default=1.0)
        if f.has("rope.scaling.yarn_attn_factor"):  # the whole factor of cos and sin
            attn_factor = f.number("rope.scaling.yarn_attn_factor", high=1e6) / yarn_scale(factor)
        return Rope(dims, base, scaling, factor, original, attn_factor, fast, slow, truncates)
    raise UnsupportedError(
        f"{f.prefix}rope.scaling.type: none, linear, yarn or longrope expected, found {quoted(scaling)}", path=f.path
    )


def hf_rope(config: Fields, kind: str = "full_attention") -> Fields:
    """The RoPE parameters of a config.json, of transformers 5 (`rope_parameters`, possibly one object per kind of layer) or 4
    (`rope_theta`, `rope_scaling` with `type` or `rope_type`), as one object."""
    new = config.sub("rope_parameters")
    if new.data:
        return new.sub(kind) if isinstance(new.data.get(kind), dict) else new
    if kind == "sliding_attention":
        return Fields({"rope_theta": config.data.get("rope_local_base_freq")}, config.path)
    merged: dict[str, object] = dict(config.sub("rope_scaling").data)
    merged.setdefault("rope_type", merged.get("type") or "default")
    for name, old in (("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")):
        for key in (name, old):
            if config.has(key):
                merged.setdefault(name, config.data[key])
    return Fields(merged, config.path)


def hf_sections(config: Fields) -> list[int]:
    """How many pairs go by each of the four coordinates of a picture, as GGUF has them; in texts all coordinates are the
    position."""
    sections = hf_rope(config).data.get("mrope_section")
    if not isinstance(sections, list) or not 1 <= len(sections) <= 4 or not all(type(n) is int and n >= 0 for n in sections):
        raise UnsupportedError("config.json: mrope_section with up to 4 counts expected", path=config.path)
    return [*sections, 0, 0, 0][:4]


def hf_rope_metadata(
    config: Fields, prefix: str, n_ctx_train: int, head_dim: int, *, truncates: bool = True
) -> Mapping[str, int | float | str]:
    """The `rope.*` keys of GGUF for a config.json, whose YaRN must do as `truncates` says."""
    rope = hf_rope(config)
    out: dict[str, int | float | str] = {}
    kind = rope.text("rope_type", "type", default="default").lower().replace("mrope", "default")
    if kind in ("linear", "yarn"):
        factor = rope.number("factor", high=1e6)
        out |= {f"{prefix}rope.scaling.type": kind, f"{prefix}rope.scaling.factor": factor}
    if kind == "yarn":
        original = rope.integer("original_max_position_embeddings", default=n_ctx_train)
        out[f"{prefix}rope.scaling.original_context_length"] = original
        # config.json gives the whole factor of cos and sin, GGUF what it is beyond YaRN's own.
        if rope.has("attention_factor"):
            out[f"{prefix}rope.scaling.attn_factor"] = rope.number("attention_factor") / yarn_scale(factor)
        elif rope.has("mscale") and rope.has("mscale_all_dim"):
            whole = yarn_scale(factor, rope.number("mscale")) / yarn_scale(factor, rope.number("mscale_all_dim"))
            out[f"{prefix}rope.scaling.attn_factor"] = whole / yarn_scale(factor)
        for name in ("beta_fast", "beta_slow"):
            if rope.has(name):
                out[f"{prefix}rope.scaling.yarn_{name}"] = rope.number(name)
        if rope.flag("truncate", default=True) != truncates:
            wanted = str(truncates).lower()
            raise UnsupportedError(f"config.json: rope truncate = {wanted} expected for this architecture", path=config.path)
    elif kind == "dynamic":  # a key of ours: llama.cpp has no such type, and none is needed within the original context
        out[f"{prefix}rope.scaling.dynamic_factor"] = rope.number("factor", high=1e6)
    elif kind not in ("default", "linear", "llama3", *_LONG):
        known = "default, linear, dynamic, llama3, yarn or longrope"
        raise UnsupportedError(f"config.json: rope_type {known} expected, found {quoted(kind)}", path=config.path)
    if rope.has("partial_rotary_factor"):
        out[f"{prefix}rope.dimension_count"] = int(head_dim * rope.number("partial_rotary_factor", high=1.0))
    if rope.has("rope_theta"):
        out[f"{prefix}rope.freq_base"] = rope.number("rope_theta")
    return out


def longrope_metadata(f: Fields, prefix: str) -> dict[str, MetaValue]:
    """The `rope.*` keys of GGUF for a config.json with LongRoPE; none for another."""
    rope = hf_rope(f)
    if rope.text("rope_type", default="default") not in _LONG:
        return {}
    key = "original_max_position_embeddings"
    original = (rope if rope.has(key) else f).integer(key, low=2)
    factor = rope.number("factor", default=f.integer("max_position_embeddings") / original)
    stretched = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        f"{prefix}rope.scaling.type": "longrope",
        f"{prefix}rope.scaling.original_context_length": original,
        f"{prefix}rope.scaling.attn_factor": rope.number("attention_factor", default=stretched),
    }


def longrope_tensors(config: Mapping[str, object]) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of LongRoPE's factors; none for a config.json without."""
    rope = hf_rope(Fields(config))
    if rope.text("rope_type", default="default") not in _LONG:
        return {}
    return {f"rope_factors_{which}.weight": rope.numbers(f"{which}_factor") for which in ("long", "short")}


def hf_rope_scaling(f: Fields, head_dim: int, n_ctx_train: int) -> dict[str, object]:
    """The keys of config.json for the scheme that GGUF metadata asks for, as transformers 4 and 5 both read them: the inverse
    of `hf_rope_metadata`. What comes as tensors (llama3, longrope) is the family's."""
    rope = read_rope(f, head_dim, n_ctx_train)
    out: dict[str, object] = {"rope_theta": shortest(rope.base)}
    if rope.dims != head_dim:
        out["partial_rotary_factor"] = rope.dims / head_dim
    if rope.scaling in ("linear", "dynamic", "yarn"):
        scaling: dict[str, object] = {"rope_type": rope.scaling, "factor": shortest(rope.factor)}
        if rope.scaling == "yarn":
            scaling["original_max_position_embeddings"] = rope.original_context
            if rope.attn_factor != 1:
                scaling["attention_factor"] = shortest(rope.scale)
            for name, value in (("beta_fast", rope.beta_fast), ("beta_slow", rope.beta_slow)):
                if f.has(f"rope.scaling.yarn_{name}"):
                    scaling[name] = shortest(value)
        out["rope_scaling"] = scaling
    return out


def llama3_scaling(factors: npt.NDArray[np.float32], base: float) -> dict[str, object] | None:
    """The `rope_scaling` of config.json whose `llama3_factors` these are, as the published models have it, or None."""
    factor = shortest(float(factors.max()))
    for original in (2**n for n in range(3, 21)):
        made = llama3_factors(base, 2 * len(factors), factor=factor, low=1.0, high=4.0, original_context=original)
        if np.allclose(made, factors, rtol=1e-5):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    return None
