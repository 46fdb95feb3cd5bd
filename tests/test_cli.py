"""The command line: verbs, suggestions, JSON, exit codes, Ctrl-C."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmq.cli import main, verbs
from llmq.cli._common import speed_line
from llmq.results import Timings, Usage

STORYTELLER = str(Path(__file__).parent.parent / "models" / "storyteller")


def llmq(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "llmq", *args], input=stdin, capture_output=True, text=True, check=False)


def test_every_verb_has_help_and_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"run", "chat", "ppl", "doctor"} <= set(verbs())
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for verb in verbs():
        assert f"  {verb} " in overview
        assert main([verb, "--help"]) == 0
        assert "--json" in capsys.readouterr().out
        done = subprocess.run([sys.executable, "-m", f"llmq.{verb}", "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.startswith(f"usage: llmq {verb}")
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("llmq ")
    assert main([]) == 2


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["rnu"], 2, "did you mean run?"),
        (["run", "m", "p", "--temprature", "1"], 2, "did you mean --temperature?"),
        (["run", "m", "p", "q"], 2, "unknown argument 'q'"),
        (["run", "none.gguf", "--top-k", "4", "p"], 1, "none.gguf"),  # options may stand anywhere
        (["run", "m", "p", "--top-k", "many"], 2, "--top-k"),
        (["run", "none.gguf", "p"], 1, "none.gguf"),
        (["run", STORYTELLER, "p", "--top-p", "3"], 1, "top_p: 0.0 to 1.0 expected"),
        (["chat", STORYTELLER], 1, "no chat template"),
        (["ppl", STORYTELLER, "no-such.txt"], 1, "no-such.txt"),
        (["ppl", STORYTELLER, STORYTELLER + "/config.json", "--ctx", "1024"], 1, "at least one chunk of 1024"),
        (["zzz"], 2, "unknown verb 'zzz'. There are: bench"),
        (["bench", STORYTELLER, "--peer-python", sys.executable], 1, "--compare"),
        (["tokenize", STORYTELLER, "5 4096", "--decode"], 1, "token ids 0..4095 expected, found 4096"),
        (["tokenize", STORYTELLER, "--decode", "--no-special", "5"], 1, "are for texts"),
        (["tokenize", STORYTELLER, "--decode", "--ids", "5"], 2, "not allowed with"),
        (["run", STORYTELLER, "caf\udce9"], 1, "UTF-8 text expected, found b'caf\\xe9'"),
        (["imatrix", STORYTELLER, STORYTELLER + "/config.json", STORYTELLER], 1, "the destination is a folder"),
        (["imatrix", STORYTELLER, STORYTELLER + "/config.json", STORYTELLER + "/config.json"], 1, "one of the source's files"),
        (["tokenize", STORYTELLER, "caf\udce9"], 1, "UTF-8 text expected, found b'caf\\xe9'"),
        (["export", STORYTELLER, STORYTELLER + "/config.json"], 1, "a file has the name of the folder"),
        (["quantize", STORYTELLER, "x.gguf", "Q4_0", "--output-type", "zzz"], 1, "unknown type 'zzz'. Types: F32"),
        (["quantize", STORYTELLER, "x.gguf", "Q4_0", "--max-memory", "9K"], 1, "KiB needed, 9 KiB available"),
    ],
)
def test_what_is_wrong_is_one_line(args: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == code
    errors = capsys.readouterr().err
    assert message in errors.splitlines()[-1] and "Traceback" not in errors


def test_an_unknown_level_is_one_line() -> None:
    """LLMQ_ISA is read before any verb runs."""
    for args in (["doctor"], ["--help"]):
        done = subprocess.run([sys.executable, "-m", "llmq", *args], env={**os.environ, "LLMQ_ISA": "mmx"}, capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert done.returncode == 1 and done.stderr.startswith("llmq: unknown instruction set level 'mmx'")


def test_errors_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "none.gguf", "p", "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["type"] == "FileNotFoundError"


def test_run_streams_and_reports_its_speed() -> None:
    args = ["run", STORYTELLER, "The captain", "--max-tokens", "8", "--seed", "3"]
    text = llmq(*args)
    assert text.returncode == 0 and text.stdout.startswith("The captain") and "tokens/s" in text.stderr
    found = json.loads(llmq(*args, "--json").stdout)
    assert text.stdout == "The captain" + found["text"] + "\n"
    assert found["usage"]["completion_tokens"] == len(found["tokens"]) == 8 and found["seed"] == 3
    piped = llmq("run", STORYTELLER, "-", "--no-echo", "--max-tokens", "8", "--seed", "3", stdin="The captain\n")
    assert piped.stdout == found["text"] + "\n"
    reference = llmq(*args, "--engine", "reference", "--ctx", "64", "--temp", "0")
    assert reference.returncode == 0 and reference.stdout.startswith("The captain")


def test_run_without_a_model_uses_the_embedded_one() -> None:
    done = llmq("run", "Once", "--max-tokens", "3")
    assert done.returncode == 0 and done.stdout.startswith("Once")


def test_chat_from_a_pipe(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    args = ["chat", STORYTELLER, "--chat-template", str(template), "--max-tokens", "5", "--seed", "1"]
    done = llmq(*args, "--json", stdin="Hello\n\n/reset\nHello\n/exit\nnot read\n")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["message"] == second["message"] and first["message"]["role"] == "assistant"
    text = llmq(*args, stdin="Hello\n/nonsense\n")
    assert text.stdout == first["text"] + "\n" and "unknown command /nonsense" in text.stderr


def test_ppl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text("It was the best of times, it was the worst of times, it was the age of wisdom. " * 20)
    assert main(["ppl", STORYTELLER, str(text), "--ctx", "64", "--chunks", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chunks"] == 3 and found["scored_tokens"] == 3 * 31 and 1 < found["value"] < 300
    assert main(["ppl", STORYTELLER, str(text), "--ctx", "64", "--chunks", "3"]) == 0
    assert f"{found['value']:.4f} ± {found['error']:.4f}" in capsys.readouterr().out
    text.write_bytes(b"abc\xff")
    assert main(["ppl", STORYTELLER, str(text)]) == 1
    assert "byte 0xff at 3" in capsys.readouterr().err


def test_help_tells_the_defaults_that_hold(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("ppl", "kld", "imatrix"):
        assert main([verb, "--help"]) == 0
        assert "(default: 512)" in capsys.readouterr().out.split("--ctx N ")[1].split("--")[0]
    assert main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "\n  llmq run model.gguf" in shown and "\n  llmq run \"Once" in shown  # one under the other


def test_speeds_that_were_not_measured_are_not_shown() -> None:
    assert speed_line(Usage(2, 0, 0), Timings()) == "2 prompt tokens, 0 generated"
    line = speed_line(Usage(2, 5, 1), Timings(ttft=0.5, tpot=0.5, prompt_tps=4.0, gen_tps=2.0))
    assert line == "2 prompt tokens (1 reused) at 4.0 tokens/s, 5 generated at 2.0 tokens/s, first token after 500 ms"


def test_streams_that_are_closed_or_know_few_characters() -> None:
    command = f"{sys.executable} -m llmq tokenize {STORYTELLER}"
    closed = subprocess.run(["sh", "-c", f"{command} - <&-; {command} hé >&-"], capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command.split(), "é"], capture_output=True, text=True, check=False, env=ascii_only)
    assert done.returncode == 0 and "'\\xe9'" in done.stdout


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--families", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "mixtral" in facts["families"]["llama"] and facts["cpu"]["cores"] >= 1 and facts["memory_available"] > 0
    assert main(["doctor", "--families"]) == 0
    shown = capsys.readouterr().out
    assert all(slot in shown for slot in facts["cpu"]["slots"]) and facts["cpu"]["isa"] in shown


def test_ctrl_c_while_a_verb_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["doctor"]) == 130


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_ctrl_c_ends_cleanly(engine: str) -> None:
    command = [sys.executable, "-u", "-m", "llmq", "run", STORYTELLER, "Once upon a time", "--ignore-eos", "--engine", engine]
    command += ["--ctx", "20000"]  # it will not have ended before
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 100)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in errors


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m llmq run {STORYTELLER} 'Once upon a time' --max-tokens 100 --ignore-eos | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "O" and "Traceback" not in done.stderr and "Error" not in done.stderr
