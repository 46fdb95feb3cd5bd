"""The rules of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from llmq.engine.base import Batch, check_batch


def batch(tokens: list[int], positions: list[int], sequences: list[int], outputs: list[int]) -> Batch:
    return Batch(*(np.array(column, np.int32) for column in (tokens, positions, sequences, outputs)))


def test_mixed_sequences_are_accepted() -> None:
    check_batch(batch([1, 2, 3, 0], [5, 0, 6, 1], [7, 9, 7, 9], [0, 3]), {7: 5, 9: 0}, n_vocab=4, n_ctx=7)
    check_batch(batch([1], [0], [0], []), {0: 0}, n_vocab=4, n_ctx=1)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (batch([], [], [], []), "at least one token"),
        (batch([4], [0], [0], [0]), "found 4 at index 0"),
        (batch([-1], [0], [0], [0]), "found -1"),
        (batch([1], [1], [0], [0]), "counting up from 0"),
        (batch([1, 1], [0, 0], [0, 0], [0]), "counting up from 0"),
        (batch([1], [0], [3], [0]), "no sequence has the id 3"),
        (batch([1] * 4, [0, 1, 2, 3], [0] * 4, [0]), "context of 3"),
        (batch([1, 1], [0, 1], [0, 0], [1, 0]), "ascending"),
        (batch([1, 1], [0, 1], [0, 0], [0, 0]), "ascending"),
        (batch([1, 1], [0, 1], [0, 0], [2]), "ascending"),
        (batch([1, 1], [0], [0, 0], [0]), "positions: 2 entries"),
        (Batch(np.zeros(1), np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(0, np.int32)), "int32 of one dimension"),
    ],
)
def test_broken_batches_are_refused(broken: Batch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_batch(broken, {0: 0}, n_vocab=4, n_ctx=3)
