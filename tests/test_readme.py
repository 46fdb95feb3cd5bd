"""Every command and every piece of Python in README.md and the guides runs as printed, and `make demo` does what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "docs/python.md", "docs/files.md", "docs/add-a-family.md"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)


def command(line: str) -> list[str]:
    words = shlex.split(line)
    if words[0].endswith("llmq"):
        return [sys.executable, "-m", "llmq", *words[1:]]
    assert words[0].endswith("python"), line
    return [sys.executable, *words[1:]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("models", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> str:
    done = subprocess.run(command(line), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def commands(page: str) -> dict[str, str]:
    """Every command of a page with what it prints."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line]
    assert lines
    outputs = {line: run(line) for line in lines}
    assert all(outputs.values())
    return outputs


def test_commands_of_the_files_page(folder: Path) -> None:
    commands("docs/files.md")
    assert (folder / "story-folder" / "config.json").exists()


def test_commands(folder: Path) -> None:
    commands("README.md")
    embedded = ROOT / "llmq" / "data" / "storyteller-Q4_K_M.gguf"
    assert (folder / "story.gguf").read_bytes() == embedded.read_bytes(), "run `make embedded`"


def test_commands_of_the_guide_to_families(folder: Path) -> None:
    commands("docs/add-a-family.md")


@pytest.mark.parametrize("page", PAGES)
def test_python(page: str, folder: Path) -> None:
    source = "\n".join(blocks(page, "python"))
    assert "llmq.load" in source
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_demo(folder: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    lines = re.findall(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.M)[0].replace("$(BIN)/", "").split("\n\t")
    assert all(f"make {target}" in (ROOT / "README.md").read_text() for target in ("demo", "test"))
    story = [run(line.strip()) for line in lines][-1]
    assert story.startswith("It was a dark and stormy night")
    assert len(story.split()) > 60


def test_story_without_a_model(folder: Path) -> None:
    assert run('llmq run "It was a dark and stormy night" --max-tokens 5 --seed 1').startswith("It was a dark")
