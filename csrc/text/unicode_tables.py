"""Writes unicode.inc and normalize.inc: the Unicode 16.0 tables of the tokenizers, as C literals.

    python csrc/text/unicode_tables.py

Needs a Python whose `unicodedata` is version 16.0.0 (Python 3.14) or the package unicodedata2==16.0.0. The version is the one
of the regular-expression engine inside Hugging Face `tokenizers` 0.20 to 0.23, whose splits the scanners reproduce; letters
that Unicode adds later are unassigned here as they are there.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

try:
    import unicodedata2 as ucd
except ImportError:
    import unicodedata as ucd

CATEGORIES = (
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No"),
    *("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So"),
    *("Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"),
)
SPACE_CONTROLS = (9, 10, 11, 12, 13, 0x85)  # category Cc, but White_Space: a class of their own, the last
BLOCK = 64
# Capitals that Unicode 15.0 to 16.0 added and an older Python's str.lower does not know.
LATER_CAPITALS = {0x1C89: 0x1C8A, 0xA7CB: 0x264, 0xA7CC: 0xA7CD, 0xA7DA: 0xA7DB, 0xA7DC: 0x19B}
LATER_CAPITALS |= {cp: cp + 0x20 for cp in range(0x10D50, 0x10D66)}
END = 0x33400  # of the table; the few assigned ranges above it stand in unicode.h


def letter_of(cp: int) -> str:
    index = len(CATEGORIES) if cp in SPACE_CONTROLS else CATEGORIES.index(ucd.category(chr(cp)))
    return chr(ord("A") + index)


def literal(text: str, width: int = 120) -> str:
    rows = [text[i : i + width] for i in range(0, len(text), width)]
    return "\n".join('    "' + row.replace("\\", "\\\\") + '"' for row in rows)


def numbers(values: list[int], width: int = 128) -> str:
    rows, row = [], "   "
    for value in values:
        item = f" {value},"
        if len(row) + len(item) > width:
            rows.append(row)
            row = "   "
        row += item
    return "\n".join([*rows, row])


def wrapped(items: Iterable[str]) -> str:
    return textwrap.indent("\n".join(textwrap.wrap(" ".join(items), 124)), "    ")


def classes() -> str:
    ascii_bits = [1 << ord(letter_of(cp)) - ord("A") for cp in range(128)]
    blocks: dict[str, int] = {}
    index = []
    for start in range(0, END, BLOCK):
        block = "".join(letter_of(cp) for cp in range(start, start + BLOCK))
        index.append(blocks.setdefault(block, len(blocks)))
    return (
        f"enum {{ UNICODE_BLOCK = {BLOCK}, UNICODE_END = {END:#x} }};\n\n"
        f"const uint32_t unicode_class_ascii[128] = {{\n{numbers(ascii_bits)}\n}};\n\n"
        "/* class of a code point: unicode_class[unicode_index[cp / 64] * 64 + cp % 64] - 'A', in the order of unicode.h */\n"
        f"static const uint16_t unicode_index[{len(index)}] = {{\n{numbers(index)}\n}};\n\n"
        f"static const char unicode_class[] =\n{literal(''.join(blocks))};\n"
    )


def decompositions() -> dict[int, list[int]]:
    """Canonical decompositions in one step; Hangul syllables follow a formula and are left out."""
    steps = {}
    for cp in range(0x110000):
        text = ucd.decomposition(chr(cp))
        if text and not text.startswith("<"):
            steps[cp] = [int(part, 16) for part in text.split()]
    return steps


def normalization() -> str:
    steps = decompositions()
    parted = wrapped(f"{{{cp:#x},{parts[0]:#x},{[*parts, 0][1]:#x}}}," for cp, parts in sorted(steps.items()))
    composed = sorted((parts, cp) for cp, parts in steps.items() if ucd.normalize("NFC", chr(cp)) == chr(cp))
    seconds = sorted({parts[1] for parts, _ in composed if not ucd.combining(chr(parts[1]))})
    order = numbers([sorted(steps).index(cp) for _, cp in composed])
    combining: list[list[int]] = []  # first, last, class
    for cp in range(0x110000):
        value = ucd.combining(chr(cp))
        if value and combining and combining[-1][1:] == [cp - 1, value]:
            combining[-1][1] = cp
        elif value:
            combining.append([cp, cp, value])
    marks = wrapped(f"{{{first:#x},{last:#x},{value}}}," for first, last, value in combining)
    return (
        "/* canonical decomposition in one step: code point, first part, second part or 0 */\n"
        f"static const uint32_t unicode_decomposition[{len(steps)}][3] = {{\n{parted}\n}};\n\n"
        "/* the rows above that compose again, in the order of (first part, second part) */\n"
        f"static const uint16_t unicode_composition[{len(composed)}] = {{\n{order}\n}};\n\n"
        "/* second parts whose combining class is 0 */\n"
        f"static const uint32_t unicode_second[{len(seconds)}] = {{\n{numbers(seconds)}\n}};\n\n"
        "/* canonical combining class, where it is not 0: first, last, class */\n"
        f"static const uint32_t unicode_combining[{len(combining)}][3] = {{\n{marks}\n}};\n"
    )


def lower_case() -> str:
    """Runs of capitals at one distance from their small letters; U+0130, which becomes two characters, stands in
    normalize.c."""
    runs: list[list[int]] = []  # first, last, step, distance
    for cp in range(0x110000):
        small = LATER_CAPITALS.get(cp) or ord(chr(cp).lower()[0])
        if cp in (small, 0x130):
            continue
        distance = small - cp
        last = runs[-1] if runs else [0, 0, 0, 0]
        step = cp - last[1]
        if last[3] == distance and step in (1, 2) and (last[0] == last[1] or last[2] == step):
            last[1:3] = [cp, step]
        else:
            runs.append([cp, cp, 1, distance])
    rows = wrapped(f"{{{first:#x},{last:#x},{step},{distance}}}," for first, last, step, distance in runs)
    return (
        "/* lower case: first, last, step, distance to the small letter */\n"
        f"static const int32_t unicode_lower[{len(runs)}][4] = {{\n{rows}\n}};\n"
    )


def main() -> None:
    if ucd.unidata_version != "16.0.0":
        sys.exit(f"unicode_tables.py needs Unicode 16.0.0, this Python has {ucd.unidata_version}; install unicodedata2==16.0.0")
    here = Path(__file__).parent
    for name, text in (("unicode.inc", classes()), ("normalize.inc", normalization() + "\n" + lower_case())):
        (here / name).write_text(f"/* Unicode 16.0.0. Written by unicode_tables.py; do not edit. */\n\n{text}")


if __name__ == "__main__":
    main()
