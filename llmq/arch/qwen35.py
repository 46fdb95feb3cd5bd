"""The language model of Qwen3.5: Qwen3-Next's layers without experts, the heads of their values in another order. Pictures are
not read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from llmq.arch.family import Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import MAX_WIDTH
from llmq.arch.layouts import in_turn
from llmq.arch.qwen3next import Qwen3Next
from llmq.arch.rope import hf_rope, hf_sections
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY", "Qwen35"]

SECTIONS = [11, 11, 10, 0]
BY_HEAD = (".attn_gate.weight", ".ssm_alpha.weight", ".ssm_beta.weight", ".ssm_a", ".ssm_dt.bias")


class Qwen35(Qwen3Next):
    name = "qwen35"
    hf_model_types = ("qwen3_5", "qwen3_5_text")
    hf_defaults: Mapping[str, object] = {
        key: value for key, value in Qwen3Next.hf_defaults.items() if "expert" not in key and key != "moe_intermediate_size"
    } | {"num_key_value_heads": 4}
    normalizes: bool | None = None
    in_turn = True

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        sections = hf_sections(f) if hf_rope(f).has("mrope_section") else SECTIONS
        return {**super().hf_more(f), f"{self.name}.rope.dimension_sections": sections}

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        f = Fields({**self.hf_defaults, **config})
        groups, heads = f.integer("linear_num_key_heads"), f.integer("linear_num_value_heads")
        turn = partial(in_turn, groups=groups, heads=heads)
        transform = super().hf_transform(name, config)
        if name.endswith(BY_HEAD):
            return lambda x: turn(x if transform is None else transform(x))
        if name.endswith((".ssm_conv1d.weight", ".attn_qkv.weight")):
            keys = 2 * groups * f.integer("linear_key_head_dim")
            return lambda x: np.concatenate([x[:keys], turn(x[keys:])])
        return transform

    def hf_columns(self, name: str, config: Mapping[str, object]) -> npt.NDArray[np.intp] | None:
        f = Fields({**self.hf_defaults, **config})
        groups, heads = f.integer("linear_num_key_heads"), f.integer("linear_num_value_heads")
        if groups == heads or not name.endswith(".ssm_out.weight"):
            return None
        width = f.integer("linear_value_head_dim", high=MAX_WIDTH // heads)
        return in_turn(np.arange(heads * width), groups, heads).astype(np.intp)


FAMILY = Qwen35()
