"""GGUF to Hugging Face folder and back: equal tensors, the same file again, the same tokens; and what is refused.

That transformers gives the goldens' logits for the folders was seen with it once; here the way back shows that they say all
that the GGUF said."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import goldens
import numpy as np
import pytest
import tiny
from safetensors import safe_open

import llmq
from llmq.arch import families, family_of_config
from llmq.errors import Cancelled, FormatError, UnsupportedArchError, UnsupportedError
from llmq.exporting import export_model
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint, MetaValue, Tensor
from llmq.text.hf_export import tokenizer_files
from llmq.text.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
STORYTELLER = ROOT / "models" / "storyteller"
VOCAB = Path(__file__).parent / "data" / "vocab"
LAST_DIGIT = {"llama-yarn-mscale": "llama.rope.scaling.attn_factor"}  # a factor of two factors, rounded once more
OTHER = {"embed_out.weight": "lm_head.weight"}  # transformers 5 knows both names of GPT-NeoX's, 4 only the first
ADDED = ("gemma",)  # families whose norms GGUF has 1 added to


def exportable() -> list[str]:
    configs = {name: goldens.load(name).config for name in goldens.names("logits")}
    with_experts = {name for name, config in configs.items() if config["model_type"] == "mixtral"}
    by_head = {name for name, config in configs.items() if config.get("qk_layernorm")}
    with_pictures = {name for name, config in configs.items() if "text_config" in config}  # which do not come back
    as_llama = {name for name, config in configs.items() if config["model_type"] == "helium"}  # the same, in another order
    left_out = with_experts | by_head | with_pictures | as_llama
    return [name for name, config in configs.items() if family_of_config(config).hf_class and name not in left_out]


def test_norms_of_single_heads_are_not_written(tmp_path: Path) -> None:
    llmq.convert_model(goldens.write_folder(goldens.load("stablelm-12b"), tmp_path / "model"), tmp_path / "m.gguf")
    with pytest.raises(UnsupportedError, match=r"no name for tensor 'blk\.0\.attn_k_norm\.weight'"):
        export_model(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.parametrize("name", exportable())
def test_there_and_back(name: str, tmp_path: Path) -> None:
    golden = goldens.load(name)
    first = goldens.write_folder(golden, tmp_path / "first")
    llmq.convert_model(first, tmp_path / "first.gguf")
    export_model(tmp_path / "first.gguf", tmp_path / "second")
    with llmq.read_tensors(first) as before, llmq.read_tensors(tmp_path / "second") as after:
        tied = golden.config.get("tie_word_embeddings") and "lm_head.weight"
        assert {OTHER.get(key, key) for key in after} == set(before) - {tied}
        for key, tensor in after.items():
            exact = not (name.startswith(ADDED) and "norm" in key)
            assert tensor.dtype == "F32"
            assert np.allclose(tensor.numpy(), before[OTHER.get(key, key)].numpy(), rtol=0, atol=0 if exact else 1.2e-7), key
    llmq.convert_model(tmp_path / "second", tmp_path / "second.gguf")
    with open_checkpoint(tmp_path / "first.gguf") as one, open_checkpoint(tmp_path / "second.gguf") as two:
        whole_heads = {"phi3.rope.dimension_count"}  # the same as none
        different = {k for k in one.metadata | two.metadata if str(one.metadata.get(k)) != str(two.metadata.get(k))}
        assert different <= whole_heads | {LAST_DIGIT.get(name)}
        assert all(np.array_equal(tensor.raw(), two.tensors[key].raw()) for key, tensor in one.tensors.items())


def test_storyteller_comes_back_with_its_types_and_tokens(tmp_path: Path) -> None:
    llmq.convert_model(STORYTELLER, tmp_path / "m.gguf")
    report = export_model(tmp_path / "m.gguf", tmp_path / "out")
    assert report.files == (
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    with (
        safe_open(STORYTELLER / "model.safetensors", "np") as old,
        safe_open(tmp_path / "out" / "model.safetensors", "np") as new,
    ):
        assert sorted(old.keys()) == sorted(new.keys()) and new.metadata() == {"format": "pt"}
    with llmq.read_tensors(STORYTELLER) as old, llmq.read_tensors(tmp_path / "out") as new:
        for name, tensor in old.items():
            assert (new[name].dtype, new[name].shape) == (tensor.dtype, tensor.shape)
            assert np.array_equal(new[name].raw(), tensor.raw()), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16" and config["rms_norm_eps"] == 1e-5
    llmq.convert_model(tmp_path / "out", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_quantized_weights_and_types(tmp_path: Path) -> None:
    llmq.quantize_model(STORYTELLER, tmp_path / "q.gguf", "Q4_K_M")
    export_model(tmp_path / "q.gguf", tmp_path / "auto")
    export_model(tmp_path / "q.gguf", tmp_path / "f32", "f32")
    name = "model.layers.3.mlp.down_proj.weight"
    with (
        llmq.read_tensors(tmp_path / "q.gguf") as source,
        llmq.read_tensors(tmp_path / "auto") as auto,
        llmq.read_tensors(tmp_path / "f32") as wide,
    ):
        values = source["blk.3.ffn_down.weight"].numpy()
        assert {tensor.dtype for tensor in wide.values()} == {"F32"} and np.array_equal(wide[name].numpy(), values)
        assert auto[name].dtype == "F16" and np.array_equal(auto[name].numpy(), values.astype(np.float16))
    with pytest.raises(ValueError, match="dtype is 'Q8_0'; expected AUTO"):
        export_model(tmp_path / "q.gguf", tmp_path / "x", "Q8_0")


def test_shards(tmp_path: Path) -> None:
    llmq.convert_model(STORYTELLER, tmp_path / "m.gguf")
    export_model(tmp_path / "m.gguf", tmp_path / "out", shard_bytes=4_000_000)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 3 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all((tmp_path / "out" / shard).stat().st_size < 4_100_000 for shard in shards)
    llmq.convert_model(tmp_path / "out", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def vocabulary(name: str, tmp_path: Path) -> dict[str, MetaValue]:
    path = tmp_path / f"{name}.gguf"
    path.write_bytes(lzma.decompress((VOCAB / f"{name}.gguf.xz").read_bytes()))
    with open_checkpoint(path) as model:
        return dict(model.metadata)


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "llama-spm", "qwen2"])
def test_the_tokenizer_that_is_written_gives_the_same_tokens(name: str, tmp_path: Path) -> None:
    metadata = vocabulary(name, tmp_path) | {
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.chat_template.tools": "{{ 1 }}",
    }
    for file, content in tokenizer_files(metadata, tmp_path).items():
        (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
    before, after = Tokenizer(metadata), Tokenizer.from_file(tmp_path / "tokenizer.json")
    for text in (VOCAB / "cases.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n"):
        assert after.encode(text) == before.encode(text), text
        assert after.decode(after.encode(text)) == before.decode(before.encode(text))
    assert (after.bos_id, after.eos_id, after.stop_ids) == (before.bos_id, before.eos_id, before.stop_ids)
    assert after.chat_template == "{{ messages }}" and after.chat_templates == {"tools": "{{ 1 }}"}


def write(path: Path, changes: dict[str, MetaValue], tensors: dict[str, Tensor] | None = None) -> Path:
    """A tiny llama with the vocabulary of the goldens, some keys changed."""
    made = tiny.checkpoint()
    base = made.metadata | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*"abcdefgh", "ab", *(f"[PAD{i}]" for i in range(9, 61))],
        "tokenizer.ggml.token_type": np.array([1] * 9 + [5] * 52, np.int32),
        "tokenizer.ggml.merges": ["a b"],
    }
    return tiny.write_gguf(Checkpoint(made.path, base | changes, {**made.tensors, **(tensors or {})}), path)


@pytest.mark.parametrize(
    ("changes", "tensors", "error", "message"),
    [
        ({"general.architecture": "bloom"}, {}, UnsupportedError, "a folder of family bloom cannot be written"),
        ({"general.architecture": "no-such"}, {}, UnsupportedArchError, "no-such"),
        ({"llama.attention.scale": 0.5}, {}, UnsupportedError, r"cannot say what this file does: attention_scale \(0.5, would"),
        ({}, {"blk.0.odd.weight": np.ones(9, np.float32)}, UnsupportedError, "no name for tensor 'blk.0.odd.weight' of llama"),
        ({}, {"rope_freqs.weight": np.array([1, 2, 7, 1, 5, 1], np.float32)}, UnsupportedError, "rope_freqs.weight holds no"),
        ({"tokenizer.ggml.pre": "default"}, {}, UnsupportedError, "no tokenizer.json is known for the pre-tokenizer 'default'"),
        ({"llama.expert_count": 4, "llama.expert_used_count": 2}, {}, UnsupportedError, "mixtures of experts have no way back"),
        ({"llama.attention.head_count": 0}, {}, FormatError, "head_count"),
        ({"llama.vocab_size": 2**24}, {}, FormatError, "vocab_size is 16777216, but there are 61 tokens"),
    ],
)  # fmt: skip
def test_refused(
    changes: dict[str, MetaValue], tensors: dict[str, np.ndarray], error: type, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.gguf", changes, {name: tiny.tensor(name, values) for name, values in tensors.items()})
    with pytest.raises(error, match=message):
        export_model(path, tmp_path / "out")
    assert not (tmp_path / "out").exists() and [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_a_tokenizer_that_would_not_come_back(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="kind 'bert' cannot be written"):
        tokenizer_files(vocabulary("bert-bge", tmp_path), tmp_path)
    spaces = vocabulary("llama-spm", tmp_path) | {"tokenizer.ggml.remove_extra_whitespaces": True}
    with pytest.raises(UnsupportedError, match="treats spaces as this vocabulary does"):
        tokenizer_files(spaces, tmp_path)


def test_the_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", {})
    with pytest.raises(Cancelled):
        export_model(path, tmp_path / "out", progress=lambda stage, done, total: done < total // 2)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
    (tmp_path / "out").mkdir()
    export_model(path, tmp_path / "out")  # an empty one is taken
    with pytest.raises(FileExistsError, match="not empty"):
        export_model(path, tmp_path / "out")
    with pytest.raises(FileExistsError, match="a file has the name of the folder"):
        export_model(path, path)


def test_what_transformers_must_be_told(tmp_path: Path) -> None:
    # Keys that llmq does without, because it looks at the tensors.
    for name, key, expected in (("cohere-plus", "use_qk_norm", True), ("cohere", "use_qk_norm", False)):
        llmq.convert_model(goldens.write_folder(goldens.load(name), tmp_path / name), tmp_path / f"{name}.gguf")
        export_model(tmp_path / f"{name}.gguf", tmp_path / f"{name}-out")
        assert json.loads((tmp_path / f"{name}-out" / "config.json").read_text())[key] is expected


def test_every_family_that_goes_back_has_a_golden() -> None:
    shown = {family_of_config({"model_type": goldens.load(name).config["model_type"]}).name for name in exportable()}
    assert shown == {name for name, family in families().items() if family.hf_class}
