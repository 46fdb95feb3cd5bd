"""Hugging Face folders as GGUF: names, rows, types and metadata, against the safetensors package and the definitions."""

from __future__ import annotations

import json
import os
from pathlib import Path

import goldens
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from llmq.errors import FormatError, LimitError, TruncatedError, UnsafeFileError, UnsupportedArchError, UnsupportedError
from llmq.formats import open_checkpoint
from llmq.quant.types import QuantType

STORYTELLER = Path(__file__).parent.parent / "models" / "storyteller"
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
    "intermediate_size": 96, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "vocab_size": 32,
    "tie_word_embeddings": False, "torch_dtype": "float16",
}  # fmt: skip
TOKENIZER = {
    "added_tokens": [{"id": 0, "content": "<|end|>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(["<|end|>", *"abcdefgh", "ab"])}, "merges": ["a b"]},
}


def weights(dtype: type = np.float16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {"model.embed_tokens": (32, 64), "model.norm": (64,), "lm_head": (32, 64)}
    for i in range(2):
        p = f"model.layers.{i}"
        shapes |= {
            f"{p}.self_attn.q_proj": (64, 64), f"{p}.self_attn.k_proj": (32, 64), f"{p}.self_attn.v_proj": (32, 64),
            f"{p}.self_attn.o_proj": (64, 64), f"{p}.mlp.gate_proj": (96, 64), f"{p}.mlp.up_proj": (96, 64),
            f"{p}.mlp.down_proj": (64, 96), f"{p}.input_layernorm": (64,), f"{p}.post_attention_layernorm": (64,),
        }  # fmt: skip
    return {f"{name}.weight": rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def folder(path: Path, tensors: dict[str, np.ndarray], config: dict | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    (path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    save_file(tensors, path / "model.safetensors")
    return path


def sharded(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, mine in parts.items():
        save_file({name: tensors[name] for name in mine}, path / shard)
    where = {name: shard for shard, mine in parts.items() for name in mine}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return path


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """Row 2j of each head is row j of its first half, row 2j + 1 row j of its second."""
    dim = len(rows) // heads
    order = [h * dim + half * dim // 2 + j for h in range(heads) for j in range(dim // 2) for half in (0, 1)]
    return rows[order]


def test_storyteller() -> None:
    with open_checkpoint(STORYTELLER) as model, safe_open(STORYTELLER / "model.safetensors", "np") as stored:
        assert model.metadata["general.architecture"] == "llama"
        assert model.metadata["general.file_type"] == 32
        assert model.metadata["llama.rope.freq_base"] == 10000.0
        assert list(model.tensors)[:2] == ["output_norm.weight", "token_embd.weight"]
        assert len(model.tensors) == len(stored.keys()) == 74
        assert "output.weight" not in model.tensors
        assert {t.type for t in model.tensors.values() if len(t.shape) == 2} == {QuantType.BF16}
        assert {t.type for t in model.tensors.values() if len(t.shape) == 1} == {QuantType.F32}


def test_names_rows_and_types(tmp_path: Path) -> None:
    given = weights()
    with open_checkpoint(folder(tmp_path / "m", given)) as model:
        q = given["model.layers.1.self_attn.q_proj.weight"]
        k = given["model.layers.1.self_attn.k_proj.weight"]
        assert np.array_equal(model.tensors["blk.1.attn_q.weight"].numpy(), neighbours(q, 4))
        assert np.array_equal(model.tensors["blk.1.attn_k.weight"].numpy(), neighbours(k, 2))
        assert np.array_equal(model.tensors["blk.0.ffn_down.weight"].numpy(), given["model.layers.0.mlp.down_proj.weight"])
        assert np.array_equal(model.tensors["output.weight"].numpy(), given["lm_head.weight"])
        assert np.array_equal(model.tensors["blk.0.attn_norm.weight"].numpy(), given["model.layers.0.input_layernorm.weight"])
        assert model.tensors["blk.0.attn_norm.weight"].type is QuantType.F32
        assert model.tensors["output.weight"].type is QuantType.F16
        assert model.metadata["general.file_type"] == 1
        assert model.metadata["llama.rope.freq_base"] == 5e5
        assert len(model.metadata["tokenizer.ggml.tokens"]) == CONFIG["vocab_size"]


def test_shards_equal_the_single_file(tmp_path: Path) -> None:
    given = weights()
    with open_checkpoint(folder(tmp_path / "one", given)) as one, open_checkpoint(sharded(tmp_path / "two", given)) as two:
        assert str(one.metadata) == str(two.metadata)
        assert list(one.tensors) == list(two.tensors)
        for name, tensor in one.tensors.items():
            assert tensor.type is two.tensors[name].type and np.array_equal(tensor.raw(), two.tensors[name].raw()), name


def test_shards_may_be_links_but_only_bare_names_of_regular_files(tmp_path: Path) -> None:
    path = sharded(tmp_path / "m", weights())
    (path / "b.safetensors").rename(tmp_path / "blob")
    (path / "b.safetensors").symlink_to(tmp_path / "blob")
    open_checkpoint(path).close()
    index = path / "model.safetensors.index.json"
    whole = index.read_text()
    for name in ("../blob", "/etc/passwd", "..", ".", "", "x\\\\y", "x\\u0000y"):
        index.write_text(whole.replace("b.safetensors", name))
        with pytest.raises(UnsafeFileError, match="bare file names"):
            open_checkpoint(path)
    index.write_text(whole)
    (path / "b.safetensors").unlink()
    with pytest.raises(TruncatedError, match=r"1 of the 2 shards are missing: 'b\.safetensors'"):
        open_checkpoint(path)
    (path / "b.safetensors").mkdir()
    with pytest.raises(UnsafeFileError, match="a folder"):
        open_checkpoint(path)
    (path / "b.safetensors").rmdir()
    os.mkfifo(path / "b.safetensors")
    with pytest.raises(UnsafeFileError, match="a FIFO"):
        open_checkpoint(path)


def test_a_whole_file_comes_before_an_index(tmp_path: Path) -> None:
    # in the order of transformers: a model that was saved again may lie beside the index of what it was made from
    path = sharded(tmp_path / "m", weights())
    (path / "a.safetensors").unlink()
    save_file(weights(), path / "model.safetensors")
    with open_checkpoint(path) as model:
        assert {source.path.name for source in model.sources} == {"model.safetensors"}


def test_a_wrong_value_is_named_with_its_file(tmp_path: Path) -> None:
    path = sharded(tmp_path / "m", weights())
    (path / "config.json").write_text(json.dumps(CONFIG | {"num_attention_heads": 0}))
    with pytest.raises(FormatError, match=r"config\.json: num_attention_heads: a number in 1"):
        open_checkpoint(path)


def test_an_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    path = sharded(tmp_path / "m", weights())
    index = path / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    for change, problem in (
        ({"lm_head.weight": "b.safetensors"}, "but the index says"),
        ({"extra.weight": "a.safetensors"}, "'extra.weight' is not in"),
    ):
        index.write_text(json.dumps({"weight_map": whole["weight_map"] | change}))
        with pytest.raises(FormatError, match=problem):
            open_checkpoint(path)
    for broken, problem in (
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": 1}}', "no weight_map"),
        ('{"weight_map": ["a.safetensors"]}', "no weight_map"),
        ('{"metadata": {}}', "no weight_map"),
        ('["a.safetensors"]', "expected a JSON object"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "key 'a' appears twice"),
        ('{"weight_map": {"a": ' + "[" * 100 + "]" * 100 + "}}", "more than 64 levels"),
        ('{"weight_map": {"a\0": "x"}}', "NUL byte"),
        ('{"weight_map": ', "not JSON"),
    ):
        index.write_text(broken)
        with pytest.raises(FormatError, match=problem) as caught:
            open_checkpoint(path)
        assert caught.value.path == str(index)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmq.formats.weights._MAX_INDEX", 10)
        with pytest.raises(LimitError, match="15 bytes of JSON; at most 10"):
            open_checkpoint(path)


def test_a_broken_shard_is_blamed_by_its_name(tmp_path: Path) -> None:
    path = sharded(tmp_path / "m", weights())
    shard = path / "b.safetensors"
    whole = shard.read_bytes()
    for data, error in (
        (whole[:-1], TruncatedError), (whole + b"x", FormatError), (b"", TruncatedError), (b"<html>", FormatError),
    ):  # fmt: skip
        shard.write_bytes(data)
        with pytest.raises(error) as caught:
            open_checkpoint(path)
        assert caught.value.path == str(shard)


def test_nan_in_a_tensor_that_is_multiplied(tmp_path: Path) -> None:
    path = goldens.write_folder(goldens.load("falcon-h1"), tmp_path) / "model.safetensors"
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little")
    at = 8 + header + json.loads(data[8 : 8 + header])["lm_head.weight"]["data_offsets"][0]
    data[at : at + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    with open_checkpoint(tmp_path) as model, pytest.raises(FormatError, match=r"'lm_head.weight' times .* has a NaN"):
        model.tensors["output.weight"].raw()


def test_tied_embeddings_and_buffers_are_left_out(tmp_path: Path) -> None:
    given = weights() | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    with open_checkpoint(folder(tmp_path / "m", given, {"tie_word_embeddings": True})) as model:
        assert "output.weight" not in model.tensors and len(model.tensors) == 20


def test_float64_becomes_float32(tmp_path: Path) -> None:
    given = weights(np.float64)
    with open_checkpoint(folder(tmp_path / "m", given)) as model:
        assert model.tensors["blk.0.attn_v.weight"].type is QuantType.F32
        expected = neighbours(given["model.layers.0.self_attn.k_proj.weight"], 2).astype(np.float32)
        assert np.array_equal(model.tensors["blk.0.attn_k.weight"].numpy(), expected)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"model_type": "no_such"}, UnsupportedArchError, "'no_such'.*llama"),
        ({"quantization_config": {"quant_method": "hqq"}}, UnsupportedError, "quantized by 'hqq'; known are gptq"),
        ({"num_hidden_layers": True}, FormatError, "num_hidden_layers"),
        ({"num_hidden_layers": 1}, FormatError, "'model.layers.1"),
        ({"vocab_size": 2**24}, FormatError, "vocab_size is 16777216, the embeddings have 32 rows"),
    ],
)
def test_refused_configurations(tmp_path: Path, config: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        open_checkpoint(folder(tmp_path / "m", weights(), config))


def test_refused_tensors_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no config.json"):
        open_checkpoint(tmp_path)
    with pytest.raises(FormatError, match=r"'odd\.weight' is not one of a llama model"):
        open_checkpoint(folder(tmp_path / "m", weights() | {"odd.weight": np.zeros(3, np.float32)}))
    with pytest.raises(UnsupportedError, match="is I8"):
        open_checkpoint(folder(tmp_path / "m", weights() | {"lm_head.weight": np.zeros((32, 64), np.int8)}))
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(FormatError, match="expected a PyTorch checkpoint, found a file that begins with"):
        open_checkpoint(tmp_path / "m")
    (tmp_path / "m" / "pytorch_model.bin").rename(tmp_path / "m" / "weights.bin")
    with pytest.raises(FormatError, match=r"found \['weights.bin'\]"):
        open_checkpoint(tmp_path / "m")
    with pytest.raises(UnsupportedError, match="give the folder"):
        open_checkpoint(STORYTELLER / "model.safetensors")
