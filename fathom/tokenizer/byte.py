"""One token per byte of UTF-8: 256 tokens, any text, nothing to learn and nothing unknown."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fathom.tokenizer.protocol import Marked, TokenArray, known, utf8


class ByteTokenizer(Marked):
    """The id of a byte is its value."""

    kind = "byte"
    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_array(self, text: str) -> TokenArray:
        return np.frombuffer(utf8(text), np.uint8)

    def cut(self, text: str) -> int:
        return len(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(known(ids, self.vocab_size))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}
