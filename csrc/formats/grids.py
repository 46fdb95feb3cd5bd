"""Writes grids.inc: the grids of the IQ1, IQ2 and IQ3 types, taken from the gguf package, as C tables (see grid.h).

    python csrc/formats/grids.py FILE

setup.py runs it; the file belongs to the build and is not kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from gguf import quants

# IQ1_M has the grid of IQ1_S.
TYPES = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")


def points(kind: type) -> tuple[int, np.ndarray]:
    """The bits of a place, 2 or 4, and each point as 16 bits of places, the first weight's lowest."""
    kind.init_grid()
    values = kind.grid.reshape(kind.grid_shape)
    places = np.searchsorted(kind.grid_map, values).astype(np.uint16)
    bits = 16 // values.shape[1]
    packed = np.bitwise_or.reduce(places << np.arange(0, 16, bits, dtype=np.uint16), axis=1)
    if not np.all(np.diff(packed.astype(np.int64)) > 0):
        raise SystemExit(f"grids.py: the points of {kind.__name__} in this gguf package do not ascend")
    return bits, packed


def numbers(values: list[int]) -> str:
    return "\n".join("    " + " ".join(f"{v}," for v in values[i : i + 16]) for i in range(0, len(values), 16))


def table(name: str) -> str:
    kind = getattr(quants, name)
    bits, packed = points(kind)
    lists = {"point": packed, "first": np.searchsorted(packed, np.arange(257) << 8)}
    lower = name.lower()
    text = "".join(
        f"static const uint16_t {lower}_{key}[] = {{\n{numbers([int(v) for v in values])}\n}};\n"
        for key, values in lists.items()
    )
    levels = ", ".join(map(str, kind.grid_map))
    return (
        f"{text}const llmq_grid llmq_grid_{lower} = {{\n"
        f"    .bits = {bits}, .places = {len(kind.grid_map)}, .points = {len(packed)},\n"
        f"    .point = {lower}_point, .first = {lower}_first, .level = {{{levels}}},\n}};\n"
    )


def main(path: Path) -> None:
    text = "/* Made by csrc/formats/grids.py from the gguf package. */\n" + "\n".join(table(name) for name in TYPES)
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
