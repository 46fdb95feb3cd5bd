"""Nemotron 3: Nemotron-H whose feed-forwards are of experts, without gates, beside one that all tokens use."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import routing
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.moe import SIGMOID
from llmq.arch.nemotron_h import EXPERTS, NemotronH
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class NemotronHMoe(NemotronH):
    name = "nemotron_h_moe"
    hf_model_types: tuple[str, ...] = ()  # NemotronH.hf_family
    hf_defaults: Mapping[str, object] = {
        **NemotronH.hf_defaults, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1,
        "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0,
    }  # fmt: skip
    hf_requires: Mapping[str, tuple[object, ...]] = {**NemotronH.hf_requires, "moe_latent_size": (None,)}
    hf_feeds = EXPERTS
    normalizes = False

    def hparams(self, f: Fields) -> HParams:
        return super().hparams(Fields({**f.data, f"{f.prefix}expert_gating_func": SIGMOID}, f.path, f.prefix))

    def feed(self, g: Graph, x: Value, hp: HParams) -> Value:
        e = hp.experts
        if e is None:
            return super().feed(g, x, hp)
        routes = routing(g, x, e)
        up = g.experts(x, routes, g.w("ffn_up_exps.weight", (e.count, e.n_ff, hp.n_embd)))
        down = g.experts(g.act(up, "relu2"), routes, g.w("ffn_down_exps.weight", (e.count, hp.n_embd, e.n_ff)))
        shared = g.act(g.linear(x, "ffn_up_shexp", e.n_ff_shared), "relu2")
        return g.add(g.mix(down, routes, e.used), g.linear(shared, "ffn_down_shexp", hp.n_embd), "add_shared")

    def hf_metadata(self, config: Mapping[str, object], path: str | None = None) -> dict[str, MetaValue]:
        width = Fields(config, path).integer("moe_intermediate_size")
        return super().hf_metadata({**config, "intermediate_size": width}, path)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return super().hf_more(f) | {
            f"{self.name}.expert_weights_norm": f.flag("norm_topk_prob"),
            f"{self.name}.expert_shared_feed_forward_length": f.integer("moe_shared_expert_intermediate_size"),
        }

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        return name.startswith("mtp.") or super().hf_drops(name, config)  # those predict several tokens ahead

    def hf_name(self, name: str) -> str:
        name = super().hf_name(name)
        return name.replace("backbone.", "model.", 1).replace(".mixer.", ".mlp.") if ".mixer.experts." in name else name


FAMILY = NemotronHMoe()
