"""Writes unicode.inc: the Unicode 16.0 tables of the tokenizers, as C literals.

    python csrc/text/unicode_tables.py > csrc/text/unicode.inc

Needs a Python whose `unicodedata` is version 16.0.0 (Python 3.14) or the package unicodedata2==16.0.0. The version is the one
of the regular-expression engine inside Hugging Face `tokenizers` 0.20 to 0.23, whose splits the scanners reproduce; letters
that Unicode adds later are unassigned here as they are there.
"""

from __future__ import annotations

import sys

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


def main() -> None:
    if ucd.unidata_version != "16.0.0":
        sys.exit(f"unicode_tables.py needs Unicode 16.0.0, this Python has {ucd.unidata_version}; install unicodedata2==16.0.0")
    sys.stdout.write("/* Unicode 16.0.0. Written by unicode_tables.py; do not edit. */\n\n" + classes())


if __name__ == "__main__":
    main()
