"""Falcon H1: attention and a mixer of Mamba 2 side by side in every layer. The constants that its config.json has for almost
every matrix are multiplied into the tensors of the GGUF."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from llmq.arch.blocks import attention, embedding, gated, output, rms_norm, rope_tables
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.moe import Pick
from llmq.arch.ssm import Recurrent, RecurrentFamily, Ssm, mamba2, no_step_limit, read_ssm
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]

LARGEST = 1e6


class FalconH1(RecurrentFamily):
    name = "falcon-h1"
    hf_model_types = ("falcon_h1",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "num_key_value_heads": 8, "mamba_d_ssm": 1024,
        "mamba_n_heads": 128, "mamba_d_state": 256, "mamba_d_conv": 4,
    }  # fmt: skip
    hf_ties = False  # the embeddings and the output have other constants
    heads = True

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        return Recurrent(**vars(hp), ssm=read_ssm(f, heads=True), recurrent=(True,) * hp.n_layer, norm_steps=0.0)

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, Recurrent)
        x = embedding(g, hp)
        tables = rope_tables(g, hp)
        for i in g.blocks(hp.n_layer):
            h = rms_norm(g, x, "attn_norm", hp)
            h = g.add(attention(g, h, hp, i, tables[i]), mamba2(g, h, hp), "add_mixers")
            x = g.add(x, h)
            norm = g.w("ffn_norm", (hp.n_embd,))  # without ".weight", in llama.cpp too
            x = g.add(x, gated(g, g.rmsnorm(x, norm, hp.eps), hp))
        return output(g, rms_norm(g, x, "output_norm", hp), hp)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        no_step_limit(f)
        if f.flag("mamba_rms_norm", default=False) and f.flag("mamba_norm_before_gate", default=True):
            raise UnsupportedError("mamba_norm_before_gate: false expected with mamba_rms_norm", path=f.path)
        ssm = Ssm(
            f.integer("mamba_d_conv"),
            f.integer("mamba_d_ssm"),
            f.integer("mamba_d_state"),
            f.integer("mamba_n_heads"),
            self.hf_groups(f.data),
        )
        return {f"{self.name}.vocab_size": f.integer("vocab_size"), **self.ssm_metadata(f, ssm)}

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        if name == "model.embed_tokens.weight" and config.get("tie_word_embeddings") is True:
            return [(name, None), ("lm_head.weight", None)]
        return super().hf_parts(name, config)

    def hf_scale(self, name: str, config: Mapping[str, object]) -> npt.NDArray[np.float32] | None:
        f = Fields({**self.hf_defaults, **config})
        one = {key: f.number(key, high=LARGEST, default=1.0) for key in _CONSTANTS}
        gate, down = _numbers(f, "mlp_multipliers", 2)
        factors = {
            "token_embd": one["embedding_multiplier"],
            "output": one["lm_head_multiplier"],
            "attn_q": one["attention_in_multiplier"],
            "attn_k": one["attention_in_multiplier"] * one["key_multiplier"],
            "attn_v": one["attention_in_multiplier"],
            "attn_output": one["attention_out_multiplier"],
            "ffn_gate": gate,
            "ffn_down": down,
            "ssm_out": one["ssm_out_multiplier"],
        }
        role = name.removesuffix(".weight").rpartition(".")[2] or name
        if role == "ssm_in":
            inner, shared = f.integer("mamba_d_ssm"), self.hf_groups(config) * f.integer("mamba_d_state")
            widths = (inner, inner, shared, shared, f.integer("mamba_n_heads"))
            rows: npt.NDArray[np.float32] = np.repeat(_numbers(f, "ssm_multipliers", 5), widths)[:, None]
            rows *= np.float32(one["ssm_in_multiplier"])
            return rows
        factor = factors.get(role, 1.0)
        return None if factor == 1.0 or not name.endswith(".weight") else np.full((1, 1), factor, np.float32)


_CONSTANTS = (
    "embedding_multiplier", "lm_head_multiplier", "attention_in_multiplier", "attention_out_multiplier", "key_multiplier",
    "ssm_in_multiplier", "ssm_out_multiplier",
)  # fmt: skip


def _numbers(f: Fields, key: str, n: int) -> npt.NDArray[np.float32]:
    values = f.numbers(key) if f.has(key) else np.ones(n, np.float32)
    if values.shape != (n,) or not np.isfinite(values).all():
        raise f.error(key, f"{n} finite numbers expected")
    return values


FAMILY = FalconH1()
