"""Random models with the shapes of real ones, for timing: no weights are downloaded and every run has the same bytes.

    python benchmarks/synthetic.py 1.1b out/1.1b-F16.gguf

Weights are normal with standard deviation 0.02 (so that activations stay finite), stored as F16; the vocabulary is a made-up
SentencePiece one that llama.cpp loads too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmq.formats import open_checkpoint
from llmq.formats.gguf_writer import GGUFWriter, TensorInfo
from llmq.quant.types import QuantType


class Shape(NamedTuple):
    """Of a llama; with experts, `used` of them per token and `hidden` the width of each."""

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    vocab: int = 32_000
    experts: int = 0
    used: int = 0


SHAPES = {
    "2m": Shape(2, 256, 512, 4, 2, vocab=4_096),  # to try things
    "58m": Shape(8, 512, 1536, 8, 8),
    "300m": Shape(24, 896, 2304, 14, 2),
    "1.1b": Shape(22, 2048, 5632, 32, 4),  # TinyLlama
    "3b": Shape(28, 3072, 8192, 24, 8),
    "1b-moe": Shape(12, 1024, 3072, 16, 4, experts=8, used=2),  # 0.3b in use for a token
}


def vocabulary(n: int) -> dict[str, object]:
    """<unk>, <s>, </s>, the 256 bytes, single letters, then made-up words."""
    letters = "etaoinshrdlucmfywgpbvkxqjz"
    pieces = ["\u2581", *letters, *(f"\u2581{a}" for a in letters)]
    pieces += [a + b for a in letters for b in letters]
    pieces += [f"\u2581{a}{b}{c}" for a in letters for b in letters for c in letters]
    pieces += [a + b + c for a in letters for b in letters for c in letters]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *pieces][:n]
    types = [2, 3, 3, *[6] * 256, *[1] * (n - 259)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.arange(0, -n, -1, dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def byte_level_vocabulary(n: int) -> dict[str, object]:
    """That of models/storyteller, filled up with tokens that stand in no text: for programs that know no SentencePiece."""
    with open_checkpoint(Path(__file__).parent.parent / "models" / "storyteller") as model:
        out = {key: value for key, value in model.metadata.items() if key.startswith("tokenizer.")}
    tokens, types = list(out["tokenizer.ggml.tokens"]), list(out["tokenizer.ggml.token_type"])  # type: ignore[arg-type]
    out["tokenizer.ggml.tokens"] = tokens + [f"<filler {i}>" for i in range(len(tokens), n)]
    out["tokenizer.ggml.token_type"] = np.array(types + [5] * (n - len(types)), np.int32)
    return out


def write_model(shape: str, path: Path, context: int = 2048, *, byte_level: bool = False) -> None:
    """An F16 llama of SHAPES[shape]; raises KeyError for an unknown shape."""
    layers, width, hidden, heads, kv_heads, vocab, experts, used = SHAPES[shape]
    head = width // heads
    stack, suffix = ((experts,), "_exps") if experts else ((), "")
    matrices = {
        "attn_q": (width, width),
        "attn_k": (kv_heads * head, width),
        "attn_v": (kv_heads * head, width),
        "attn_output": (width, width),
        f"ffn_gate{suffix}": (*stack, hidden, width),
        f"ffn_up{suffix}": (*stack, hidden, width),
        f"ffn_down{suffix}": (*stack, width, hidden),
    }
    infos = [TensorInfo("token_embd.weight", (vocab, width), QuantType.F16)]
    for i in range(layers):
        infos.append(TensorInfo(f"blk.{i}.attn_norm.weight", (width,), QuantType.F32))
        infos.append(TensorInfo(f"blk.{i}.ffn_norm.weight", (width,), QuantType.F32))
        infos += [TensorInfo(f"blk.{i}.{name}.weight", dims, QuantType.F16) for name, dims in matrices.items()]
        infos += [TensorInfo(f"blk.{i}.ffn_gate_inp.weight", (experts, width), QuantType.F32)] * (experts > 0)
    infos.append(TensorInfo("output_norm.weight", (width,), QuantType.F32))
    infos.append(TensorInfo("output.weight", (vocab, width), QuantType.F16))
    metadata = {
        "general.architecture": "llama",
        "general.name": f"random {shape}",
        "general.file_type": 1,
        "llama.block_count": layers,
        "llama.context_length": context,
        "llama.embedding_length": width,
        "llama.feed_forward_length": hidden,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": head,
        "llama.rope.freq_base": 10_000.0,
        "llama.vocab_size": vocab,
        **({"llama.expert_count": experts, "llama.expert_used_count": used} if experts else {}),
        **(byte_level_vocabulary if byte_level else vocabulary)(vocab),
    }
    random = np.random.default_rng(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with GGUFWriter(path, metadata, infos) as out:  # type: ignore[arg-type]
        for info in infos:
            if len(info.shape) == 1:
                out.write(np.ones(info.shape, np.float32))
            else:
                values = random.standard_normal(info.shape, np.float32) * np.float32(0.02)
                out.write(values.astype(np.float16 if info.type == QuantType.F16 else np.float32))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    write_model(arguments.shape, arguments.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
