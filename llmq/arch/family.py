"""What a family is: a name, hyper-parameters, a graph, and how its Hugging Face form becomes GGUF.

A family is one file of this folder with a `FAMILY` in it; nothing else lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from llmq.arch.fields import Fields, shortest
from llmq.arch.hf_names import DECODER
from llmq.arch.hparams import MAX_LAYERS, HParams, read_hparams
from llmq.arch.moe import Pick, hf_expert_metadata, hf_expert_parts
from llmq.arch.rope import hf_rope_metadata, hf_rope_scaling
from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue, Tensor
from llmq.graph.builder import Graph, Value

__all__ = ["Family", "Transform", "predicts_ahead"]

N_EMBD = ("hidden_size", "n_embd", "d_model", "dim")
N_HEAD = ("num_attention_heads", "n_head", "n_heads")
N_LAYER = ("num_hidden_layers", "n_layer", "n_layers")
LAYER_NORM_EPS = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")

Transform = Callable[[npt.NDArray[np.generic]], npt.NDArray[np.generic]]
"""Rearranges a tensor (any element type, file shape) and nothing else."""


class Family:
    """The decoder-only defaults; a family overrides what is its own.

    name: `general.architecture`. ignored: endings of tensor names that carry nothing. slides, normalizes, truncates,
    causal: see `read_hparams`. About config.json: hf_model_types, the `model_type`s that it covers, with hf_architectures only
    for these classes, which no other family gets; hf_defaults, what transformers assumes for keys that are left out;
    hf_requires, keys that may have these values only; hf_rotary, whether positions are rotary; hf_ff_ratio, the width of the
    feed-forward in widths of the model when it is left out. For the way back to a folder: hf_classes, the classes of
    transformers by model_type, hf_tensor_names (llmq.arch.hf_names), hf_numbers, keys of GGUF that are the same number under
    a name of config.json, and hf_biases, what config.json calls that a tensor is there, hf_renamed, the usual keys of
    config.json that have other names."""

    name: str
    blocks = "blk"  # what the names of a block's tensors begin with
    hf_model_types: tuple[str, ...]
    hf_architectures: tuple[str, ...] = ()
    hf_defaults: Mapping[str, object] = {}
    slides = 0
    normalizes: bool | None = None
    truncates = True
    causal = True
    hf_rotary = True
    hf_ff_ratio = 0
    hf_classes: Mapping[str, str] = {}
    hf_tensor_names: Mapping[str, str] = DECODER
    hf_numbers: Mapping[str, str] = {}
    hf_renamed: Mapping[str, str] = {}
    hf_biases: Mapping[str, str] = {"blk.0.attn_q.bias": "attention_bias", "blk.0.ffn_up.bias": "mlp_bias"}
    hf_ties = True  # whether an output matrix is left out when config.json says that it is tied
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu", "swish")}
    ignored: tuple[str, ...] = (".attn_rot_embd", ".rotary_emb.inv_freq")

    def hparams(self, f: Fields) -> HParams:
        """Read and check the hyper-parameters; `f` reads the keys of `{name}.`."""
        return read_hparams(f, slides=self.slides, normalizes=self.normalizes, truncates=self.truncates, causal=self.causal)

    def build(self, g: Graph, hp: HParams) -> Value:
        """Append the model to g; the logits."""
        raise NotImplementedError

    def hf_metadata(self, config: Mapping[str, object], path: str | None = None) -> dict[str, MetaValue]:
        """The `{name}.*` keys of the GGUF that belongs to a config.json (transformers 4 or 5), without `general.*` and
        `tokenizer.*`."""
        f = self.hf_fields(config, path)
        p = f"{self.name}."
        n_embd = f.integer(*N_EMBD)
        n_head = f.integer(*N_HEAD)
        n_ctx_train = f.integer("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
        head_dim = f.integer("head_dim", default=max(n_embd // n_head, 1))
        out: dict[str, MetaValue] = {
            f"{p}block_count": f.integer(*N_LAYER),
            f"{p}context_length": n_ctx_train,
            f"{p}embedding_length": n_embd,
            f"{p}feed_forward_length": f.integer(
                "intermediate_size", "n_inner", "ffn_dim", "hidden_dim", default=self.hf_ff_ratio * n_embd or None
            ),
            f"{p}attention.head_count": n_head,
            f"{p}attention.head_count_kv": f.integer("num_key_value_heads", default=n_head),
        }
        if self.hf_rotary:
            out |= hf_rope_metadata(f, p, n_ctx_train, head_dim, truncates=self.truncates)
        if f.has("rms_norm_eps"):
            out[f"{p}attention.layer_norm_rms_epsilon"] = f.number("rms_norm_eps")
        if f.has(*LAYER_NORM_EPS):
            out[f"{p}attention.layer_norm_epsilon"] = f.number(*LAYER_NORM_EPS)
        if f.has("head_dim"):
            out |= {f"{p}attention.key_length": head_dim, f"{p}attention.value_length": head_dim}
        out |= _hf_window(f, p, self.slides)
        if self.normalizes is not None:
            out |= hf_expert_metadata(f, p, self.normalizes)
        return out | self.hf_more(f)

    def hf_fields(self, config: Mapping[str, object], path: str | None = None) -> Fields:
        """A config.json with what transformers assumes for what is left out; UnsupportedError for what the graph cannot do."""
        f = Fields({**self.hf_defaults, **{k: v for k, v in config.items() if v is not None}}, path)
        for key, allowed in self.hf_requires.items():
            if f.has(key) and f.data[key] not in allowed:
                shown = " or ".join(map(repr, allowed))
                raise UnsupportedError(f"{key}: {shown} expected, found {quoted(f.data[key])}", path=path)
        return f

    @property
    def hf_class(self) -> str:
        """The class of transformers for the model_type that `hf_config` gives; "" when there is no way back to a folder."""
        return self.hf_classes.get(next(iter(self.hf_model_types), ""), "")

    def hf_config(self, f: Fields, tensors: Mapping[str, Tensor]) -> dict[str, object]:
        """The config.json of a GGUF, as far as the family decides it: the inverse of `hf_metadata`; `f` reads the keys of
        `{name}.`. UnsupportedError for what config.json cannot say."""
        hp = self.hparams(f)
        if hp.experts is not None:
            raise UnsupportedError("mixtures of experts have no way back to a folder", path=f.path)
        out: dict[str, object] = {
            "architectures": [self.hf_class],
            "model_type": self.hf_model_types[0],
            **{key: allowed[0] for key, allowed in self.hf_requires.items()},
            "vocab_size": hp.n_vocab,
            "num_hidden_layers": hp.n_layer,
            "hidden_size": hp.n_embd,
            "intermediate_size": hp.n_ff,
            "num_attention_heads": hp.n_head,
            "num_key_value_heads": hp.n_head_kv,
            "max_position_embeddings": hp.n_ctx_train,
            "rms_norm_eps" if f.has("attention.layer_norm_rms_epsilon") else "layer_norm_eps": shortest(hp.eps),
            "tie_word_embeddings": "output.weight" not in tensors,
            **(hf_rope_scaling(f, hp.head_dim, hp.n_ctx_train) if self.hf_rotary else {}),
            **{name: shortest(f.number(key, zero=True)) for key, name in self.hf_numbers.items() if f.has(key)},
            **{name: bias in tensors for bias, name in self.hf_biases.items()},
        }
        if f.has("attention.key_length") or "head_dim" in self.hf_defaults:
            out["head_dim"] = hp.head_dim
        if {"partial_rotary_factor", "rotary_pct"} & self.hf_defaults.keys():
            out.setdefault("partial_rotary_factor", 1.0)
        if f.has("use_parallel_residual"):
            out["use_parallel_residual"] = hp.parallel
        if any(hp.windows):
            out["sliding_window"] = max(hp.windows)
            if "use_sliding_window" in self.hf_defaults:
                out["use_sliding_window"] = True
            if self.slides or not all(hp.windows):
                out["layer_types"] = ["sliding_attention" if window else "full_attention" for window in hp.windows]
        return {self.hf_renamed.get(key, key): value for key, value in out.items()}

    def hf_family(self, config: Mapping[str, object]) -> str:
        """The name of the family that a config.json of these model_types belongs to."""
        return self.name

    def hf_n_layer(self, config: Mapping[str, object], path: str | None = None) -> int:
        """How many blocks a config.json announces."""
        return Fields(config, path).integer(*N_LAYER, high=MAX_LAYERS)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        """The keys that this family adds to, or puts in place of, those above."""
        return {}

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        """Whether a tensor of Hugging Face has no place in the GGUF."""
        return name.endswith(self.ignored)

    def hf_skipped_rows(self, name: str, config: Mapping[str, object]) -> int:
        """How many rows at the start of the Hugging Face tensor the GGUF tensor `name` leaves out."""
        return 0

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        """What a tensor of Hugging Face is in GGUF: the names that `hf_name` takes, and what picks each (None: all of it); no
        parts when it is left out. The tensors of single experts ("….experts.3.…") need no care, they are stacked."""
        return hf_expert_parts(name)

    def hf_name(self, name: str) -> str:
        """The name by which the tensor maps of the `gguf` package know a tensor of Hugging Face."""
        return name.replace(".e_score_correction_bias", ".e_score_correction.bias")

    def hf_names(self, name: str, config: Mapping[str, object]) -> str | None:
        """The GGUF name of a tensor of Hugging Face that the `gguf` package does not know; None: unknown here too."""
        return None

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        """How the Hugging Face tensor becomes the GGUF tensor `name` ("blk.0.attn_q.weight"); None: as it is."""
        return None

    def hf_columns(self, name: str, config: Mapping[str, object]) -> npt.NDArray[np.intp] | None:
        """The columns of the Hugging Face matrix in the order of the GGUF matrix `name`; None: as they are."""
        return None

    def hf_scale(self, name: str, config: Mapping[str, object]) -> npt.NDArray[np.float32] | None:
        """What the GGUF matrix `name` is multiplied by, of a shape that goes with its own; None: nothing."""
        return None

    def hf_transposed(self, name: str) -> bool:
        """Whether Hugging Face has the GGUF matrix `name` as (inputs, outputs)."""
        return False

    def hf_extra_tensors(self, config: Mapping[str, object]) -> dict[str, npt.NDArray[np.float32]]:
        """Tensors that the GGUF has and the folder does not."""
        return {}


def predicts_ahead(name: str, n_layer: int) -> bool:
    """Whether a tensor of Hugging Face belongs to a layer after the last, one that predicts several tokens ahead."""
    layer = name.removeprefix("model.layers.").partition(".")[0]
    return layer.isdecimal() and int(layer) >= n_layer


def _hf_window(f: Fields, prefix: str, slides: int = 0) -> dict[str, MetaValue]:
    """The attention window of a config.json and the layers that have it, as GGUF keys; of the layers nothing is said when they
    are those that `slides` implies."""
    # transformers 5 lists the kind of every layer; 4 has use_sliding_window and max_window_layers (Qwen2), or the width alone.
    if not f.has("sliding_window") or not f.flag("use_sliding_window", default=True):
        return {}
    n_layer = f.integer(*N_LAYER)
    kinds = f.data.get("layer_types")
    implied = [not slides or (i + 1) % slides != 0 for i in range(n_layer)]
    if isinstance(kinds, list) and len(kinds) == n_layer:
        on = [kind == "sliding_attention" for kind in kinds]
    elif f.has("max_window_layers"):
        on = [i >= f.integer("max_window_layers", low=0) for i in range(n_layer)]
    else:
        on = implied
    if not any(on):
        return {}
    window: dict[str, MetaValue] = {f"{prefix}attention.sliding_window": f.integer("sliding_window")}
    return window if on == implied else window | {f"{prefix}attention.sliding_window_pattern": on}
