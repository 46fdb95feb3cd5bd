"""GGUF values: their types, the type each known key must have, and values as bytes.

Source: the GGUF specification (ggml/docs/gguf.md) and the `gguf` package's key list; where llama.cpp reads a scalar or an
array, both are allowed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from llmq.formats.checkpoint import MetaValue

__all__ = [
    "DTYPES",
    "ValueType",
    "check_key_type",
    "encode_string",
    "encode_value",
    "expected_types",
    "show_type",
    "type_of_value",
]


class ValueType(IntEnum):
    """Type ids of GGUF metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


DTYPES: dict[ValueType, np.dtype[np.generic]] = {
    ValueType.UINT8: np.dtype("u1"),
    ValueType.INT8: np.dtype("i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}
_TYPE_OF_DTYPE = {dtype: kind for kind, dtype in DTYPES.items()}

# What a key may hold: names of value types; [x] is an array of x.
_RULES = {
    "u32": """
        general.quantization_version general.file_type general.alignment general.base_model.count general.dataset.count
        {arch}.vocab_size {arch}.context_length {arch}.embedding_length {arch}.embedding_length_out {arch}.block_count
        {arch}.leading_dense_block_count {arch}.expert_feed_forward_length {arch}.expert_shared_feed_forward_length
        {arch}.expert_count {arch}.expert_used_count {arch}.expert_shared_count {arch}.expert_group_count
        {arch}.expert_group_used_count {arch}.expert_gating_func {arch}.moe_every_n_layers {arch}.nextn_predict_layers
        {arch}.pooling_type {arch}.decoder_start_token_id {arch}.interleave_moe_layer_step {arch}.full_attention_interval
        {arch}.attention.key_length {arch}.attention.value_length {arch}.attention.key_length_mla
        {arch}.attention.value_length_mla {arch}.attention.key_length_swa {arch}.attention.value_length_swa
        {arch}.attention.shared_kv_layers {arch}.attention.q_lora_rank {arch}.attention.kv_lora_rank
        {arch}.attention.relative_buckets_count {arch}.attention.sliding_window {arch}.attention.group_norm_groups
        {arch}.attention.temperature_length {arch}.rope.dimension_count {arch}.rope.dimension_count_swa
        {arch}.rope.scaling.original_context_length {arch}.ssm.conv_kernel {arch}.ssm.inner_size {arch}.ssm.state_size
        {arch}.ssm.time_step_rank {arch}.ssm.group_count tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id
        tokenizer.ggml.eot_token_id tokenizer.ggml.eom_token_id tokenizer.ggml.unknown_token_id
        tokenizer.ggml.seperator_token_id tokenizer.ggml.padding_token_id tokenizer.ggml.mask_token_id
        tokenizer.ggml.cls_token_id tokenizer.ggml.token_type_count tokenizer.ggml.fim_pre_token_id
        tokenizer.ggml.fim_suf_token_id tokenizer.ggml.fim_mid_token_id tokenizer.ggml.fim_pad_token_id
        tokenizer.ggml.fim_rep_token_id tokenizer.ggml.fim_sep_token_id tokenizer.ggml.prefix_token_id
        tokenizer.ggml.suffix_token_id tokenizer.ggml.middle_token_id imatrix.chunk_count imatrix.chunk_size""",
    "u32 [u32] [i32]": "{arch}.feed_forward_length {arch}.attention.head_count {arch}.attention.head_count_kv",
    "u32 [u32] [i32] [bool]": "{arch}.attention.sliding_window_pattern",
    "[i32] [u32]": "{arch}.rope.dimension_sections tokenizer.ggml.token_type",
    "i32": "general.sampling.top_k general.sampling.penalty_last_n general.sampling.mirostat",
    "u16": "split.no split.count",
    "u16 i32": "split.tensors.count",
    "f32": """
        general.sampling.temp general.sampling.top_p general.sampling.min_p general.sampling.xtc_probability
        general.sampling.xtc_threshold general.sampling.penalty_repeat general.sampling.mirostat_tau
        general.sampling.mirostat_eta {arch}.attention.layer_norm_epsilon {arch}.attention.layer_norm_rms_epsilon
        {arch}.attention.group_norm_epsilon {arch}.attention.max_alibi_bias {arch}.attention.clamp_kqv {arch}.attention.scale
        {arch}.attention.output_scale {arch}.attention.temperature_scale {arch}.logit_scale {arch}.attn_logit_softcapping
        {arch}.final_logit_softcapping {arch}.router_logit_softcapping {arch}.residual_scale {arch}.embedding_scale
        {arch}.expert_weights_scale {arch}.expert_group_scale {arch}.rope.freq_base {arch}.rope.freq_base_swa
        {arch}.rope.scale_linear {arch}.rope.scaling.factor {arch}.rope.scaling.alpha {arch}.rope.scaling.attn_factor
        {arch}.rope.scaling.yarn_log_multiplier {arch}.rope.scaling.yarn_ext_factor {arch}.rope.scaling.yarn_attn_factor
        {arch}.rope.scaling.yarn_beta_fast {arch}.rope.scaling.yarn_beta_slow""",
    "[f32]": "tokenizer.ggml.scores",
    "bool": """
        {arch}.use_parallel_residual {arch}.attention.causal {arch}.expert_weights_norm {arch}.rope.scaling.finetuned
        {arch}.swin_norm {arch}.ssm.dt_b_c_rms tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token
        tokenizer.ggml.add_sep_token tokenizer.ggml.add_space_prefix tokenizer.ggml.remove_extra_whitespaces""",
    "str": """
        general.architecture general.type general.name general.author general.version general.organization general.finetune
        general.basename general.description general.quantized_by general.size_label general.license general.license.name
        general.license.link general.url general.doi general.uuid general.repo_url general.source.url general.source.doi
        general.source.uuid general.source.repo_url general.source.huggingface.repository
        {arch}.rope.scaling.type {arch}.tensor_data_layout tokenizer.ggml.model tokenizer.ggml.pre tokenizer.chat_template
        tokenizer.huggingface.json""",
    "[str]": """
        general.tags general.languages tokenizer.ggml.tokens tokenizer.ggml.merges tokenizer.chat_templates imatrix.datasets
        {arch}.classifier.output_labels""",
    "[u8] [i8]": "tokenizer.ggml.precompiled_charsmap",
}
_SHORT = {
    "u8": 0,
    "i8": 1,
    "u16": 2,
    "i16": 3,
    "u32": 4,
    "i32": 5,
    "f32": 6,
    "bool": 7,
    "str": 8,
    "u64": 10,
    "i64": 11,
    "f64": 12,
}
_LONG = {kind: short for short, kind in _SHORT.items()}


def _parse(rule: str) -> frozenset[tuple[ValueType, bool]]:
    return frozenset((ValueType(_SHORT[name.strip("[]")]), name.startswith("[")) for name in rule.split())


_KNOWN = {key: _parse(rule) for rule, keys in _RULES.items() for key in keys.split()}
_NAMED_TEMPLATE = re.compile(r"tokenizer\.chat_template\..+")


def expected_types(key: str, architecture: str | None) -> frozenset[tuple[ValueType, bool]]:
    """What `key` may hold, as (type, is an array of it) pairs; empty for a key that is not known."""
    if architecture and key.startswith(architecture + "."):
        key = "{arch}" + key[len(architecture) :]
    elif _NAMED_TEMPLATE.fullmatch(key):
        key = "tokenizer.chat_template"
    return _KNOWN.get(key, frozenset())


def show_type(kind: ValueType, array: bool) -> str:
    """ "u32", "array of str", …"""
    return f"array of {_LONG[kind]}" if array else _LONG[kind]


def check_key_type(key: str, architecture: str | None, kind: ValueType, array: bool) -> str | None:
    """None when `key` may hold this type, else "expected ..., found ..."."""
    allowed = expected_types(key, architecture)
    if not allowed or (kind, array) in allowed:
        return None
    return f"expected {' or '.join(sorted(show_type(k, a) for k, a in allowed))}, found {show_type(kind, array)}"


def type_of_value(
    key: str, value: MetaValue, architecture: str | None, types: Mapping[str, int] | None = None
) -> tuple[ValueType, bool]:
    """The type a value is written with: that in `types` (which it had in its file), else the known type of the key, else what
    the gguf package gives such a Python value."""
    if isinstance(value, np.ndarray):
        return _TYPE_OF_DTYPE[value.dtype.newbyteorder("<")], True
    array = isinstance(value, list)
    if types is not None and key in types and not array:
        return ValueType(types[key]), False
    sample = value[0] if isinstance(value, list) and value else value
    fits = [kind for kind, is_array in expected_types(key, architecture) if is_array == array and _holds(kind, sample)]
    if fits:
        return max(fits), array
    if isinstance(sample, bool):
        return ValueType.BOOL, array
    if isinstance(sample, int):
        return (ValueType.INT32, True) if array else (ValueType.UINT32 if sample >= 0 else ValueType.INT32, False)
    return (ValueType.FLOAT32 if isinstance(sample, float) else ValueType.STRING), array


def _holds(kind: ValueType, sample: object) -> bool:
    if isinstance(sample, list):
        return True  # an empty array
    if kind in (ValueType.BOOL, ValueType.STRING):
        return isinstance(sample, bool if kind is ValueType.BOOL else str)
    if kind in (ValueType.FLOAT32, ValueType.FLOAT64):
        return isinstance(sample, int | float) and not isinstance(sample, bool)
    return isinstance(sample, int) and not isinstance(sample, bool)


def encode_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def encode_value(key: str, value: MetaValue, kind: ValueType, array: bool) -> bytes:
    """Type id(s) and value as a GGUF file holds them. Raises ValueError when the value does not fit the type."""
    try:
        if not array:
            body = encode_string(str(value)) if kind is ValueType.STRING else np.array(value, DTYPES[kind]).tobytes()
            return struct.pack("<I", kind) + body
        items = value if isinstance(value, list | np.ndarray) else [value]
        head = struct.pack("<IIQ", ValueType.ARRAY, kind, len(items))
        if kind is ValueType.STRING:
            return head + b"".join(encode_string(str(item)) for item in items)
        numbers: npt.NDArray[np.generic] = np.asarray(items, DTYPES[kind])
        return head + numbers.tobytes()
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"metadata {key!r}: {value!r:.80} does not fit {show_type(kind, array)}") from error
