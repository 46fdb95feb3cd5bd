"""Build of llmq: every file of csrc/ into llmq._native, the tokenizer into llmq._text.

Plain setuptools, with two additions: a body for one instruction set (csrc/isa/NAME_*.c) is compiled with the flags of
its set and no other file is (the wheel must run on every x86-64 machine), and object files are compiled in parallel and
kept while nothing they include has changed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")

# Flags of each body, by the first word of its file name; a set that the compiler does not know is left out of the build and
# `llmq doctor` says so.
ISA_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"],
    "neon": ["-march=armv8.2-a+dotprod"],
    "neoni8mm": ["-march=armv8.2-a+dotprod+i8mm"],
}
ISA_FLAGS["avx512vnni"] = [*ISA_FLAGS["avx512"], "-mavx512vnni"]
ISA_FLAGS["avx512bf16"] = [*ISA_FLAGS["avx512vnni"], "-mavx512bf16"]
ISA_FLAGS["amx"] = [*ISA_FLAGS["avx512bf16"], "-mavx512vbmi", "-mgfni", "-mamx-tile", "-mamx-int8", "-mamx-bf16"]
ISA_OF_MACHINE = [name for name in ISA_FLAGS if (ARM if name.startswith("neon") else X86)]

CFLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off", "-fno-strict-aliasing", "-pthread"]
WARNINGS = ["-Wall", "-Wextra"]

NO_COMPILER = """
llmq is C at heart and needs a C11 compiler (GCC 9+ or Clang 10+) to be built from source; {compiler!r} did not compile an empty
program. Install one (Debian/Ubuntu: apt-get install gcc; Fedora: dnf install gcc; macOS: xcode-select --install) or set CC, and
run the same command again."""
NO_PLATFORM = """
llmq supports Linux and macOS on 64-bit little-endian x86-64 and aarch64; this is {system} on {machine}. On Windows,
use WSL 2."""

GRIDS = "csrc/formats/grids.py"
NO_GRIDS = """
llmq's build takes the grids of the IQ types from the gguf package (pip install "gguf>=0.18"), and that failed:
{problem}"""


class BuildFailed(SystemExit):
    """Ends the installation with a sentence that says what to do."""


class BuildLlmq(build_ext):
    def build_extensions(self) -> None:
        self.parallel = None  # the C files are what takes time, and compile_all sees to them
        if os.name != "posix" or sys.byteorder != "little" or sys.maxsize < 2**32:
            raise BuildFailed(NO_PLATFORM.format(system=platform.system(), machine=platform.machine()))
        if not self.compiles([]):
            raise BuildFailed(NO_COMPILER.format(compiler=self.compiler.compiler[0]))
        have = [isa for isa in ISA_OF_MACHINE if self.compiles(ISA_FLAGS[isa])]
        self.defines = [f"-DLLMQ_HAVE_{isa.upper()}=1" for isa in have]
        self.made = self.make_grids()
        strict = ["-Werror"] if os.environ.get("LLMQ_WERROR") else []
        for ext in self.extensions:
            objects = self.compile_all([s for s in ext.sources if self.wanted(s, have)], strict)
            ext.sources = [s for s in ext.sources if not s.endswith(".c") or not s.startswith("csrc/")]
            ext.extra_objects = objects
            ext.extra_compile_args = [*CFLAGS, "-O1", "-g0", "-Icsrc"]  # glue: what must be fast is in csrc/
            ext.extra_link_args = ["-pthread", "-lm", *os.environ.get("LLMQ_LDFLAGS", "-Wl,-S").split()]  # -S: no debug symbols
        super().build_extensions()

    def compiles(self, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as tmp:
            source = Path(tmp, "probe.c")
            source.write_text("int main(void) { return 0; }\n")
            command = [*self.compiler.compiler_so, *flags, "-c", str(source), "-o", str(Path(tmp, "probe.o"))]
            try:
                return subprocess.run(command, capture_output=True, check=False).returncode == 0
            except OSError:
                return False

    def make_grids(self) -> Path:
        """Tables of the build, made from the gguf package; the folder they are in."""
        folder = Path(self.build_temp, "made")
        done = subprocess.run([sys.executable, GRIDS, folder / "grids.inc"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildFailed(NO_GRIDS.format(problem=done.stderr))
        return folder

    @staticmethod
    def wanted(source: str, have: list[str]) -> bool:
        path = Path(source)
        if path.suffix != ".c" or path.parts[:1] != ("csrc",):
            return False
        return path.parent.name != "isa" or path.stem.split("_")[0] in ("scalar", *have)

    def compile_all(self, sources: list[str], strict: list[str]) -> list[str]:
        # One worker per usable core; headers are few, so any newer header rebuilds everything.
        shared = [p for p in ROOT.glob("csrc/**/*") if p.suffix in (".h", ".def", ".inc")]
        newest = max(p.stat().st_mtime for p in [*shared, Path(__file__), self.made / "grids.inc"])
        codecs = max(p.stat().st_mtime for p in ROOT.glob("csrc/formats/*.c"))  # csrc/isa/*_codecs.c include these

        def compile_one(source: str) -> str:
            target = Path(self.build_temp, source).with_suffix(".o")
            last = max(newest, Path(source).stat().st_mtime, codecs if source.endswith("_codecs.c") else 0)
            if target.exists() and target.stat().st_mtime > last:
                return str(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            isa = Path(source).stem.split("_")[0] if Path(source).parent.name == "isa" else ""
            extra = os.environ.get("LLMQ_CFLAGS", "").split()
            extra += os.environ.get("LLMQ_BODY_CFLAGS", "").split() if isa else []
            flags = [*CFLAGS, *WARNINGS, *strict, *self.defines, *ISA_FLAGS.get(isa, []), *extra]
            include = ["-Icsrc", f"-I{self.made}"]
            command = [*self.compiler.compiler_so, *flags, *include, "-c", source, "-o", str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            sys.stderr.write(done.stderr)
            if done.returncode != 0:
                target.unlink(missing_ok=True)
                raise BuildFailed(f"llmq: the compiler refused {source}; its message stands above")
            return str(target)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2) as workers:
            return list(workers.map(compile_one, sources))


def extensions() -> list[Extension]:
    everything = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("csrc/**/*.c"))
    text = [s for s in everything if s.startswith("csrc/text/")]
    native = [s for s in everything if not s.startswith("csrc/text/")]
    headers = [GRIDS]
    headers += sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("csrc/**/*") if p.suffix in (".h", ".def", ".inc"))
    pxi = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("llmq/native/*.pxi"))
    return [
        Extension("llmq._native", ["llmq/_native.pyx", *native], include_dirs=["csrc"], depends=[*headers, *pxi, *native]),
        Extension("llmq._text", ["llmq/_text.pyx", *text], include_dirs=["csrc"], depends=[*headers, *text]),
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildLlmq})
