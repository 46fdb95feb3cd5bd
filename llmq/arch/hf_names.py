"""What transformers calls the tensors that GGUF names: the way back from the tensor-name maps of the `gguf` package, which know
many names for each. Whoever uses these checks them against the maps."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["DECODER", "FUSED", "GPT2", "NEOX", "PHI", "POST_NORMS", "STARCODER2", "hf_tensor_name"]

_LAYER = "model.layers.{}."
DECODER: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": _LAYER + "input_layernorm",
    "attn_q": _LAYER + "self_attn.q_proj",
    "attn_k": _LAYER + "self_attn.k_proj",
    "attn_v": _LAYER + "self_attn.v_proj",
    "attn_q_norm": _LAYER + "self_attn.q_norm",
    "attn_k_norm": _LAYER + "self_attn.k_norm",
    "attn_output": _LAYER + "self_attn.o_proj",
    "ffn_norm": _LAYER + "post_attention_layernorm",
    "ffn_gate": _LAYER + "mlp.gate_proj",
    "ffn_up": _LAYER + "mlp.up_proj",
    "ffn_down": _LAYER + "mlp.down_proj",
}
"""Llama's, which most families share. "{}" is the number of the block."""
POST_NORMS: Mapping[str, str] = {
    **DECODER,
    "post_attention_norm": _LAYER + "post_attention_layernorm",
    "ffn_norm": _LAYER + "pre_feedforward_layernorm",
    "post_ffw_norm": _LAYER + "post_feedforward_layernorm",
}
"""Of families with norms after attention and feed-forward."""
FUSED: Mapping[str, str] = {**DECODER, "attn_qkv": _LAYER + "self_attn.qkv_proj", "ffn_up": _LAYER + "mlp.gate_up_proj"}
"""With q, k, v and gate, up in one matrix each."""

_GPT2, _NEOX = "transformer.h.{}.", "gpt_neox.layers.{}."
GPT2: Mapping[str, str] = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": _GPT2 + "ln_1",
    "attn_qkv": _GPT2 + "attn.c_attn",
    "attn_output": _GPT2 + "attn.c_proj",
    "ffn_norm": _GPT2 + "ln_2",
    "ffn_up": _GPT2 + "mlp.c_fc",
    "ffn_down": _GPT2 + "mlp.c_proj",
}
NEOX: Mapping[str, str] = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
    "attn_norm": _NEOX + "input_layernorm",
    "attn_qkv": _NEOX + "attention.query_key_value",
    "attn_output": _NEOX + "attention.dense",
    "ffn_norm": _NEOX + "post_attention_layernorm",
    "ffn_up": _NEOX + "mlp.dense_h_to_4h",
    "ffn_down": _NEOX + "mlp.dense_4h_to_h",
}
PHI: Mapping[str, str] = {
    **DECODER,
    "output_norm": "model.final_layernorm",
    "attn_output": _LAYER + "self_attn.dense",
    "ffn_up": _LAYER + "mlp.fc1",
    "ffn_down": _LAYER + "mlp.fc2",
}
STARCODER2: Mapping[str, str] = {**DECODER, "ffn_up": _LAYER + "mlp.c_fc", "ffn_down": _LAYER + "mlp.c_proj"}


def hf_tensor_name(names: Mapping[str, str], gguf_name: str) -> str | None:
    """The name for `gguf_name` ("blk.3.attn_q.weight"), or None when `names` has none."""
    found = re.fullmatch(r"(?:blk\.(?P<block>\d+)\.)?(?P<stem>.+)\.(?P<kind>weight|bias)", gguf_name)
    if found is None or found["stem"] not in names:
        return None
    pattern = names[found["stem"]]
    if ("{}" in pattern) != (found["block"] is not None):
        return None
    return f"{pattern.format(found['block'])}.{found['kind']}"
