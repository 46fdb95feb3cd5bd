"""Reading and writing GGUF: what is written is read back, by this package and by the `gguf` package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from llmq.formats import open_checkpoint
from llmq.formats.gguf_reader import read_gguf
from llmq.formats.gguf_writer import GGUFWriter, TensorInfo
from llmq.formats.values import ValueType
from llmq.quant.types import QuantType

METADATA = {
    "general.architecture": "llama",
    "general.name": "naïve 模型",
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "llama.attention.head_count_kv": [2, 4],
    "tokenizer.ggml.tokens": ["a", "", "bé", "<0x0A>"],
    "tokenizer.ggml.scores": [0.0, -1.0, -2.5, 0.0],
    "tokenizer.ggml.token_type": np.array([1, 1, 1, 6], np.int32),
    "tokenizer.ggml.add_bos_token": True,
    "custom.empty": np.zeros(0, np.float64),
    "custom.flags": [True, False],
    "custom.big": np.array([2**63], np.uint64),
    "custom.small": -5,
}
TYPES = {"custom.small": ValueType.INT8}


def write(path: Path, metadata: dict, tensors: dict[str, np.ndarray], **kwargs: object) -> Path:
    infos = [TensorInfo(name, values.shape, QuantType.F32) for name, values in tensors.items()]
    with GGUFWriter(path, metadata, infos, **kwargs) as writer:
        for values in tensors.values():
            writer.write(values)
    assert path.stat().st_size == writer.total_bytes
    return path


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "token_embd.weight": rng.standard_normal((4, 8), np.float32),
        "odd": rng.standard_normal(3).astype(np.float32),
        "blk.0.cube": rng.standard_normal((2, 3, 5), np.float32),
    }


def test_round_trip(tmp_path: Path) -> None:
    written = tensors()
    with read_gguf(write(tmp_path / "m.gguf", METADATA, written, types=TYPES)) as model:
        assert list(model.metadata) == list(METADATA)
        for key, value in METADATA.items():
            assert np.array_equal(model.metadata[key], value) and type(model.metadata[key]) is not tuple, key
        assert model.types["custom.small"] == ValueType.INT8
        assert model.types["llama.rope.freq_base"] == ValueType.FLOAT32
        assert model.metadata["custom.big"].dtype == np.uint64
        assert model.metadata["tokenizer.ggml.scores"].dtype == np.float32
        assert list(model.tensors) == list(written)
        for name, values in written.items():
            tensor = model.tensors[name]
            assert tensor.shape == values.shape and tensor.offset % 32 == 0
            assert np.array_equal(tensor.numpy(), values)
            with pytest.raises(ValueError, match="read-only"):
                tensor.raw()[0] = 1


def test_the_gguf_package_reads_what_is_written(tmp_path: Path) -> None:
    written = tensors()
    reader = gguf.GGUFReader(write(tmp_path / "m.gguf", METADATA, written, types=TYPES))
    for key, value in METADATA.items():
        if len(np.atleast_1d(value)):
            assert np.array_equal(reader.fields[key].contents(), value), key
    assert reader.fields["custom.small"].types == [gguf.GGUFValueType.INT8]
    for tensor in reader.tensors:
        assert np.array_equal(tensor.data, written[tensor.name])


def test_what_the_gguf_package_writes_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(3)
    writer.add_rope_freq_base(1e6)
    writer.add_token_list(["x", "y"])
    writer.add_token_scores([0.5, 1.5])
    writer.add_chat_template("{{ messages }}")
    writer.add_custom_alignment(64)
    values = np.arange(96, dtype=np.float16).reshape(3, 32)
    writer.add_tensor("half", values)
    writer.add_tensor(
        "q", gguf.quantize(values.astype(np.float32), gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "m.gguf") as model:
        assert model.metadata["llama.block_count"] == 3 and model.metadata["tokenizer.ggml.tokens"] == ["x", "y"]
        assert model.tensors["q"].type is QuantType.Q8_0 and model.tensors["q"].offset % 64 == 0
        assert np.array_equal(model.tensors["half"].numpy(), values)
        assert np.abs(model.tensors["q"].numpy() - values).max() < 0.4


def test_slots_are_filled_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", METADATA, tensors())
    infos = [TensorInfo(name, values.shape, QuantType.F32) for name, values in tensors().items()]
    with GGUFWriter(tmp_path / "n.gguf", METADATA, infos) as writer:
        halves = [half for values in tensors().values() for half in np.array_split(values.reshape(-1), 2)]
        slots = [writer.slot(half.nbytes) for half in halves]
        for slot, half in reversed(list(zip(slots, halves, strict=True))):
            slot.write(half)
        for slot in slots:
            slot.done()
    assert (tmp_path / "n.gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("missing", ["a tensor", "a slot"])
def test_a_file_with_holes_does_not_appear(tmp_path: Path, missing: str) -> None:
    path, info = tmp_path / "m.gguf", TensorInfo("x", (8,), QuantType.F32)
    with pytest.raises(ValueError, match="not complete"), GGUFWriter(path, METADATA, [info]) as writer:
        slot = writer.slot(16 if missing == "a tensor" else 32)
        slot.write(bytes(slot.end - slot.begin))
        if missing == "a tensor":
            slot.done()
    with pytest.raises(ValueError, match="3 bytes for a slot of 32"), GGUFWriter(path, METADATA, [info]) as writer:
        writer.slot(32).write(b"abc")
    with pytest.raises(ValueError, match="more than what is left"), GGUFWriter(path, METADATA, [info]) as writer:
        writer.slot(33)
    assert list(tmp_path.iterdir()) == []


def test_version_2_is_read(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "m.gguf", METADATA, tensors()).read_bytes())
    data[4] = 2
    (tmp_path / "v2.gguf").write_bytes(data)
    with read_gguf(tmp_path / "v2.gguf") as model:
        assert np.array_equal(model.tensors["odd"].numpy(), tensors()["odd"])


def test_views_outlive_the_checkpoint_and_close_is_idempotent(tmp_path: Path) -> None:
    model = read_gguf(write(tmp_path / "m.gguf", METADATA, tensors()))
    view = model.tensors["odd"].raw()
    model.tensors["odd"].release(0, view.size)
    model.close()
    model.close()
    assert np.array_equal(view.view(np.float32), tensors()["odd"])


def test_tensors_beyond_4_gib(tmp_path: Path) -> None:
    # A sparse file: 5 GiB of zeros cost no disk.
    path = tmp_path / "big.gguf"
    width = 5 * 2**30 // 4 // 1024
    infos = [TensorInfo("zeros", (1024, width), QuantType.F32), TensorInfo("last", (4,), QuantType.F32)]
    writer = GGUFWriter(path, {"general.architecture": "llama"}, infos)
    head = writer._head
    with path.open("wb") as file:
        file.write(head)
        file.truncate(writer.total_bytes)
        file.seek(writer.total_bytes - 32)
        file.write(np.array([1, 2, 3, 4], "<f4").tobytes())
    with read_gguf(path) as model:
        assert model.tensors["last"].offset > 2**32
        assert model.tensors["last"].numpy().tolist() == [1, 2, 3, 4]
        assert not model.tensors["zeros"].raw()[-4096:].any()
