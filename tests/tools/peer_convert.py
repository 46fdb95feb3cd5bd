"""Convert every golden model with llama.cpp's converter, and load what it writes in llmq.

    python tests/tools/peer_convert.py convert LLAMA_CPP FOLDER      with torch, transformers and sentencepiece
    python tests/tools/peer_convert.py check FOLDER                  with llmq
    python tests/tools/peer_convert.py record FOLDER                 the same, and tests/data/llama_converter.json anew

LLAMA_CPP is the top of its source tree, with convert_hf_to_gguf.py in it. `convert` gives every golden's folder a small
vocabulary of the kind that the converter of its family reads, and writes one GGUF in F32 for each; what the converter refuses
is shown. `check` compares the logits with transformers', and metadata and tensors with llmq's own conversion, and shows the
keys that differ. The exit status is 1 when a file does not load or its logits are wrong beyond the known limits."""

# ruff: noqa: PLC0415, T201 - a tool, half of which runs in another environment

from __future__ import annotations

import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from goldens import CONVERTED, Golden, converted, load, names, write_folder

TOLERANCE = 1e-4  # of the largest logit
WINDOW, WIDTH, NORM = "writes no window", "has a fixed ratio of widths", "writes nothing about the weights of experts"
SCALE = "writes no scale of attention"
LIMITS = {  # of the converter: what its files do not say
    "bert-labels": "leaves out the pooler of a BERT that classifies",
    "bert-rank": "leaves out the pooler of a BERT that classifies",
    "falcon-11b": WIDTH,
    "gemma2": SCALE,
    "gemma3": SCALE,
    "gemma3-plain": SCALE,
    "glm4moe-lite": "writes how experts are chosen for no model of this family; llama.cpp knows the published one by its size",
    "gpt2-inner": WIDTH,
    "llama4": "writes no chunks and no growth, those of the published models being known",
    "llama-dynamic": "knows no dynamic scaling",
    "llama-yarn-mscale": "writes no mscale for this family",
    "mistral-window": WINDOW,
    "modernbert-every": "takes layers with windows as one in so many",
    "mixtral-window": WINDOW,
    "phi": WIDTH,
    "phi-gqa": WIDTH,
    "qwen2-windows": WINDOW,
    "qwen2moe-normalized": NORM,
    "qwen3-vl-moe": "takes experts as transformers 4 wrote them",
    "qwen3moe-plain": NORM,
    "starcoder-inner": WIDTH,
    "starcoder2": WINDOW,
}
KINDS = ("logits", "hidden", "scores", "seq2seq")
CONTROL = ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|user|>", "<|observation|>", "[gMASK]"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def convert(tree: Path, folder: Path) -> None:
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    import gguf
    import torch
    from conversion import ModelBase, TextModel, get_model_architecture, get_model_class
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    logging.disable(logging.WARNING)
    # It knows a vocabulary by what it makes of one text; these are known to nobody.
    TextModel.get_vocab_base_pre = lambda *_: "gpt-2"  # type: ignore[method-assign]
    # Through transformers 5 it would read other names than published models have.
    ModelBase.load_hparams = staticmethod(
        lambda source, is_mistral_format=False: json.loads((source / "config.json").read_text())
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in names(*KINDS):
        golden = load(name)
        model_type = golden.config["model_type"]
        named = {"architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)]}
        source = write_folder(golden, folder / name, {**named, **golden.config, **as_on_the_hub(golden.config)})
        write_tokenizer(golden, source)
        out = folder / f"{name}.gguf"
        out.unlink(missing_ok=True)
        try:
            hparams = ModelBase.load_hparams(source, False)
            made = get_model_class(get_model_architecture(hparams, TextModel.model_type))
            made.no_mtp = model_type.startswith("qwen3")  # else it insists on a layer that predicts ahead
            with torch.inference_mode():
                made(source, gguf.LlamaFileType.ALL_F32, out).write()
        except (Exception, SystemExit) as error:
            out.unlink(missing_ok=True)
            print(f"{name:28} {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            if "-v" in sys.argv:
                traceback.print_exc()


def as_on_the_hub(config: dict[str, Any]) -> dict[str, Any]:
    """What the converter reads under names that published models have and transformers 5 no longer writes."""
    rope = config.get("rope_parameters", {})
    return {
        "deepseek_v3": lambda: {"scoring_func": "sigmoid"},
        "dots1": lambda: {"scoring_func": "sigmoid"},
        "minimax_m2": lambda: {
            "rotary_dim": int(config["head_dim"] * rope["partial_rotary_factor"]), "scoring_func": "sigmoid",
        },
        "cohere2": lambda: {"rotary_pct": 1.0},
        "exaone": lambda: {"architectures": ["ExaoneForCausalLM"], "activation_function": "silu"},
        "gemma4_text": lambda: {} if config["per_layer_config"] else {"global_head_dim": config["head_dim"]},
        "gemma4_unified_text": lambda: {
            "architectures": ["Gemma4UnifiedForConditionalGeneration"], "moe_intermediate_size": None,
        },
        "falcon": lambda: {} if config["new_decoder_architecture"] else {"num_kv_heads": None},
        "gpt2": lambda: {"n_ctx": config["n_positions"]},
        "gpt_neox": lambda: {"rotary_pct": rope["partial_rotary_factor"]},
        "modernbert": lambda: {"layer_norm_eps": config["norm_eps"], "global_attn_every_n_layers": 3},
        "mpt": lambda: {"architectures": ["MPTForCausalLM"]},
        "nomic_bert": lambda: {
            "n_positions": 8192, "activation_function": "swiglu", "causal": False, "prenorm": False, "qkv_proj_bias": False,
            "mlp_fc1_bias": False, "mlp_fc2_bias": False, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None, "rotary_emb_base": rope["rope_theta"],
        },
    }.get(config["model_type"], dict)()  # fmt: skip


def write_tokenizer(golden: Golden, folder: Path) -> None:
    """Vocabularies of the golden's size, in every form that a converter may look for."""
    n = golden.config.get("text_config", golden.config)["vocab_size"]
    bert = golden.config["model_type"] in ("bert", "distilbert", "nomic_bert")
    words = [*SPECIAL, *(chr(ord("a") + i) for i in range(26)), *(f"##{i}" for i in range(n))][:n]
    if bert:
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        tokenizer = {
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                "vocab": {word: i for i, word in enumerate(words)},
            },
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                           "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "added_tokens": added(SPECIAL),
        }  # fmt: skip
        settings = {"tokenizer_class": "BertTokenizer", **{f"{word[1:-1].lower()}_token": word for word in SPECIAL}}
    else:
        sentencepiece(n, folder, unigram=golden.config["model_type"] in ("t5", "umt5", "xlm-roberta"))
        pieces = {piece: i for i, piece in enumerate([*CONTROL, *(chr(ord("A") + i) for i in range(n - len(CONTROL)))])}
        tokenizer = {
            "model": {"type": "BPE", "vocab": pieces, "merges": []},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "added_tokens": added(CONTROL),
        }  # fmt: skip
        if golden.config["model_type"].startswith("gemma4"):
            space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
            back = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
            decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
            tokenizer["model"] |= {"byte_fallback": True}
            tokenizer |= {"normalizer": space, "pre_tokenizer": None, "decoder": {"type": "Sequence", "decoders": decoders}}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", **tokenizer}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def added(special: list[str]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": i, "content": text, **flags} for i, text in enumerate(special)]


def sentencepiece(n: int, folder: Path, *, unigram: bool) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    kinds = [("<unk>", 2), ("<s>", 3), ("</s>", 3)] + [(chr(ord("A") + i), 1) for i in range(n - 3)]
    for i, (piece, kind) in enumerate(kinds):
        model.pieces.add(piece=piece, score=-float(i), type=kind)
    model.trainer_spec.model_type = 1 if unigram else 2
    model.trainer_spec.vocab_size = n
    for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"):
        if unigram or name == "tokenizer.model":
            (folder / name).write_bytes(model.SerializeToString())


def check(folder: Path, *, record: bool) -> int:
    from llmq.errors import LlmqError
    from llmq.formats import open_checkpoint

    bad, recorded = 0, {}
    for path in sorted(folder.glob("*.gguf")):
        golden, limit = load(path.stem), LIMITS.get(path.stem)
        with open_checkpoint(path) as theirs, open_checkpoint(folder / path.stem) as ours:
            try:
                worst = difference(golden, theirs)
                wrong = not worst < TOLERANCE
                print(f"{path.stem:28} {worst:.1e}" + (f"   {limit or 'WRONG'}" if wrong else ""))
            except LlmqError as error:
                wrong = True
                print(f"{path.stem:28} {limit or error}")
            bad += wrong and not limit
            for line in compared(theirs, ours):
                print(f"    {line}")
            if not wrong:
                recorded[path.stem] = converted(theirs)
    if record:
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row, sort_keys=True)}" for name, row in recorded.items())
        CONVERTED.write_text(f"{{\n{lines}\n}}\n")
    return int(bad > 0)


def difference(golden: Golden, model: Any) -> float:
    """The largest difference of anything that the golden has, relative to the largest of its values."""
    import numpy as np

    from llmq.arch import build_tape
    from llmq.engine.base import Batch
    from llmq.engine.native import NativeEngine

    tape, out = build_tape(model, n_ctx=golden.n_ctx), 0.0
    with NativeEngine(tape, model.tensors, n_ctx=golden.n_ctx, n_threads=1, kv_type="f32") as engine:
        for i, (tokens, expected) in enumerate(golden.sequences):
            n, seq = len(tokens), engine.new_sequence()
            types = golden.types[i] if golden.types else None
            if golden.sources:
                engine.encode(seq, golden.sources[i])
            rows = np.arange(1 if golden.kind == "scores" else n, dtype=np.int32)
            found = engine.run(Batch(tokens, np.arange(n, dtype=np.int32), np.full(n, seq, np.int32), rows, types))
            out = max(out, float(abs(found - expected).max() / abs(expected).max()))
    return out


def compared(theirs: Any, ours: Any) -> list[str]:
    """Keys that only one of the two has, or that differ beyond float32, and tensors that do."""
    import numpy as np

    out = []
    for key in sorted(theirs.metadata.keys() | ours.metadata.keys()):
        a, b = theirs.metadata.get(key), ours.metadata.get(key)
        same = np.array_equal(*(np.asarray(x, np.float32) if isinstance(x, float) else np.asarray(x) for x in (a, b)))
        if not key.startswith(("general.", "tokenizer.ggml.")) and not same:
            out.append(f"{key}: theirs {a}, ours {b}")
    for name in sorted(theirs.tensors.keys() | ours.tensors.keys()):
        if name not in theirs.tensors or name not in ours.tensors:
            out.append(f"{name}: {'ours' if name in ours.tensors else 'theirs'} only")
        elif not np.array_equal(theirs.tensors[name].numpy(), ours.tensors[name].numpy()):
            out.append(f"{name}: values differ")
    return out


if __name__ == "__main__":
    if sys.argv[1] == "convert":
        convert(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(check(Path(sys.argv[2]), record=sys.argv[1] == "record"))
