"""The kernel tests on every x86-64 level, AVX-512 and AMX emulated. Run in a copy of the tree (tests/check_all.py makes one):
it replaces csrc/cpuid.c there and builds in place. Needs SIMDe and a CPU with AVX2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# The bodies are compiled against tests/emulate/immintrin.h; the last flags take back what setup.py adds for their level.
FLAGS = "-O1 -Itests/emulate -Wno-psabi -mno-avx512f -mno-gfni -mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
TESTS = [f"tests/test_{name}.py" for name in ("kernels", "engine_native", "products", "moe", "pack", "codecs")]


def main() -> None:
    shutil.copy(ROOT / "tests" / "emulate" / "cpuid.c", ROOT / "csrc" / "cpuid.c")
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=ROOT, env={**os.environ, "LLMQ_CFLAGS": FLAGS}, check=True)
    subprocess.run([sys.executable, "-m", "pytest", *TESTS], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


if __name__ == "__main__":
    main()
