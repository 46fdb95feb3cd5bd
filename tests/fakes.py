"""A model without weights: an engine whose logits depend on every token before them, and a tokenizer of bytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np

from llmq.engine.base import Batch, check_batch
from llmq.errors import ModelClosedError

BOS, EOS, N_VOCAB = 256, 257, 260


def logits_after(tokens: Sequence[int]) -> np.ndarray:
    """float32 (N_VOCAB,): random, but the same for the same tokens. Likely are lower-case letters, EOS now and then."""
    rng = np.random.default_rng(zlib.crc32(np.array(tokens, np.int32).tobytes()))
    logits = rng.standard_normal(N_VOCAB, np.float32) * 2
    logits[97:123] += 6
    logits[EOS] += 3
    return logits


class FakeEngine:
    """Keeps the rules of `Engine` and what was asked of it: `batches`, `computed` tokens. `before` is called with each
    batch."""

    n_vocab = N_VOCAB

    def __init__(self, n_ctx: int = 512, before: Callable[[Batch], None] | None = None) -> None:
        self.n_ctx = n_ctx
        self.before = before
        self.batches: list[Batch] = []
        self.closed = 0
        self._tokens: dict[int, list[int]] = {}
        self._next = 0
        self._busy = False

    @property
    def computed(self) -> int:
        return sum(len(b.tokens) for b in self.batches)

    @property
    def sequences(self) -> int:
        return len(self._tokens)

    def _of(self, seq: int) -> list[int]:
        if self.closed:
            raise ModelClosedError("the engine was closed")
        if seq not in self._tokens:
            raise ValueError(f"no sequence has the id {seq}")
        return self._tokens[seq]

    def new_sequence(self) -> int:
        self._next += 1
        self._tokens[self._next] = []
        return self._next

    def length(self, seq: int) -> int:
        return len(self._of(seq))

    def kept(self, seq: int, length: int) -> int:
        assert 0 <= length <= self.length(seq)
        return length

    def truncate(self, seq: int, length: int) -> int:
        del self._of(seq)[self.kept(seq, length) :]
        return self.length(seq)

    def fork(self, seq: int, length: int) -> int:
        assert 0 <= length <= self.length(seq)
        new = self.new_sequence()
        self._tokens[new] = self._of(seq)[:length]
        return new

    def free_sequence(self, seq: int) -> None:
        self._of(seq)
        del self._tokens[seq]

    def run(self, batch: Batch) -> np.ndarray:
        assert not self._busy, "two threads run the engine at once"
        self._busy = True
        try:
            check_batch(batch, {seq: len(tokens) for seq, tokens in self._tokens.items()}, self.n_vocab, self.n_ctx)
            if self.before is not None:
                self.before(batch)
            out = []
            for t, (token, seq) in enumerate(zip(batch.tokens.tolist(), batch.sequences.tolist(), strict=True)):
                self._of(seq).append(token)
                if t in batch.outputs:
                    out.append(logits_after(self._of(seq)))
            self.batches.append(batch)
            return np.array(out, np.float32).reshape(len(out), self.n_vocab)
        finally:
            self._busy = False

    def close(self) -> None:
        self.closed += 1
        self._tokens.clear()

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class FakeTokenizer:
    """Token i < 256 is byte i; then BOS, EOS and unused special ids."""

    n_vocab = N_VOCAB
    bos_id, eos_id = BOS, EOS
    add_bos, add_eos, add_space_prefix = True, False, False
    stop_ids = frozenset({EOS})
    unk_id = pad_id = None

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template
        self.chat_templates: dict[str, str] = {}

    def token(self, id: int) -> str:
        return chr(id) if id < 256 else f"<{id}>"

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        ids = list(text.encode())
        return [BOS, *ids] if add_special else ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < 256 else b""

    def is_special(self, id: int) -> bool:
        return id >= 256
