"""Quantizing models: recipes against llama-quantize's choices, the file's bytes, refusals, and what is left after a failure."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import gguf
import numpy as np
import pytest
from codec_cases import column_importances

from llmq.cli import main
from llmq.errors import Cancelled, FormatError, OutOfMemoryError, TruncatedError, UnsupportedQuantError
from llmq.formats import atomic, open_checkpoint
from llmq.formats.gguf_writer import GGUFWriter, TensorInfo
from llmq.formats.huggingface import tensor_order
from llmq.quant import rows
from llmq.quant.quantizer import quantize_model
from llmq.quant.recipes import RECIPES, Facts, find_recipe, places, usable
from llmq.quant.types import QuantType

STORYTELLER = Path(__file__).parent.parent / "models" / "storyteller"
GOLDEN = json.loads((Path(__file__).parent / "data" / "recipes.json").read_text())
HAVE = set(QuantType.__members__)
HERE = [r for r in RECIPES.values() if {r.base, *(k for rules in r.rules.values() for _, k in rules)} <= HAVE]


def synthetic(
    n_layer: int, *, cols: int, experts: int, tied: bool, qkv: bool = False, kv_b: bool = False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the models that llama-quantize was given for the golden file."""
    flat = (16, cols)
    shapes = {"token_embd.weight": flat, "output_norm.weight": (cols,)} | ({} if tied else {"output.weight": flat})
    attention = ["attn_qkv"] if qkv else ["attn_kv_b", "attn_q"] if kv_b else ["attn_q", "attn_k", "attn_v"]
    for i in range(n_layer):
        p = f"blk.{i}"
        shapes |= {f"{p}.attn_norm.weight": (cols,)} | {f"{p}.{name}.weight": flat for name in ["attn_output", *attention]}
        if experts:
            shapes |= {f"{p}.ffn_gate_inp.weight": (experts, cols)}
            shapes |= {f"{p}.ffn_{x}_exps.weight": (experts, *flat) for x in ("gate", "up", "down")}
            shapes |= {f"{p}.ffn_{x}_shexp.weight": flat for x in ("gate", "up", "down")}
        else:
            shapes |= {f"{p}.ffn_{x}.weight": flat for x in ("gate", "up", "down")}
    return {name: shapes[name] for name in sorted(shapes, key=tensor_order)}


def by_role(types: dict[str, str]) -> dict[str, str]:
    """Per role the types of the layers in order, runs counted: "Q6_K Q4_K*2"."""
    found: dict[str, list[str]] = {}
    for name, kind in types.items():
        found.setdefault(re.sub(r"^blk\.\d+\.|\.weight$", "", name), []).append(kind)
    runs = {role: [(kind, len(list(same))) for kind, same in groupby(kinds)] for role, kinds in found.items()}
    return {role: " ".join(k if n == 1 else f"{k}*{n}" for k, n in kinds) for role, kinds in runs.items()}


@pytest.mark.parametrize("model", GOLDEN)
@pytest.mark.parametrize("recipe", [r for r in HERE if r.name != "NVFP4"], ids=lambda r: r.name)  # not in llama-quantize's list
def test_recipes_choose_as_llama_quantize(model: str, recipe: object) -> None:
    golden = GOLDEN[model]
    given = dict(golden["model"])
    arch, gqa = given.pop("arch"), given.pop("gqa")
    shapes = synthetic(**given)
    for imatrix in (False, True):
        want = (golden["types"] | (golden["imatrix"] if imatrix else {}))[recipe.name]
        where = places(shapes, Facts(arch, given["n_layer"], gqa, given["experts"], imatrix, given["tied"]))
        got = {name: usable(recipe.choose(place), place.columns).name for name, place in where.items()}
        if want is None:  # it refuses: without importances, or because it knows no type to take Q1_0's place
            needs = any(recipe.needs_imatrix(where[name], kind) for name, kind in got.items())
            assert (needs and not imatrix) or ("Q1_0" not in got.values() and recipe.base == "Q1_0")
        else:
            assert by_role(got) == want


def test_recipe_names() -> None:
    assert find_recipe("q4_k_m") is find_recipe("Q4_K") is find_recipe("15") is RECIPES["Q4_K_M"]
    with pytest.raises(UnsupportedQuantError, match=r"did you mean Q4_K_M\?"):
        find_recipe("Q4_KM")


def small_model(path: Path, dtype: QuantType = QuantType.F32, **metadata: object) -> Path:
    rng = np.random.default_rng(3)
    shapes = {
        "blk.0.attn_v.weight": (64, 256), "token_embd.weight": (40, 256), "output.weight": (40, 256),
        "blk.0.ffn_down.weight": (256, 96), "blk.0.attn_norm.weight": (256,), "blk.0.attn_q.weight": (256, 256),
    }  # fmt: skip
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    kinds = {name: QuantType.F32 if v.ndim == 1 else dtype for name, v in values.items()}
    head = {"general.architecture": "llama", "llama.block_count": 1, "custom.key": np.arange(3, dtype="u2")}
    infos = [TensorInfo(name, v.shape, kinds[name]) for name, v in values.items()]
    with GGUFWriter(path, head | metadata, infos, {"custom.x": 0}) as writer:
        for name, v in values.items():
            writer.write(rows.quantize(v, kinds[name]))
    return path


def test_file_is_what_the_codecs_give(tmp_path: Path) -> None:
    src = small_model(tmp_path / "src.gguf", **{"custom.x": 7})
    report = quantize_model(src, tmp_path / "out" / "dst.gguf", "Q8_0", tensor_types={"attn_q": "q4_0"}, embedding_type="F16")
    assert [t.name for t in report.tensors][:2] == ["output.weight", "token_embd.weight"]
    with open_checkpoint(src) as before, open_checkpoint(tmp_path / "out" / "dst.gguf") as after:
        assert after.types == before.types | {"general.file_type": 4, "general.quantization_version": 4}
        assert after.metadata["custom.x"] == 7 and after.metadata["custom.key"].dtype == np.uint16
        assert after.metadata["general.file_type"] == 7 and after.metadata["general.quantization_version"] == 2
        kinds = {"token_embd.weight": "F16", "blk.0.attn_q.weight": "Q4_0", "blk.0.attn_norm.weight": "F32"}
        for tensor, line in zip(after.tensors.values(), report.tensors, strict=True):
            values = before.tensors[tensor.name].numpy()
            assert tensor.type.name == line.type == kinds.get(tensor.name, "Q8_0")
            assert np.array_equal(tensor.raw(), rows.quantize(values, tensor.type).reshape(-1))
            if line.rmse is not None:
                assert line.rmse == pytest.approx(np.sqrt(np.mean((values - tensor.numpy()) ** 2, dtype=np.float64)), rel=1e-5)
        assert after.tensors["blk.0.attn_norm.weight"].type is QuantType.F32
    assert report.file_bytes == (tmp_path / "out" / "dst.gguf").stat().st_size
    names = {t.name for t in gguf.GGUFReader(tmp_path / "out" / "dst.gguf").tensors}
    assert names == {t.name for t in report.tensors}


def test_a_source_cut_short_meanwhile_is_refused(tmp_path: Path) -> None:
    src, dst = small_model(tmp_path / "src.gguf"), tmp_path / "dst.gguf"
    dst.write_bytes(b"before")

    def cut(stage: str, done: int, total: int) -> None:
        if done == 0:
            os.truncate(src, src.stat().st_size // 2)

    with pytest.raises(TruncatedError, match="was shortened"):
        quantize_model(src, dst, "Q8_0", progress=cut)
    assert dst.read_bytes() == b"before"


def test_bytes_do_not_depend_on_threads_or_memory(tmp_path: Path) -> None:
    files = []
    for i, options in enumerate(({"n_threads": 1}, {"n_threads": 3}, {"n_threads": 2, "max_memory": 100_000})):
        report = quantize_model(STORYTELLER, tmp_path / f"{i}.gguf", "Q8_0", **options)
        files.append((tmp_path / f"{i}.gguf").read_bytes())
        assert report.rmse is not None and 2e-4 < report.rmse < 3.2e-4
    assert files[0] == files[1] == files[2]
    with pytest.raises(OutOfMemoryError, match="max_memory"):
        quantize_model(STORYTELLER, tmp_path / "x.gguf", "Q8_0", n_threads=2, max_memory=1000)


def test_storyteller_in_every_recipe(tmp_path: Path) -> None:
    with open_checkpoint(STORYTELLER) as model:
        columns = {name: tensor.shape[-1] for name, tensor in model.tensors.items() if len(tensor.shape) == 2}
    imatrix = gguf_imatrix(tmp_path / "i.gguf", {name: column_importances(k) for name, k in columns.items()}, 4)
    refused = set()
    for recipe in HERE:
        try:
            report = quantize_model(STORYTELLER, tmp_path / "m.gguf", recipe.name)
        except UnsupportedQuantError as error:
            assert "llmq imatrix" in str(error)
            refused.add(recipe.name)
            report = quantize_model(STORYTELLER, tmp_path / "m.gguf", recipe.name, imatrix=imatrix)
        with open_checkpoint(tmp_path / "m.gguf") as model:
            assert model.metadata["general.file_type"] == recipe.file_type
            assert {t.name: t.type.name for t in model.tensors.values()} == {t.name: t.type for t in report.tensors}
        assert report.rmse is None or report.rmse < (0.04 if recipe.base == "Q1_0" else 0.03)  # the weights have one of 0.051
    assert refused == {"Q2_K_S", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS"} & {
        recipe.name for recipe in HERE
    }


def test_a_type_for_no_tensor_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    types = {"attn_k": "Q8_0", "atn_q": "Q8_0"}
    quantize_model(STORYTELLER, tmp_path / "dst.gguf", "Q4_0", tensor_types=types, dry_run=True)
    (message,) = caplog.messages
    assert message.startswith("atn_q=Q8_0: no matrix")


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    report = quantize_model(STORYTELLER, tmp_path / "a" / "x.gguf", "Q8_0", dry_run=True)
    assert list(tmp_path.iterdir()) == [] and report.dry_run
    assert report.file_bytes == quantize_model(STORYTELLER, tmp_path / "x.gguf", "Q8_0").file_bytes
    assert report.tensor_bytes == sum(t.bytes for t in report.tensors) and 8.5 < report.bits_per_weight < 8.6


def test_requantizing_must_be_allowed(tmp_path: Path) -> None:
    src = small_model(tmp_path / "q.gguf", QuantType.Q8_0)
    with pytest.raises(UnsupportedQuantError, match=r"is Q8_0 already.*--allow-requantize"):
        quantize_model(src, tmp_path / "x.gguf", "Q4_0")
    quantize_model(src, tmp_path / "x.gguf", "Q4_0", allow_requantize=True)
    quantize_model(src, tmp_path / "same.gguf", "Q8_0")  # nothing changes its type
    assert sorted(p.name for p in tmp_path.iterdir()) == ["q.gguf", "same.gguf", "x.gguf"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "blk.0.attn_norm.weight"])
def test_nan_is_refused_by_name(tmp_path: Path, bad: float, name: str) -> None:
    values = np.zeros((256, 256) if "attn_q" in name else 256, np.float32)
    values[(200, 17) if values.ndim == 2 else 17] = bad
    infos = [TensorInfo(name, values.shape, QuantType.F32)]
    with GGUFWriter(tmp_path / "s.gguf", {"general.architecture": "llama"}, infos) as writer:
        writer.write(values)
    with pytest.raises(FormatError, match=re.escape(name) + (r".*\(200, 17\)" if values.ndim == 2 else "")):
        quantize_model(tmp_path / "s.gguf", tmp_path / "x.gguf", "Q8_0")
    assert [p.name for p in tmp_path.iterdir()] == ["s.gguf"]


def test_destination_that_is_the_source(tmp_path: Path) -> None:
    src = small_model(tmp_path / "m.gguf")
    before = src.read_bytes()
    (tmp_path / "link.gguf").symlink_to(src)
    os.link(src, tmp_path / "hard.gguf")
    for dst in ("m.gguf", "link.gguf", "hard.gguf", "../" + tmp_path.name + "/m.gguf"):
        with pytest.raises(ValueError, match="source's files"):
            quantize_model(src, tmp_path / dst, "Q8_0")
    with pytest.raises(ValueError, match="source's files"):
        quantize_model(STORYTELLER, STORYTELLER / "model.safetensors", "Q8_0")
    with pytest.raises(IsADirectoryError):
        quantize_model(src, tmp_path, "Q8_0")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="not a regular file"):
        quantize_model(src, tmp_path / "fifo", "Q8_0")
    assert src.read_bytes() == before


def test_progress_and_cancel(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    quantize_model(STORYTELLER, tmp_path / "x.gguf", "Q8_0", progress=lambda *step: seen.append(step))
    assert {stage for stage, _, _ in seen} == {"quantize"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[0][1] == 0 and seen[-1][1] == seen[-1][2]
    (tmp_path / "x.gguf").write_bytes(b"old")
    with pytest.raises(Cancelled):
        quantize_model(STORYTELLER, tmp_path / "x.gguf", "Q8_0", progress=lambda _, done, total: done < total // 2)
    assert (tmp_path / "x.gguf").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


class Countdown:
    """Lets n calls pass and fails the next."""

    def __init__(self, n: int, code: int) -> None:
        self.left, self.code = n, code

    def around(self, real: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            self.left -= 1
            if self.left == -1:
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call


def test_the_disk_begins_to_write_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = small_model(tmp_path / "src.gguf")
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, begin, n, advice: asked.append((begin, n)), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_DONTNEED", 4, raising=False)
    monkeypatch.setattr(atomic, "_BEHIND", 20_000)
    quantize_model(src, tmp_path / "dst.gguf", "COPY")
    assert len(asked) > 1 and asked[0][0] == 0
    assert all(begin == before + n for (before, n), (begin, _) in itertools.pairwise(asked))
    assert asked[-1][0] + asked[-1][1] <= (tmp_path / "dst.gguf").stat().st_size


@pytest.mark.parametrize("unnamed", [True, False])
def test_every_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool) -> None:
    """Fail the n-th call of everything that touches the disk, for every n, with and without O_TMPFILE."""
    src = small_model(tmp_path / "src.gguf")
    whole = tmp_path / "whole.gguf"
    quantize_model(src, whole, "Q8_0")
    expected, old = whole.read_bytes(), b"what was there"
    whole.unlink()
    monkeypatch.setattr(atomic.AtomicFile, "_can_stay_unnamed", lambda _: unnamed and hasattr(os, "O_TMPFILE"))
    dst = tmp_path / "dst.gguf"
    failed = 0
    for code in (errno.ENOSPC, errno.EIO):
        for n in range(1000):
            dst.write_bytes(old)
            calls = Countdown(n, code)
            with monkeypatch.context() as patch:
                for name in ("pwrite", "fsync", "replace", "link"):
                    patch.setattr(os, name, calls.around(getattr(os, name)))
                try:
                    quantize_model(src, dst, "Q8_0", n_threads=1)
                except OSError as error:
                    assert error.errno == code
                    failed += 1
                    # the last fsync is of the folder, after the rename
                    assert dst.read_bytes() in (old, expected)
                else:
                    assert dst.read_bytes() == expected
            assert sorted(p.name for p in tmp_path.iterdir()) == ["dst.gguf", "src.gguf"]
            if calls.left >= 0:
                break
    assert failed >= 20


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_a_failing_disk_is_told_with_the_name_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(first: object, *more: object, **options: object) -> int:
        if call == "open" and not str(first).endswith(".tmp"):
            return real(first, *more, **options)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), first)

    real = getattr(os, call)
    monkeypatch.setattr(atomic.AtomicFile, "_can_stay_unnamed", lambda _: False)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Read-only") as caught, atomic.AtomicFile(tmp_path / "x.gguf") as file:
        file.write(b"x")
    assert caught.value.filename == str(tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = small_model(tmp_path / "src.gguf")
    quantize_model(src, tmp_path / "a.gguf", "Q8_0")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[: max(1, len(data) // 3)], offset))
    quantize_model(src, tmp_path / "b.gguf", "Q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_full_disk_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs(tmp_path)
    nothing = type("Full", (), {"f_bavail": 1, "f_frsize": full.f_frsize})
    monkeypatch.setattr(os, "statvfs", lambda _: nothing)
    with pytest.raises(OSError, match=r"needs \d+ MiB") as caught:
        quantize_model(STORYTELLER, tmp_path / "x.gguf", "Q8_0")
    assert caught.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


def test_file_size_limit_of_the_system(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from llmq.cli import main\n"
        "sys.exit(main(sys.argv[1:], verb='quantize'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, STORYTELLER, tmp_path / "x.gguf", "Q8_0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "File too large" in done.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_kill_leaves_the_old_file(tmp_path: Path, signal_number: int) -> None:
    dst = tmp_path / "x.gguf"
    dst.write_bytes(b"old")
    script = (
        "import sys, time\n"
        "from llmq.quant.quantizer import quantize_model\n"
        "def slow(stage, done, total):\n"
        "    if done: print(done, flush=True); time.sleep(60)\n"
        "quantize_model(sys.argv[1], sys.argv[2], 'Q8_0', progress=slow)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, STORYTELLER, dst], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None and child.stdout.readline()  # a piece is written
    child.send_signal(signal_number)
    assert child.wait(20) != 0
    child.stdout.close()
    assert dst.read_bytes() == b"old"
    if hasattr(os, "O_TMPFILE"):
        assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def legacy_imatrix(path: Path, entries: dict[str, np.ndarray], calls: int) -> Path:
    parts = [struct.pack("<i", len(entries))]
    for name, values in entries.items():
        parts += [
            struct.pack("<i", len(name)),
            name.encode(),
            struct.pack("<ii", calls, values.size),
            (values * calls).astype("<f4").tobytes(),
        ]
    path.write_bytes(b"".join([*parts, struct.pack("<ii", 5, 3), b"txt"]))
    return path


def gguf_imatrix(path: Path, entries: dict[str, np.ndarray], calls: int) -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["txt"])
    writer.add_uint32("imatrix.chunk_count", 5)
    for name, values in entries.items():
        writer.add_tensor(f"{name}.in_sum2", (values * calls).astype(np.float32).reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.full((1, 1), calls, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_importances_weigh_the_error(tmp_path: Path) -> None:
    src = small_model(tmp_path / "src.gguf")
    weight = np.where(np.arange(256) % 8 == 0, 16, 0.25).astype(np.float32)
    entries = {"blk.0.attn_q.weight": weight}
    old = legacy_imatrix(tmp_path / "i.dat", entries, 4)
    new = gguf_imatrix(tmp_path / "i.gguf", entries, 4)
    errors = {}
    for name, imatrix in (("none", None), ("old", old), ("new", new)):
        quantize_model(src, tmp_path / f"{name}.gguf", "Q4_0", imatrix=imatrix)
        with open_checkpoint(src) as before, open_checkpoint(tmp_path / f"{name}.gguf") as after:
            q = "blk.0.attn_q.weight"
            errors[name] = float(np.sum(weight * (before.tensors[q].numpy() - after.tensors[q].numpy()) ** 2))
            assert after.metadata.get("quantize.imatrix.chunks_count") == (None if imatrix is None else 5)
    assert errors["old"] == errors["new"] < 0.9 * errors["none"]


def test_refused_importances(tmp_path: Path) -> None:
    src = small_model(tmp_path / "src.gguf")
    wrong = legacy_imatrix(tmp_path / "wrong.dat", {"blk.0.attn_q.weight": np.ones(128)}, 1)
    with pytest.raises(FormatError, match="expected 1 x 256, found 128"):
        quantize_model(src, tmp_path / "x.gguf", "Q4_0", imatrix=wrong)
    negative = legacy_imatrix(tmp_path / "negative.dat", {"blk.0.attn_q.weight": -np.ones(256)}, 1)
    with pytest.raises(FormatError, match="finite and at least 0"):
        quantize_model(src, tmp_path / "x.gguf", "Q4_0", imatrix=negative)
    with pytest.raises(FormatError, match=r"no importance matrix|expected an importance matrix"):
        quantize_model(src, tmp_path / "x.gguf", "Q4_0", imatrix=src)
    data = (tmp_path / "negative.dat").read_bytes()
    for n in range(0, len(data) - 12, 37):
        (tmp_path / "cut.dat").write_bytes(data[:n])
        with pytest.raises((FormatError, ValueError)):
            quantize_model(src, tmp_path / "x.gguf", "Q4_0", imatrix=tmp_path / "cut.dat")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, dst = str(small_model(tmp_path / "src.gguf")), str(tmp_path / "y.gguf")
    assert main(["quantize", src, str(tmp_path / "x.gguf"), "q8_0", "2"]) == 0
    out = capsys.readouterr().out
    assert "F32 > Q8_0" in out and "bits per weight" in out
    options = ["--dry-run", "--json", "--tensor-type", "attn_v=f16", "--max-memory", "8M"]
    assert main(["quantize", src, dst, "Q8_0", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {t["name"]: t["type"] for t in report["tensors"]}["blk.0.attn_v.weight"] == "F16" and report["dry_run"]
    for arguments, code, problem in (
        ([src, dst, "Q9_9"], 1, "unknown type 'Q9_9'; did you mean Q"),
        ([str(tmp_path / "none.gguf"), dst, "Q8_0"], 1, "No such file"),
        ([src, dst, "Q8_0", "--tensor-type", "attn_v"], 2, "expected NAME=TYPE"),
        ([src, dst, "Q8_0", "--max-memory", "x"], 2, "expected a size"),
        ([src, dst, "Q8_0", "--purr"], 2, "did you mean --pure"),
    ):
        assert main(arguments, verb="quantize") == code
        assert problem in capsys.readouterr().err
    assert not Path(dst).exists()
