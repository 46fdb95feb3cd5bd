"""Make tests/data/tokenizers.json.xz with Hugging Face `tokenizers` (which the package and its tests never import).

    python tests/tools/make_tokenizer_goldens.py [SEED COUNT]      20 and 300 are what is committed

Seeded texts of hostile Unicode, and for each: where every known pre-tokenizer cuts it, built from the definitions in
llmq/text/hf_pipelines.py, and the ids that the vocabularies of tests/data/vocab give with models built from them. The
characters are those of Unicode 3.2 and some emoji: about later ones the libraries disagree among themselves.
"""

from __future__ import annotations

import json
import lzma
import random
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from llmq.text.hf_pipelines import _STEPS  # noqa: E402

VOCAB = ROOT / "tests" / "data" / "vocab"
SPACE = "\u2581"
POOLS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " ", " \t\n\r\x0b\x0c", "'",
    ".,!?;:-_()[]{}<>/\\|@#$%^&*+=~`\"", "éèüßñçøåÄÖİıſK\u212aΣςσ", "приветмирЁё", "你好世界日本語한국어ひらがなカタカナ",
    "العربيةעברית", "हिन्दीবাংলাไทย", "😀🚀\u200d👨👧🇺🇸✅", "\u0301\u0308\u0323\u0300\u0338\u0345", "½²³¼①ⅧⅣ３४๓〇",
    "\u00a0\u2003\u2028\u2029\u3000\u1680\u0085\u200b\ufeff\u00ad", "ǅᾼʰˇー", "ﬁﬀŁ㎏℃™Å豈가각",
    "\x01\x7f\u009f\ue000\ufffd", "∑∞€£¥©®°",
]  # fmt: skip
WORDS = ["the", "of", "and", "that", "was", "with", "I'm", "you're", "he'll", "we've", "they'd", "don't", "IT'S", "'tis"]


def text(rng: random.Random) -> str:
    out = []
    for _ in range(rng.choice([1, 2, 3, 5, 8, 13, 30])):
        kind = rng.random()
        if kind < 0.3:
            out.append(rng.choice(WORDS) + rng.choice([" ", "  ", "\n", ""]))
        elif kind < 0.9:
            pool = rng.choice(POOLS)
            out.append("".join(rng.choice(pool) for _ in range(rng.choice([1, 1, 2, 3, 7]))))
        else:
            low, high = rng.choice([(0x20, 0x250), (0x250, 0x3100), (0x3100, 0xD800)])
            character = chr(rng.randrange(low, high))
            if unicodedata.ucd_3_2_0.category(character) != "Cn":
                out.append(character * rng.choice([1, 1, 2]))
    return "".join(out)


def pre_tokenizer(steps: tuple[str, ...]) -> Any:
    named = {
        "gpt-2 words": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        "digits": pre_tokenizers.Digits(individual_digits=True),
        "digit runs": pre_tokenizers.Digits(individual_digits=False),
        "punctuation contiguous": pre_tokenizers.Punctuation("contiguous"),
    }
    split = "split isolated "
    made = [named.get(step) or pre_tokenizers.Split(Regex(step.removeprefix(split)), "isolated") for step in steps]
    return pre_tokenizers.Sequence(made)


def metadata(name: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(lzma.decompress((VOCAB / f"{name}.gguf.xz").read_bytes()))
        file.flush()
        fields = gguf.GGUFReader(file.name).fields
        return {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}


def byte_level(name: str, steps: tuple[str, ...], *, nfc: bool, ignore_merges: bool) -> Tokenizer:
    data = metadata(name)
    plain = {token: id for id, token in enumerate(data["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in data["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(plain, merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer(steps)
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    """Llama 2's vocabulary with the merges that Hugging Face derives from its scores, and special tokens that strip."""
    data = metadata("llama-spm")
    tokens, scores, types = (data[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    ids = {token: id for id, token in enumerate(tokens)}
    parts = [
        (scores[id], len(token[:cut]), len(token[cut:]), -ids[token[:cut]], token[:cut], token[cut:])
        for token, id in ids.items()
        for cut in range(1, len(token))
        if types[id] == 1 and token[:cut] in ids and token[cut:] in ids
    ]
    merges = [(row[4], row[5]) for row in sorted(parts, reverse=True)]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def wordpiece(lowercase: bool) -> Tokenizer:
    data = metadata("bert-bge")
    ids = {}
    for id, (token, kind) in enumerate(zip(data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"], strict=True)):
        plain = kind == 3 or token.startswith("[unused")
        ids[token if plain else token[1:] if token.startswith(SPACE) else "##" + token] = id
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    return tokenizer


def main() -> None:
    seed, count = map(int, sys.argv[1:] or (20, 300))
    rng = random.Random(seed)
    texts = [text(rng) for _ in range(count)]
    cuts = {}
    for name, steps in _STEPS:
        if name in cuts:
            continue
        cut = pre_tokenizer(steps)
        cuts[name] = [[len(word) for word, _ in cut.pre_tokenize_str(text)] for text in texts]  # a character is a byte by now
    steps = dict(reversed(_STEPS))
    tokenizers = {
        "gpt-2": byte_level("gpt-2", steps["gpt-2"], nfc=False, ignore_merges=False),
        "llama-bpe": byte_level("llama-bpe", steps["llama-bpe"], nfc=False, ignore_merges=True),
        "qwen2": byte_level("qwen2", steps["qwen2"], nfc=True, ignore_merges=False),
        "llama-spm": sentencepiece_bpe(),
        "bert-bge": wordpiece(True),
        "bert-bge cased": wordpiece(False),
        "storyteller": Tokenizer.from_file(str(ROOT / "models" / "storyteller" / "tokenizer.json")),
    }
    ids = {name: [made.encode(text, add_special_tokens=False).ids for text in texts] for name, made in tokenizers.items()}
    data = json.dumps({"texts": texts, "cuts": cuts, "ids": ids}, ensure_ascii=False, separators=(",", ":")).encode()
    (ROOT / "tests" / "data" / "tokenizers.json.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
