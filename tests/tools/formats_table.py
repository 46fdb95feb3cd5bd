"""The table of docs/formats/README.md: every tensor type and what it loses, beside llama-quantize.

    python tests/tools/formats_table.py

writes it; test_codecs.py checks that it is current. llama-quantize's figures are those of tests/data/llama_codecs.npz.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from codec_cases import our_errors

from llmq.quant.recipes import NEEDS_IMATRIX
from llmq.quant.types import QuantType

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "formats" / "README.md"
PEER = ROOT / "tests" / "data" / "llama_codecs.npz"
HEAD = """\
# The tensor types

Made by `python tests/tools/formats_table.py`; a test checks that it is current.

A block is the least that a type stores; a row of a matrix is whole blocks. Each file of `csrc/formats/` that is named draws its
block to the bit. The errors are root mean square, relative to the weights, over every eighth 256 weights of the embedded model:
plain, and weighted by importances of columns that spread over two decades and that the encoder was given. `ratio` is that of
llmq to that of llama-quantize ({version}); below 1 is better. Types marked * are refused
without an importance matrix, as llama-quantize refuses them: their plain figures are with all importances equal.

| type | id | weights | bytes | bits/weight | plain | llama-quantize | ratio | weighted | llama-quantize | ratio | drawn in |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def drawn_in(qtype: QuantType) -> str:
    """The C file that draws the block."""
    return "float.c" if qtype.is_float else f"{qtype.name.lower()}.c"


def row(qtype: QuantType, theirs: np.ndarray | None) -> str:
    """The line of a type; `theirs`: llama-quantize's squared errors, plain and weighted (None for float types)."""
    star = "*" if qtype.name in NEEDS_IMATRIX else ""
    facts = [qtype.name + star, str(int(qtype)), str(qtype.block), str(qtype.block_bytes), f"{qtype.bits_per_weight:.4g}"]
    errors = []
    if theirs is not None:
        for mine, peer in zip(our_errors(qtype)["storyteller"], theirs, strict=True):
            errors += [f"{100 * math.sqrt(mine):.3g} %", f"{100 * math.sqrt(peer):.3g} %", f"{math.sqrt(mine / peer):.3f}"]
    return f"| {' | '.join([*facts, *(errors or [''] * 6), drawn_in(qtype)])} |\n"


def page() -> str:
    with np.load(PEER) as peer:
        at = peer["cases"].tolist().index("storyteller")
        rows = [row(t, None if t.is_float else peer[t.name][at]) for t in QuantType]
        return HEAD.format(version=peer["version"]) + "".join(rows)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
