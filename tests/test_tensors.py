"""`llmq.read_tensors` of every kind of file, and `llmq convert`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors import safe_open
from test_huggingface import folder, weights
from torch_cases import EXPECTED
from torch_cases import FOLDER as TORCH

import llmq
from llmq.cli import main
from llmq.errors import FormatError, ModelFileError
from llmq.quant.types import QuantType

STORYTELLER = Path(__file__).parent.parent / "models" / "storyteller"


def test_gguf(tmp_path: Path) -> None:
    path = tiny.write_gguf(
        tiny.quantized(tiny.checkpoint(), QuantType.Q8_0) if False else tiny.checkpoint(), tmp_path / "m.gguf"
    )
    llmq.quantize_model(STORYTELLER, tmp_path / "q.gguf", "Q4_0", split_max_tensors=50)
    with llmq.read_tensors(path) as tensors:
        assert tensors["token_embd.weight"].type is QuantType.F32 and len(tensors) == 29
    with llmq.read_tensors(tmp_path / "q-00002-of-00002.gguf") as tensors:
        one = tensors["blk.0.attn_q.weight"]
        assert (one.dtype, one.type, one.shape) == ("Q4_0", QuantType.Q4_0, (256, 256))
        assert one.raw().shape == (one.nbytes,) == (256 * 256 // 32 * 18,)
        assert one.numpy().dtype == np.float32 and one.numpy().shape == (256, 256)
        assert "output.weight" not in tensors and len(list(tensors)) == len(tensors) == 74


def test_safetensors_alone_and_in_a_folder() -> None:
    with llmq.read_tensors(STORYTELLER / "model.safetensors") as alone, llmq.read_tensors(STORYTELLER) as whole:
        assert list(alone) == list(whole)
        name = "model.layers.0.mlp.up_proj.weight"
        assert alone[name].dtype == "BF16" and alone[name].type is QuantType.BF16
        raw = alone[name].raw()
        assert not raw.flags.owndata and np.array_equal(raw, whole[name].raw())
        bits = raw.view("<u2").astype(np.uint32) << 16
        assert np.array_equal(alone[name].numpy().ravel(), bits.view(np.float32))
    with safe_open(STORYTELLER / "model.safetensors", "np") as stored:
        assert sorted(alone) == sorted(stored.keys())


@pytest.mark.parametrize("name", ["zip.pt", "stream.pt"])
def test_checkpoints_of_pytorch(name: str) -> None:
    with llmq.read_tensors(TORCH / name) as tensors:
        assert list(tensors) == list(EXPECTED)
        for key, (dtype, values) in EXPECTED.items():
            tensor = tensors[key]
            assert tensor.dtype == dtype and tensor.nbytes == values.nbytes
            assert np.array_equal(tensor.raw(), np.ascontiguousarray(values).reshape(-1).view(np.uint8)), key
        assert tensors["i64"].numpy().dtype == np.int64 and tensors["f64"].numpy().dtype == np.float64
        assert tensors["bf16"].numpy().tolist() == [1.0, -2.0, float("inf")]
        assert tensors["f8_e4m3"].numpy().tolist() == tensors["f8_e5m2"].numpy().tolist() == [1.0, -1.0]


def test_arrays_outlive_the_file() -> None:
    with llmq.read_tensors(TORCH / "zip.pt") as tensors:
        raw = tensors["f32"].raw()
    assert raw.view(np.float32).tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_no_tensor_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no weights"):
        llmq.read_tensors(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"\x80\x02}.")
    with pytest.raises(ModelFileError, match="magic number"):
        llmq.read_tensors(tmp_path / "x.bin")
    with pytest.raises(FileNotFoundError):
        llmq.read_tensors(tmp_path / "none.gguf")


def test_fp8_weights_become_the_same_values_in_f16(tmp_path: Path) -> None:
    # safetensors' NumPy part writes no fp8: the dtype is put into the header of a file of bytes.
    given = weights()
    name = "model.layers.0.mlp.up_proj.weight"
    codes = np.random.default_rng(1).integers(0, 256, (96, 64), np.uint8)
    codes[codes & 0x7F == 0x7F] = 0  # NaN
    path = folder(tmp_path / "m", given | {name: codes})
    data = (path / "model.safetensors").read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    header[name]["dtype"] = "F8_E4M3"
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + n :])
    llmq.convert_model(path, tmp_path / "out.gguf")
    sign, exponent, mantissa = codes >> 7, (codes >> 3 & 15).astype(int), codes & 7
    size = np.where(exponent > 0, (1 + mantissa / 8) * 2.0 ** (exponent - 7), mantissa / 8 * 2.0**-6)
    with llmq.read_tensors(tmp_path / "out.gguf") as tensors:
        found = tensors["blk.0.ffn_up.weight"]
        assert found.type is QuantType.F16 and np.array_equal(found.numpy(), np.where(sign, -size, size))


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(STORYTELLER), str(tmp_path / "f16.gguf"), "F16"]) == 0
    assert main(["convert", str(STORYTELLER), str(tmp_path / "auto.gguf")]) == 0
    llmq.quantize_model(STORYTELLER, tmp_path / "q.gguf", "Q8_0")
    assert main(["dequantize", str(tmp_path / "q.gguf"), str(tmp_path / "d.gguf"), "--json"]) == 0
    assert main(["dequantize", str(tmp_path / "q.gguf"), str(tmp_path / "wide.gguf"), "f32"]) == 0
    capsys.readouterr()
    kinds, values = {}, {}
    for name in ("f16", "auto", "q", "d", "wide"):
        with llmq.read_tensors(tmp_path / f"{name}.gguf") as tensors:
            kinds[name] = tensors["blk.0.attn_v.weight"].dtype
            values[name] = tensors["blk.0.attn_v.weight"].numpy()
    assert np.array_equal(values["wide"], values["q"])
    assert np.array_equal(values["d"], values["q"].astype(np.float16))
    assert kinds == {"f16": "F16", "auto": "BF16", "q": "Q8_0", "d": "F16", "wide": "F32"}
    assert main(["convert", str(STORYTELLER), str(tmp_path / "x.gguf"), "Q8_0"]) == 1
    assert "expected one of AUTO, F32, F16, BF16, or quantize_model" in capsys.readouterr().err


def test_export_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llmq.convert_model(STORYTELLER, tmp_path / "m.gguf")
    assert main(["export", str(tmp_path / "m.gguf"), str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tensors"] == 74 and "model.safetensors" in report["files"]
