"""The language model of Qwen3.5 with experts. Pictures are not read."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.qwen3next import Qwen3Next
from llmq.arch.qwen35 import Qwen35
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class Qwen35Moe(Qwen35):
    name = "qwen35moe"
    hf_model_types = ("qwen3_5_moe", "qwen3_5_moe_text")
    hf_defaults: Mapping[str, object] = {**Qwen3Next.hf_defaults, "num_experts": 256, "num_experts_per_tok": 8}
    normalizes = True

    def hparams(self, f: Fields) -> HParams:
        width = f.integer("expert_feed_forward_length")  # files say no other
        return super().hparams(Fields({f"{f.prefix}feed_forward_length": width, **f.data}, f.path, f.prefix))

    def hf_metadata(self, config: Mapping[str, object], path: str | None = None) -> dict[str, MetaValue]:
        if config.get("intermediate_size") is not None:
            return super().hf_metadata(config, path)
        width = self.hf_fields(config, path).integer("moe_intermediate_size")
        out = super().hf_metadata({**config, "intermediate_size": width}, path)
        del out[f"{self.name}.feed_forward_length"]
        return out


FAMILY = Qwen35Moe()
