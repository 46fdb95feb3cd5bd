"""Encoders, and encoder–decoders."""

from __future__ import annotations

from typing import Any

from golden_cases.parts import SMALL

T5: dict[str, Any] = {
    "vocab_size": 71, "d_model": 64, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0,
}  # fmt: skip
TINY_BERT = {**SMALL, "num_key_value_heads": None, "max_position_embeddings": 48}
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # name: (class of the configuration, class of the model, what differs from TINY_BERT)
    "bert": ("BertConfig", "BertModel", {}),
    "bert-one-type": ("BertConfig", "BertModel", {"type_vocab_size": 1, "num_attention_heads": 2, "hidden_size": 48}),
    "bert-rank": ("BertConfig", "BertForSequenceClassification", {"num_labels": 1}),
    "bert-labels": ("BertConfig", "BertForSequenceClassification", {"num_labels": 3}),
    "roberta": ("RobertaConfig", "RobertaModel", {"type_vocab_size": 1}),
    "xlm-roberta-rank": ("XLMRobertaConfig", "XLMRobertaForSequenceClassification", {"num_labels": 1, "type_vocab_size": 1}),
    "distilbert": ("DistilBertConfig", "DistilBertModel", {"dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4}),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertModel",
        {"num_hidden_layers": 5, "local_attention": 8, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "modernbert-every": (
        "ModernBertConfig",
        "ModernBertModel",
        {
            "num_hidden_layers": 4,
            "local_attention": 6,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "attention_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "pad_token_id": 0,
        },
    ),
    "embedding-gemma": (
        "Gemma3TextConfig",
        "Gemma3TextModel",
        {
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "head_dim": 24,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "use_bidirectional_attention": True,
        },
    ),
    "t5-encoder": ("T5Config", "T5EncoderModel", T5 | {"num_key_value_heads": None}),
    "umt5-encoder": ("UMT5Config", "UMT5EncoderModel", T5 | {"feed_forward_proj": "gated-gelu"}),
    "nomic-bert": (
        "NomicBertConfig",
        "NomicBertModel",
        {"hidden_act": "silu", "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    ),
}

SEQ2SEQ: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5Config", {}),
    "t5-gated": (
        "T5Config",
        {
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "num_decoder_layers": 3,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 20,
        },
    ),
    "umt5": ("UMT5Config", {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 2}),
}
