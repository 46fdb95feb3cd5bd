"""Mamba 2: state-space layers of heads."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.fields import Fields
from llmq.arch.mamba import Mamba
from llmq.arch.ssm import Ssm, no_step_limit

__all__ = ["FAMILY"]


class Mamba2(Mamba):
    name = "mamba2"
    hf_model_types = ("mamba2",)
    hf_defaults: Mapping[str, object] = {
        "layer_norm_epsilon": 1e-5, "conv_kernel": 4, "state_size": 128, "num_heads": 128, "head_dim": 64, "n_groups": 8,
    }  # fmt: skip
    heads = True

    def hf_ssm(self, f: Fields) -> Ssm:
        no_step_limit(f)
        heads = f.integer("num_heads")
        inner = heads * f.integer("head_dim")
        return Ssm(f.integer("conv_kernel"), inner, f.integer("state_size"), heads, self.hf_groups(f.data))

    def hf_groups(self, config: Mapping[str, object]) -> int:
        return super().hf_groups({**self.hf_defaults, **config})


FAMILY = Mamba2()
