"""Recipes: which type every tensor of a model gets, as llama-quantize chooses.

A recipe has a base type and, per role of a tensor, rules tried in order; the first whose condition holds decides, else the base
type. The choices are llama.cpp's (its tensors' sensitivity was measured there): more bits for the values of attention and for
ffn_down, mostly in the first and last layers, and for the output. tests/data/recipes.json holds what llama-quantize chooses.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmq.errors import UnsupportedQuantError
from llmq.quant.types import QuantType

__all__ = ["COPY", "NEEDS_IMATRIX", "RECIPES", "Facts", "Place", "Recipe", "find_recipe", "may_quantize", "places", "usable"]


@dataclass(frozen=True)
class Facts:
    """What the choices depend on besides the tensor."""

    architecture: str
    n_layer: int
    gqa: int  # query heads per key head
    experts: int  # 0 when the model is no mixture
    imatrix: bool
    tied: bool  # no output.weight: the embeddings are the output matrix

    @property
    def falcon(self) -> bool:
        return self.architecture == "falcon"

    @property
    def is_70b(self) -> bool:
        return self.n_layer == 80 and ((self.architecture == "llama" and self.gqa != 1) or self.architecture == "qwen2")


@dataclass(frozen=True)
class Place:
    """A tensor as the rules see it: its role, and that it belongs to layer `index` of `count`; `rank`: how many of its role
    come before it."""

    name: str
    role: str
    columns: int
    stacked: bool  # one matrix per expert
    index: int
    count: int
    rank: int
    facts: Facts = field(repr=False)


Condition = Callable[[Place], bool]
Rules = Sequence[tuple[Condition, str]]


def always(_: Place) -> bool:
    return True


def gqa4(p: Place) -> bool:
    return p.facts.gqa >= 4


def gqa4_or_experts4(p: Place) -> bool:
    return p.facts.gqa >= 4 or p.facts.experts >= 4


def experts8(p: Place) -> bool:
    return p.facts.experts == 8


def falcon(p: Place) -> bool:
    return p.facts.falcon


def first_eighth(p: Place) -> bool:
    return p.index < p.count // 8


def first_sixteenth(p: Place) -> bool:
    return p.index < p.count // 16


def middle(p: Place) -> bool:
    return p.count // 8 <= p.index < 7 * p.count // 8


def sensitive(p: Place) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return not middle(p) or (p.index - p.count // 8) % 3 == 2


def first_eighth_by_rank(p: Place) -> bool:
    return p.rank < p.count // 8


def first(n: int) -> Condition:
    return lambda p: p.index < n


def stacked(p: Place) -> bool:
    return p.stacked


def both(a: Condition, b: Condition) -> Condition:
    return lambda p: a(p) and b(p)


def no(a: Condition) -> Condition:
    return lambda p: not a(p)


def imatrix(p: Place) -> bool:
    return p.facts.imatrix


# Roles. The rows of a fused q, k, v matrix and of a compressed k, v matrix are as sensitive as the values they hold.
_V, _K, _Q, _O = "attn_v", "attn_k", "attn_q", "attn_output"
_DOWN, _GATE, _UP, _EMBD, _OUT, _OTHER = "ffn_down", "ffn_gate", "ffn_up", "token_embd", "output", "other"
_ROLE = re.compile(
    r"^(?P<top>token_embd|per_layer_token_embd|output)\.weight$|"
    r"\.(?P<block>attn_(?:v|qkv|kv_b|q|k|output)|ffn_(?:down|gate|up)(?:_exps|_shexp|_chexps)?)\.weight$"
)
_SAME_ROLE = {"attn_qkv": _V, "attn_kv_b": _V, "per_layer_token_embd": _EMBD}
# Small or sensitive, or indexed by position: kept as they are.
_KEPT = re.compile(
    r"_norm\.weight$|ffn_gate_inp\.weight$|altup|laurel|per_layer_model_proj|^position_embd\.weight$|^token_types\.weight$|ssm_conv1d|"
    r"shortconv\.conv\.weight|time_mix_(first|w[012]|v[012]|a[012]|g[12]|decay_w[12]|lerp_fused)\.weight|attn_rel_b\.weight|"
    r"\.position_embd|sam\.pos_embd|sam\.neck\.|sam\.net_|\.rel_pos|\.patch_embd|\.patch_merger"
)
# Where the columns are not whole blocks of the wanted type; F16 where they are not whole blocks of this either.
_FALLBACK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0"), "Q4_0"),
    "NVFP4": "MXFP4",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
NEEDS_IMATRIX = frozenset(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"))


@dataclass(frozen=True)
class Recipe:
    """`file_type` is general.file_type; `output` the type of the output matrix (None: Q6_K)."""

    name: str
    file_type: int
    base: str
    rules: Mapping[str, Rules] = field(default_factory=dict)
    output: str | None = None
    low: bool = False  # the recipes of 1 and 2 bits have all their exceptions in their rules

    @property
    def is_float(self) -> bool:
        return self.base in ("F32", "F16", "BF16")

    def choose(self, p: Place) -> str:
        """The name of the type for a tensor that may be quantized, before `fallback`."""
        f = p.facts
        if self.is_float:
            return self.base
        if p.role == _OUT or (p.role == _EMBD and f.tied):
            return self._output(p)
        kind = next((kind for condition, kind in self.rules.get(p.role, ()) if condition(p)), self.base)
        if self.low or p.role not in (_V, _K):
            return kind
        if f.experts == 8:
            return "Q8_0"
        return "Q5_K" if p.role == _V and f.is_70b and kind in ("Q3_K", "Q4_K") else kind

    def _output(self, p: Place) -> str:
        if p.facts.falcon or self.base == "Q8_0" or p.columns % QuantType[self.base].block:
            return "Q8_0"
        return self.output or "Q6_K"

    def needs_imatrix(self, p: Place, kind: str) -> bool:
        """Whether `kind` is too coarse for this tensor without measured importances."""
        if p.role in (_EMBD, _OUT):
            return False
        return kind in NEEDS_IMATRIX or (kind == "Q2_K" and self.name == "Q2_K_S")


# fmt: off
RECIPES = {recipe.name: recipe for recipe in (
    Recipe("F32", 0, "F32"), Recipe("F16", 1, "F16"), Recipe("BF16", 32, "BF16"),
    Recipe("Q4_0", 2, "Q4_0", {_DOWN: [(both(imatrix, first_eighth), "Q4_1")]}),
    Recipe("Q4_1", 3, "Q4_1"),
    Recipe("Q5_0", 8, "Q5_0", {_DOWN: [(both(imatrix, first_eighth), "Q5_1")]}),
    Recipe("Q5_1", 9, "Q5_1"),
    Recipe("Q8_0", 7, "Q8_0"),
    Recipe("Q2_K", 10, "Q2_K", {
        _V: [(gqa4, "Q4_K"), (always, "Q3_K")], _DOWN: [(always, "Q3_K")],
        _O: [(falcon, "Q2_K"), (experts8, "Q5_K"), (always, "Q3_K")]}),
    Recipe("Q2_K_S", 21, "Q2_K", {_V: [(gqa4, "Q4_K")], _DOWN: [(first_eighth, "Q4_K")]}),
    Recipe("Q3_K_S", 11, "Q3_K", {_O: [(experts8, "Q5_K")]}),
    Recipe("Q3_K_M", 12, "Q3_K", {
        _V: [(first(2), "Q5_K"), (always, "Q4_K")],
        _DOWN: [(first_sixteenth, "Q5_K"), (both(falcon, no(sensitive)), "Q3_K"), (always, "Q4_K")],
        _O: [(falcon, "Q3_K"), (experts8, "Q5_K"), (always, "Q4_K")]}),
    Recipe("Q3_K_L", 13, "Q3_K", {
        _V: [(always, "Q5_K")], _DOWN: [(falcon, "Q4_K"), (always, "Q5_K")],
        _O: [(falcon, "Q4_K"), (experts8, "Q3_K"), (always, "Q5_K")]}),
    Recipe("Q4_K_S", 14, "Q4_K", {
        _V: [(first(4), "Q5_K")], _DOWN: [(both(first_eighth, no(falcon)), "Q5_K")], _O: [(experts8, "Q5_K")]}),
    Recipe("Q4_K_M", 15, "Q4_K", {
        _V: [(sensitive, "Q6_K")],
        _DOWN: [
            (both(falcon, first_sixteenth), "Q6_K"), (both(falcon, sensitive), "Q5_K"), (falcon, "Q4_K"), (sensitive, "Q6_K")],
        _O: [(experts8, "Q5_K")]}),
    Recipe("Q5_K_S", 16, "Q5_K"),
    Recipe("Q5_K_M", 17, "Q5_K", {_V: [(sensitive, "Q6_K")], _DOWN: [(sensitive, "Q6_K")]}),
    Recipe("Q6_K", 18, "Q6_K"),
    Recipe("IQ4_NL", 25, "IQ4_NL", {
        _V: [(gqa4, "Q5_K")], _DOWN: [(both(first_eighth, no(imatrix)), "Q5_K")], _O: [(experts8, "Q5_K")]}),
    Recipe("IQ4_XS", 30, "IQ4_XS", {
        _V: [(gqa4, "Q5_K")], _DOWN: [(both(first_eighth, no(imatrix)), "Q5_K")], _O: [(experts8, "Q5_K")]}),
    Recipe("IQ3_XXS", 23, "IQ3_XXS", {
        _EMBD: [(always, "IQ3_S")], _V: [(gqa4, "Q4_K"), (no(imatrix), "IQ3_S")],
        _K: [(always, "IQ2_S")], _Q: [(always, "IQ2_S")],
        _DOWN: [(imatrix, "IQ3_XXS"), (first_eighth, "Q4_K"), (always, "Q3_K")],
        _O: [(falcon, "IQ3_XXS"), (experts8, "Q5_K"), (always, "IQ3_S")]}, output="Q5_K"),
    Recipe("IQ3_XS", 22, "IQ3_S", {
        _V: [(gqa4, "Q4_K")], _K: [(always, "IQ3_XXS")], _Q: [(always, "IQ3_XXS")],
        _GATE: [(middle, "IQ3_XXS")], _UP: [(middle, "IQ3_XXS")], _O: [(experts8, "Q5_K")]}),
    Recipe("IQ3_S", 26, "IQ3_S", {_V: [(gqa4, "Q4_K")], _O: [(experts8, "Q5_K")]}),
    Recipe("IQ3_M", 27, "IQ3_S", {
        _V: [(always, "Q4_K")], _DOWN: [(first_eighth, "Q4_K"), (both(experts8, sensitive), "Q4_K")],
        _O: [(falcon, "IQ3_S"), (experts8, "Q5_K"), (always, "Q4_K")]}),
    *(Recipe(name, file_type, base, {
        _EMBD: [(always, embedding)], _V: [(gqa4_or_experts4, "Q4_K"), (always, better)], _K: [(experts8, "Q4_K")],
        _DOWN: [(first_eighth_by_rank, better)], _O: [(experts8, "Q5_K"), (always, attn_output)]}, output="Q5_K", low=True)
      for name, file_type, base, embedding, better, attn_output in (
          ("IQ1_S", 24, "IQ1_S", "Q2_K", "Q2_K", "IQ2_XXS"), ("IQ1_M", 31, "IQ1_M", "Q2_K", "Q2_K", "IQ2_XXS"),
          ("IQ2_XXS", 19, "IQ2_XXS", "Q2_K", "Q2_K", "IQ2_XXS"), ("IQ2_XS", 20, "IQ2_XS", "Q2_K", "Q2_K", "IQ2_XS"),
          ("IQ2_S", 28, "IQ2_XS", "IQ3_S", "IQ3_S", "IQ3_S"), ("IQ2_M", 29, "IQ2_S", "IQ3_S", "IQ3_S", "IQ3_S"))),
    Recipe("TQ1_0", 36, "TQ1_0", {_EMBD: [(always, "Q4_K")]}), Recipe("TQ2_0", 37, "TQ2_0", {_EMBD: [(always, "Q4_K")]}),
    Recipe("NVFP4", 39, "NVFP4"),
    Recipe("MXFP4_MOE", 38, "Q8_0", {role: [(stacked, "MXFP4")] for role in (_DOWN, _GATE, _UP, _OTHER)}),
    Recipe("Q1_0", 40, "Q1_0"), Recipe("Q2_0", 41, "Q2_0", {_EMBD: [(always, "Q4_K")]}),
)}
# fmt: on
COPY = Recipe("COPY", -1, "")  # every tensor in the type it has; the file keeps its own file_type
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "FP16": "F16", "FP32": "F32"}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name in any case, or of that number (general.file_type), as llama-quantize takes them.
    `UnsupportedQuantError` with a suggestion otherwise."""
    wanted = name.upper().replace("-", "_")
    wanted = _ALIASES.get(wanted, wanted)
    if wanted == COPY.name:
        return COPY
    if wanted in RECIPES:
        return RECIPES[wanted]
    for recipe in RECIPES.values():
        if wanted == str(recipe.file_type):
            return recipe
    known = (*RECIPES, COPY.name)
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise UnsupportedQuantError(f"unknown type {name!r}{hint} Types: {', '.join(known)}")


def may_quantize(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is a matrix of weights: vectors (also as matrices of one row), norms, routers, positions and small
    convolutions stay as they are."""
    ones = next((i for i, n in enumerate(shape) if n > 1), len(shape))
    return len(shape) - ones >= 2 and name.endswith("weight") and _KEPT.search(name) is None


def places(shapes: Mapping[str, Sequence[int]], facts: Facts) -> dict[str, Place]:
    """Every tensor that may be quantized, as the rules see it; `shapes` is in the order of the file to be written."""
    found: dict[str, tuple[str, int]] = {}
    counts: dict[str, int] = {}
    for name, shape in shapes.items():
        if may_quantize(name, shape):
            role = _role(name)
            found[name] = role, counts.get(role, 0)
            counts[role] = counts.get(role, 0) + 1
    result = {}
    for name, (role, rank) in found.items():
        layer = re.match(r"blk\.(\d+)\.", name)
        by_layer = role in (_DOWN, _GATE, _UP)
        index = int(layer[1]) if by_layer and layer and facts.experts > 1 else rank
        shape = shapes[name]
        count = facts.n_layer if by_layer else counts[role]
        result[name] = Place(name, role, shape[-1], len(shape) > 2 and shape[0] > 1, index, count, rank, facts)
    return result


def _role(name: str) -> str:
    match = _ROLE.search(name)
    if match is None:
        return _OTHER
    found = match["top"] or re.sub(r"_(exps|shexp|chexps)$", "", match["block"])
    return _SAME_ROLE.get(found, found)


def usable(kind: str, columns: int) -> QuantType:
    """The type of that name, or the one that takes its place where rows of `columns` are not whole blocks of it.
    `UnsupportedQuantError` when this build does not have it."""
    for name in (kind, _FALLBACK.get(kind, "F16"), "F16"):
        if name not in QuantType.__members__:
            raise UnsupportedQuantError(
                f"type {name} is not one that llmq writes; it writes {', '.join(QuantType.__members__)}"
            )
        if columns % QuantType[name].block == 0:
            break
    return QuantType[name]
