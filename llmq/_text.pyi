"""Types of the tokenizer extension (csrc/text)."""

import numpy as np
import numpy.typing as npt

class VocabError(ValueError): ...

def pre_tokenizers() -> dict[str, dict[str, bool]]: ...

class Vocab:
    def __init__(
        self,
        model: str,
        tokens: list[str],
        types: npt.NDArray[np.uint8],
        *,
        strips: npt.NDArray[np.uint8] | None = None,
        scores: npt.NDArray[np.float32] | None = None,
        merges: list[str] = ...,
        pre: str = "",
        nfc: bool = False,
        ignore_merges: bool = False,
        flags: int = 0,
        unk: int = -1,
    ) -> None: ...
    def __len__(self) -> int: ...
    def find(self, token: str) -> int: ...
    def token(self, id: int) -> str: ...
    def token_bytes(self, id: int) -> bytes: ...
    def decode(self, ids: list[int], hidden: int = 0) -> bytes: ...
    def encode(self, text: str, special: bool = False) -> list[int]: ...
