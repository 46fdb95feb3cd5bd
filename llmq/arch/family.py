"""What a family is: a name, hyper-parameters, a graph, and how its Hugging Face form becomes GGUF.

A family is one file of this folder with a `FAMILY` in it; nothing else lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.arch.rope import hf_rope_metadata
from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["Family", "Transform"]

Transform = Callable[[npt.NDArray[np.generic]], npt.NDArray[np.generic]]
"""Rearranges a tensor (any element type, file shape) and nothing else."""


class Family:
    """The decoder-only defaults; a family overrides what is its own.

    name: `general.architecture`; hf_model_types: the `model_type`s of config.json that it covers; hf_defaults: what
    transformers assumes for keys that config.json leaves out; hf_requires: keys that may have these values only; ignored:
    endings of tensor names that carry nothing."""

    name: str
    hf_model_types: tuple[str, ...]
    hf_defaults: Mapping[str, object] = {}
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu", "swish")}
    ignored: tuple[str, ...] = (".attn_rot_embd", ".rotary_emb.inv_freq")

    def hparams(self, f: Fields) -> HParams:
        """Read and check the hyper-parameters; `f` reads the keys of `{name}.`."""
        return read_hparams(f)

    def build(self, g: Graph, hp: HParams) -> Value:
        """Append the model to g; the logits."""
        raise NotImplementedError

    def hf_metadata(self, config: Mapping[str, object], path: str | None = None) -> dict[str, MetaValue]:
        """The `{name}.*` keys of the GGUF that belongs to a config.json (transformers 4 or 5), without `general.*` and
        `tokenizer.*`."""
        f = Fields({**self.hf_defaults, **{k: v for k, v in config.items() if v is not None}}, path)
        for key, allowed in self.hf_requires.items():
            if f.has(key) and f.data[key] not in allowed:
                shown = " or ".join(map(repr, allowed))
                raise UnsupportedError(f"{key}: {shown} expected, found {quoted(f.data[key])}", path=path)
        p = f"{self.name}."
        n_head = f.integer("num_attention_heads", "n_head")
        n_ctx_train = f.integer("max_position_embeddings", "n_positions", "n_ctx")
        out: dict[str, MetaValue] = {
            f"{p}block_count": f.integer("num_hidden_layers", "n_layer"),
            f"{p}context_length": n_ctx_train,
            f"{p}embedding_length": f.integer("hidden_size", "n_embd"),
            f"{p}feed_forward_length": f.integer("intermediate_size", "n_inner"),
            f"{p}attention.head_count": n_head,
            f"{p}attention.head_count_kv": f.integer("num_key_value_heads", default=n_head),
        }
        out |= hf_rope_metadata(f, p, n_ctx_train)
        if f.has("rms_norm_eps"):
            out[f"{p}attention.layer_norm_rms_epsilon"] = f.number("rms_norm_eps")
        if f.has("head_dim"):
            out |= {f"{p}attention.key_length": f.integer("head_dim"), f"{p}attention.value_length": f.integer("head_dim")}
        out |= _hf_window(f, p)
        return out | self.hf_more(f)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        """The keys that this family adds to, or puts in place of, those above."""
        return {}

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        """How the Hugging Face tensor becomes the GGUF tensor `name` ("blk.0.attn_q.weight"); None: as it is."""
        return None

    def hf_extra_tensors(self, config: Mapping[str, object]) -> dict[str, npt.NDArray[np.float32]]:
        """Tensors that the GGUF has and the folder does not."""
        return {}


def _hf_window(f: Fields, prefix: str) -> dict[str, MetaValue]:
    # transformers 5 lists the kind of every layer; 4 has use_sliding_window and max_window_layers (Qwen2), or the width alone.
    if not f.has("sliding_window") or not f.flag("use_sliding_window", default=True):
        return {}
    n_layer = f.integer("num_hidden_layers")
    kinds = f.data.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == n_layer:
        slides = [kind == "sliding_attention" for kind in kinds]
    else:
        slides = [i >= f.integer("max_window_layers", low=0, default=0) for i in range(n_layer)]
    if not any(slides):
        return {}
    window: dict[str, MetaValue] = {f"{prefix}attention.sliding_window": f.integer("sliding_window")}
    return window if all(slides) else window | {f"{prefix}attention.sliding_window_pattern": slides}
