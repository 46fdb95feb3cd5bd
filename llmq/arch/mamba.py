"""Mamba and Falcon Mamba: nothing but selective state-space layers."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import embedding, output, rms_norm
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.ssm import Recurrent, RecurrentFamily, Ssm, mamba, mamba2, read_ssm
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Mamba"]

CONTEXT = 2**20
"""What is written as the trained context: nothing in such a model depends on one."""


class Mamba(RecurrentFamily):
    name = "mamba"
    hf_model_types: tuple[str, ...] = ("mamba", "falcon_mamba")
    hf_defaults: Mapping[str, object] = {
        "layer_norm_epsilon": 1e-5, "conv_kernel": 4, "state_size": 16, "expand": 2, "mixer_rms_eps": 1e-6,
    }  # fmt: skip

    def hparams(self, f: Fields) -> HParams:
        # no attention and no feed-forward: files say 0 or nothing
        p = self.name
        none = {f"{p}.attention.head_count": 1, f"{p}.attention.head_count_kv": 1, f"{p}.feed_forward_length": 1}
        f = Fields({**f.data, **none}, f.path, f.prefix)
        hp = super().hparams(f)
        norms = f.flag("ssm.dt_b_c_rms", default=False)
        eps = f.number("ssm.dt_b_c_rms_epsilon", high=1.0, default=hp.eps) if norms else 0.0
        return Recurrent(**vars(hp), ssm=read_ssm(f, heads=self.heads), recurrent=(True,) * hp.n_layer, norm_steps=eps)

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, Recurrent)
        mixer = mamba2 if self.heads else mamba
        x = embedding(g, hp)
        for _ in g.blocks(hp.n_layer):
            x = g.add(x, mixer(g, rms_norm(g, x, "attn_norm", hp), hp))
        return output(g, rms_norm(g, x, "output_norm", hp), hp)

    def hf_ssm(self, f: Fields) -> Ssm:
        """The widths of a config.json."""
        width = f.integer("hidden_size")
        inner = f.integer("intermediate_size", default=f.integer("expand") * width)
        rank = -(-width // 16) if f.data.get("time_step_rank", "auto") == "auto" else f.integer("time_step_rank")
        return Ssm(f.integer("conv_kernel"), inner, f.integer("state_size"), rank, 1)

    def hf_metadata(self, config: Mapping[str, object], path: str | None = None) -> dict[str, MetaValue]:
        f = self.hf_fields(config, path)
        out: dict[str, MetaValue] = {
            "vocab_size": f.integer("vocab_size"),
            "context_length": CONTEXT,
            "embedding_length": f.integer("hidden_size"),
            "feed_forward_length": 0,
            "attention.head_count": 0,
            "block_count": f.integer("num_hidden_layers"),
            "attention.layer_norm_rms_epsilon": f.number("layer_norm_epsilon"),
        }
        if f.data["model_type"] == "falcon_mamba":
            out |= {"ssm.dt_b_c_rms": True, "ssm.dt_b_c_rms_epsilon": f.number("mixer_rms_eps")}
        return {f"{self.name}.{key}": value for key, value in out.items()} | self.ssm_metadata(f, self.hf_ssm(f))


FAMILY = Mamba()
