"""Importance matrices that llmq measures: against the first layer computed by hand, per expert, and in use."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from test_engine_native import Builder, tokens
from test_moe import result, routed
from tiny import batch

import llmq
from llmq.cli import main
from llmq.engine.ops import Array
from llmq.engine.reference import ReferenceEngine
from llmq.errors import Cancelled
from llmq.formats import open_checkpoint
from llmq.graph.tape import Op
from llmq.importance import _Collector
from llmq.quant.imatrix import read_imatrix

ROOT = Path(__file__).parent.parent
STORYTELLER = ROOT / "models" / "storyteller"
TEXT = (ROOT / "ARCHITECTURE.md").read_text()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imatrix") / "i.gguf"
    llmq.imatrix(STORYTELLER, TEXT, out, n_ctx=64, max_chunks=3, dataset="text")
    return out


def test_first_layer_is_what_it_reads(measured: Path) -> None:
    found = read_imatrix(measured)
    with open_checkpoint(STORYTELLER) as model, llmq.load(STORYTELLER) as llm:
        weights = {name: model.tensors[name].numpy() for name in ("token_embd.weight", "blk.0.attn_norm.weight")}
        ids = np.array(llm.tokenize(TEXT)[: 3 * 64]).reshape(3, 64)
        if llm.tokenizer.add_bos:
            ids[:, 0] = llm.tokenizer.bos_id
        matrices = {name for name, tensor in model.tensors.items() if len(tensor.shape) == 2 and name.startswith("blk.")}
    x = weights["token_embd.weight"][ids.reshape(-1)].astype(np.float64)
    x *= weights["blk.0.attn_norm.weight"] / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + 1e-5)
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(found.entries[f"blk.0.{name}.weight"][0], np.square(x).mean(axis=0), rtol=1e-3)
    assert matrices <= set(found.entries) and found.chunks == 3 and found.datasets == ["text"]


def test_file_is_as_llama_imatrix_writes_it(measured: Path) -> None:
    reader = gguf.GGUFReader(measured)
    assert reader.fields["general.type"].contents() == "imatrix"
    for key, value in (("chunk_count", 3), ("chunk_size", 64)):
        field = reader.fields[f"imatrix.{key}"]
        assert field.types == [gguf.GGUFValueType.UINT32] and field.contents() == value
    tensors = {t.name: t.data for t in reader.tensors}
    assert tensors["blk.0.ffn_down.weight.counts"].tolist() == [[3 * 64]]
    assert {name.rpartition(".")[2] for name in tensors} == {"in_sum2", "counts"}


def test_every_expert_has_its_own() -> None:
    made = Builder()
    x = made.embed(32)
    routes, used = routed("softmax", made, x)
    tape = result(made, made.g.experts(x, routes, made.w("up", 12, 16, 32)))
    collector, seen = _Collector(tape), []
    ids = tokens(40)

    def watch(n: int, op: Op, inputs: list[Array], out: Array | None) -> None:
        seen.append((op.kind, inputs))
        collector.watch(n, op, inputs, out)

    with ReferenceEngine(tape, made.tensors) as engine:
        engine.run(batch((engine.new_sequence(), 0, ids)), watch)
    inputs, routing = next(a for kind, a in seen if kind == "EXPERTS")
    sums = collector.sums["up"]
    assert sums.counts.sum() == used * len(ids)
    for expert in range(12):
        rows = (routing[:, :used] == expert).any(axis=1)
        assert sums.counts[expert] == rows.sum()
        np.testing.assert_allclose(sums.squares[expert], np.square(inputs[rows].astype(np.float64)).sum(axis=0), rtol=1e-12)


def test_importances_lower_the_error_that_counts(measured: Path, tmp_path: Path) -> None:
    """Quantized with importances, the model predicts better than with all of them equal."""
    plain, weighted = tmp_path / "plain.gguf", tmp_path / "weighted.gguf"
    even = tmp_path / "even.gguf"
    writer = gguf.GGUFWriter(even, "")
    writer.add_type("imatrix")
    for key, values in read_imatrix(measured).entries.items():
        writer.add_tensor(f"{key}.in_sum2", np.ones_like(values))
        writer.add_tensor(f"{key}.counts", np.ones((len(values), 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    perplexities = []
    for imatrix, out in ((even, plain), (measured, weighted)):
        llmq.quantize_model(STORYTELLER, out, "IQ2_XXS", imatrix=imatrix)
        with llmq.load(out) as llm:
            perplexities.append(llm.perplexity(TEXT, n_ctx=128, max_chunks=4).value)
    assert perplexities[1] < perplexities[0]


def test_refusals(tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    for options, message in (
        ({"n_ctx": 1}, "n_ctx: 2 to"), ({"n_ctx": 10**6}, "n_ctx: 2 to"),
        ({"max_chunks": 0}, "max_chunks"), ({}, "at least one chunk"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            llmq.imatrix(STORYTELLER, "Too short.", out, **options)
    with pytest.raises(Cancelled):
        llmq.imatrix(STORYTELLER, TEXT, out, n_ctx=16, progress=lambda *_: False)
    assert not out.exists()


def test_no_file_that_is_read_is_overwritten(measured: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    llmq.convert_model(STORYTELLER, model)
    weights, importances = model.read_bytes(), measured.read_bytes()
    with pytest.raises(ValueError, match="one of the source's files"):
        llmq.imatrix(model, TEXT, model, n_ctx=16, max_chunks=1)
    with pytest.raises(ValueError, match="one of the source's files"):
        llmq.quantize_model(model, measured, "Q4_0", imatrix=measured)
    assert model.read_bytes() == weights and measured.read_bytes() == importances


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "i.gguf"
    text.write_text(TEXT)
    assert main(["imatrix", str(STORYTELLER), str(text), str(out), "--ctx", "32", "--chunks", "2"]) == 0
    assert "2 chunks" in capsys.readouterr().out
    assert read_imatrix(out).metadata()["quantize.imatrix.dataset"] == "text.txt"
    text.write_bytes(b"\xff")
    assert main(["imatrix", str(STORYTELLER), str(text), str(out)]) == 1
    assert "UTF-8 expected" in capsys.readouterr().err


