"""Any other pipeline of the `tokenizers` library, as it is: Gemma's, Unigram, WordPiece.

The library encodes and decodes. What it lacks is exact bytes: where each token stands for the same text wherever it is,
as where spaces are written ▁, they are read from the vocabulary; elsewhere they are those of the decoded text.
"""

from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import models

from fathom.tokenizer.bpe import (
    BYTE_TOKEN,
    NO_SPECIAL,
    NOWHERE,
    BPETokenizer,
    drops_first_space,
    joins_tokens,
    token_table,
)
from fathom.tokenizer.hf_library import library_errors, steps_of
from fathom.tokenizer.pieces import SPACE
from fathom.tokenizer.protocol import Special, check_ids


class LibraryTokenizer(BPETokenizer):
    """A tokenizer of the library with steps that no class here knows."""

    kind = "library"

    def __init__(self, hf: tokenizers.Tokenizer, special: Special = NO_SPECIAL) -> None:
        self._joins = joins_tokens(hf)
        self._drops_space = any(map(drops_first_space, steps_of(hf, "decoder")))
        super().__init__(hf, special)

    def _byte_table(self, hf: tokenizers.Tokenizer) -> list[bytes]:
        kinds = {step["type"] for step in steps_of(hf, "decoder")}
        spaces, by_bytes = "Replace" in kinds, "ByteFallback" in kinds

        def spelled(token: str, _: int) -> bytes:
            byte = BYTE_TOKEN.fullmatch(token) if by_bytes else None
            return bytes([int(byte[1], 16)]) if byte else (token.replace(SPACE, " ") if spaces else token).encode()

        return token_table(hf, spelled)

    def _word_end_pattern(self, hf: tokenizers.Tokenizer) -> Any:
        return NOWHERE

    def _refuse_special(self) -> None:
        """Unigram and word-level models spell special tokens by their text; so does the library."""
        if isinstance(self.hf.model, models.BPE):
            super()._refuse_special()

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        ids = check_ids(ids, self.vocab_size)
        if not self._joins:
            with library_errors():
                return self.hf.decode(ids, skip_special_tokens=False).encode("utf-8")
        text = super().decode_bytes(ids)
        return text[1:] if self._drops_space and text.startswith(b" ") else text
