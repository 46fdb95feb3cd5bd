"""`llmq inspect`: what is shown is what the files hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import llmq
from llmq.cli import main
from llmq.errors import FormatError
from llmq.formats.gguf_writer import GGUFWriter, TensorInfo
from llmq.quant.types import QuantType

STORYTELLER = Path(__file__).parent.parent / "models" / "storyteller"


def vocabulary(path: Path) -> Path:
    metadata = {
        "general.architecture": "llama", "llama.rope.freq_base": 1e-5, "general.file_type": 15, "odd\nkey": "\x1b[31m" * 50,
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(40)],
    }  # fmt: skip
    with GGUFWriter(path, metadata, [TensorInfo("x", (2, 32), QuantType.Q8_0)], {"llama.rope.freq_base": 6}) as writer:
        writer.write(np.zeros(68, np.uint8))
    return path


def test_gguf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = vocabulary(tmp_path / "v.gguf")
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "GGUF, 1 tensors" in out and "Q4_K_M" in out and "2x32" in out and "1e-05" in out
    assert "[40] 't0', 't1'" in out and "\x1b" not in out and "odd\nkey" not in out
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["types"]["tokenizer.ggml.tokens"] == "array of str" and found["types"]["general.file_type"] == "u32"
    assert found["metadata"]["tokenizer.ggml.tokens"]["length"] == 40
    at = path.stat().st_size - 96
    assert found["tensors"] == [{"name": "x", "shape": [2, 32], "type": "Q8_0", "bytes": 68, "offset": at}]


def test_safetensors_and_folder() -> None:
    stored = llmq.inspect(STORYTELLER / "model.safetensors")
    with safe_open(STORYTELLER / "model.safetensors", "np") as oracle:
        names = list(oracle.keys())
        assert {t.name: t.shape for t in stored.tensors} == {n: tuple(oracle.get_slice(n).get_shape()) for n in names}
    folder = llmq.inspect(STORYTELLER)
    assert folder.format == "Hugging Face folder" and folder.weights == stored.weights
    assert folder.metadata["general.architecture"] == "llama" and "BF16" in folder.table()


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FormatError, match=r"no config\.json"):
        llmq.inspect(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert main(["inspect", str(tmp_path / "m.gguf")]) == 1
    assert "m.gguf: the file ends" in capsys.readouterr().err
