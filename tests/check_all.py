"""The long checks behind `make check-all`: every instruction set, sanitizers, emulated kernels, cross compilation, fuzzing.

Each check works in a copy of the tree, so that no build disturbs another. A check whose tool is missing is reported as not
run, with the reason; any failure makes the whole fail. Usage: python tests/check_all.py [NAME ...]; without names all run.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SANITIZED = "-O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all"
# Bodies are inlined whole into each of their kernels and take minutes with these checks, which add little there: a pointer that
# is null or past its object ends at AddressSanitizer's guards.
BODIES = "-fno-sanitize=null,object-size,pointer-overflow"
CHECKS: dict[str, Callable[[Path], None]] = {}


class NotRunError(Exception):
    """The check cannot run here; the message says why."""


def check(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CHECKS[function.__name__] = function
    return function


def run(tree: Path, *command: str, **env: str) -> None:
    print("+", *(f"{k}={v!r}" for k, v in env.items()), *command, flush=True)  # noqa: T201
    subprocess.run(command, cwd=tree, env={**os.environ, **env}, check=True)


def build(tree: Path, **env: str) -> None:
    run(tree, sys.executable, "setup.py", "-q", "build_ext", "--inplace", **env)


def pytest(tree: Path, *arguments: str, **env: str) -> None:
    run(tree, sys.executable, "-m", "pytest", *arguments, PYTHONPATH=str(tree), **env)


def paths(tree: Path, pattern: str) -> list[str]:
    return [str(path) for path in tree.glob(pattern)]


def gcc_library(name: str) -> str:
    path = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=False).stdout.strip()
    if not Path(path).is_absolute():
        raise NotRunError(f"gcc has no {name}")
    return path


@check
def every_level(tree: Path) -> None:
    """The whole suite on each instruction set level this machine has."""
    build(tree)
    ask = [sys.executable, "-c", "import llmq; print(*llmq.cpu_info()['levels'])"]
    levels = subprocess.run(ask, cwd=tree, capture_output=True, text=True, check=True).stdout.split()
    for level in levels:
        pytest(tree, "tests", LLMQ_ISA=level)


@check
def address_and_undefined(tree: Path) -> None:
    """The suite under AddressSanitizer and UndefinedBehaviorSanitizer."""
    flags = "-fsanitize=address,undefined"
    preload = " ".join(gcc_library(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so"))
    build(tree, CC="gcc", LLMQ_CFLAGS=f"{SANITIZED} {flags}", LLMQ_BODY_CFLAGS=BODIES, LLMQ_LDFLAGS=flags)
    options = "detect_leaks=0:allocator_may_return_null=1"
    pytest(tree, "tests", LD_PRELOAD=preload, ASAN_OPTIONS=options, UBSAN_OPTIONS="print_stacktrace=1")


@check
def threads(tree: Path) -> None:
    """The pool, the engine and the sessions under ThreadSanitizer."""
    preload = gcc_library("libtsan.so")
    build(tree, CC="gcc", LLMQ_CFLAGS=f"{SANITIZED} -fsanitize=thread", LLMQ_LDFLAGS="-fsanitize=thread")
    wanted = [f"tests/test_{name}.py" for name in ("threads", "engine_native", "products", "moe", "recurrent", "session")]
    # NumPy's BLAS is not instrumented, so it must not have threads of its own; -s shows the report before the process ends
    options = "halt_on_error=1:die_after_fork=0"
    pytest(tree, "-s", *wanted, LD_PRELOAD=preload, TSAN_OPTIONS=options, OPENBLAS_NUM_THREADS="1")


@check
def emulated(tree: Path) -> None:
    """AVX-512, VNNI, BF16 and AMX bodies against the scalar tier on any x86-64, through SIMDe and an emulation of tiles."""
    if not Path("/usr/include/simde").exists():
        raise NotRunError("SIMDe is not installed (Debian: apt-get install libsimde-dev)")
    run(tree, sys.executable, "tests/emulate/run.py", PYTHONPATH=str(tree))


@check
def aarch64(tree: Path) -> None:
    """Everything outside the x86 bodies compiles for aarch64 without warnings, and its kernels agree under qemu."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        raise NotRunError("no cross compiler or emulator (Debian: apt-get install gcc-aarch64-linux-gnu qemu-user)")
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-strict-aliasing", "-Icsrc"]
    flags += ["-DLLMQ_HAVE_NEON=1", "-DLLMQ_HAVE_NEONI8MM=1", "-Imade"]
    levels = {"neon": "-march=armv8.2-a+dotprod", "neoni8mm": "-march=armv8.2-a+dotprod+i8mm"}
    run(tree, sys.executable, "csrc/formats/grids.py", "made/grids.inc")
    objects = []
    for source in sorted([*tree.glob("csrc/**/*.c"), tree / "tests" / "emulate" / "kernels.c"]):
        isa = source.stem.split("_")[0] if source.parent.name == "isa" else ""
        if isa.startswith(("avx", "amx")):
            continue
        own = [levels[isa]] if isa in levels else []
        objects.append(str(tree / f"{source.parent.name}-{source.stem}.o"))
        run(tree, compiler, *flags, *own, "-c", str(source.relative_to(tree)), "-o", objects[-1])
    run(tree, compiler, "-static", *objects, "-o", "kernels", "-lm", "-pthread")
    run(tree, emulator, "-cpu", "max", "./kernels", *levels)


@check
def wheel(tree: Path) -> None:
    """The source distribution makes a wheel that works in an environment of its own."""
    run(tree, sys.executable, "setup.py", "-q", "sdist", "-d", "dist")
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", "dist"]
    run(tree, sys.executable, "-m", "pip", "wheel", *options, *paths(tree, "dist/*.tar.gz"))
    run(tree, sys.executable, "-m", "venv", "dist/venv")
    run(tree, "dist/venv/bin/pip", "install", "-q", *paths(tree, "dist/*.whl"))
    run(tree / "dist", "venv/bin/llmq", "run", "It was a dark and stormy night", "--max-tokens", "20")


@check
def fuzz(tree: Path) -> None:
    """Mutated GGUF, safetensors, tokenizer and template inputs, some minutes in all; LLMQ_FUZZ_SECONDS for each."""
    build(tree)
    pytest(tree, "tests", "-k", "fuzz", LLMQ_FUZZ_SECONDS=os.environ.get("LLMQ_FUZZ_SECONDS", "120"))


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in CHECKS]
    if unknown or platform.system() != "Linux":
        print(f"unknown checks {unknown}; on Linux there are {', '.join(CHECKS)}", file=sys.stderr)  # noqa: T201
        return 2
    outcome: dict[str, str] = {}
    skipped = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "__pycache__", "out", "_native.c", "_text.c")
    for name in names or CHECKS:
        print(f"== {name}: {CHECKS[name].__doc__}", flush=True)  # noqa: T201
        with tempfile.TemporaryDirectory(prefix=f"llmq-{name}-") as folder:
            tree = Path(folder, "tree")
            shutil.copytree(ROOT, tree, ignore=skipped)
            try:
                CHECKS[name](tree)
                outcome[name] = "passed"
            except NotRunError as reason:
                outcome[name] = f"not run: {reason}"
            except subprocess.CalledProcessError as error:
                outcome[name] = f"FAILED: {error}"
    for name, result in outcome.items():
        print(f"{name:24} {result}")  # noqa: T201
    return any(result.startswith("FAILED") for result in outcome.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
