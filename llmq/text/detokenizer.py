"""Text from tokens as they come: never half a character, never later than certain."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmq.text.tokenizer import Tokenizer

__all__ = ["Detokenizer"]


class Detokenizer:
    """Turns one sequence of token ids into text, piece by piece.

        detokenizer = Detokenizer(tokenizer)
        for id in ids:
            print(detokenizer.push(id), end="")
        print(detokenizer.finish())

    A character whose bytes are spread over several tokens comes with its last byte; bytes that can no longer become UTF-8 come
    as U+FFFD, as in `bytes.decode(errors="replace")`. The pieces together are what `Tokenizer.decode` gives for the same ids.

    `skip_special`: control tokens give no text. `at_start`: the ids begin a text (rather than continue a prompt), so the space
    that the tokenizer puts before a text is taken off again.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True, at_start: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._strip_space = at_start and tokenizer.leading_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that became certain with this token; often one word, "" inside a character."""
        if self._skip_special and self._tokenizer.is_special(id):
            return ""
        return self._text(self._tokenizer.token_bytes(id), final=False)

    def finish(self) -> str:
        """What was held back, after the last token: U+FFFD for an unfinished character. The detokenizer is then as new."""
        text = self._text(b"", final=True)
        self._decoder.reset()
        return text

    def _text(self, data: bytes, *, final: bool) -> str:
        text = self._decoder.decode(data, final)
        if self._strip_space and text:
            self._strip_space = False
            return text.removeprefix(" ")
        return text
