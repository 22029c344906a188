"""BPE over characters, with bytes for what no token spells: LLaMA 2's vocabulary as a `tokenizer.json`.

A space is written as ▁ and one goes before the text, which decoding drops again; a character without a token of its own
becomes tokens <0xNN>. The same rule as SentencePiece's, told as merges. What the library does not say: exact bytes, and
where a text can be cut.
"""

import re
from collections.abc import Iterator, Sequence

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from fathom.errors import FathomError
from fathom.tokenizer import library
from fathom.tokenizer.bpe import NEVER, NONE, BPETokenizer, last_match, slices, vocabulary_size
from fathom.tokenizer.protocol import Special, known, utf8, whole_pieces

SPACE = "▁"  # U+2581
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE_AFTER = re.compile(rf"[^{SPACE}]{SPACE}")  # tokens that could reach from one word into the next
WORD_ENDS = re.compile(rf"(?<=[^ {SPACE}]) ")
PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


class ByteFallbackTokenizer(BPETokenizer):
    """A BPE with byte fallback of the `tokenizers` library."""

    kind = "byte_fallback"

    def __init__(self, hf: tokenizers.Tokenizer, special: Special = NONE) -> None:
        super().__init__(hf, special)
        self._prepends = PREPEND in library.parts(hf, "normalizer")
        self._drops_first_space = any(map(drops_first_space, library.parts(hf, "decoder")))
        self._later = tokenizers.Tokenizer(hf.model)  # for what follows the first piece: no space goes before it
        self._later.normalizer = normalizers.Replace(" ", SPACE)
        if any(step.get("split") for step in library.parts(hf, "pre_tokenizer")):
            self._later.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "never", True)

    def _spell(self, hf: tokenizers.Tokenizer) -> list[bytes]:
        if not isinstance(hf.model, models.BPE) or not hf.model.byte_fallback:
            raise FathomError(f"a {type(hf.model).__name__} tokenizer; expected a BPE with byte fallback as LLaMA 2's")
        match library.parts(hf, "normalizer"), library.parts(hf, "pre_tokenizer"):
            case ([one, two], []) if (one, two) == (PREPEND, REPLACE):
                pass
            case ([one], []) if one == REPLACE:
                pass
            case ([], [{"type": "Metaspace", "replacement": space}]) if space == SPACE:
                pass
            case found:
                raise FathomError(
                    f"spaces are treated by {str(found)[:200]}; expected {SPACE} for each, as LLaMA 2 has"
                )
        if missing := [byte for byte in range(256) if hf.token_to_id(f"<0x{byte:02X}>") is None]:
            raise FathomError(f"no token <0x{missing[0]:02X}>; expected one for each of 256 bytes")
        vocabulary = hf.get_vocab(with_added_tokens=True)
        table = [b""] * vocabulary_size(vocabulary)
        for token, id in vocabulary.items():
            byte = BYTE_TOKEN.fullmatch(token)
            table[id] = bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode("utf-8")
        return table

    def _ends(self, hf: tokenizers.Tokenizer) -> re.Pattern[str]:
        added = hf.get_added_tokens_decoder().values()
        across = any(map(SPACE_AFTER.search, hf.get_vocab(with_added_tokens=False)))
        return NEVER if across or not all(token.special for token in added) else WORD_ENDS

    def _encode(self, text: str) -> Iterator[list[int]]:
        utf8(text)
        pieces = list(whole_pieces(slices([text]), lambda held: last_match(self._word_ends, held)))
        with library.one_line():
            first = self.hf.encode_batch_fast(pieces[:1], add_special_tokens=False)
            later = self._later.encode_batch_fast(pieces[1:], add_special_tokens=False)
        return (found.ids for found in [*first, *later])

    def cut(self, text: str) -> int:
        """Nowhere, where a second space would go before the second part."""
        return 0 if self._prepends else super().cut(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        text = b"".join([self._bytes[i] for i in known(ids, self.vocab_size)])
        return text[1:] if self._drops_first_space and text.startswith(b" ") else text


def drops_first_space(step: dict[str, object]) -> bool:
    """Whether this step of a decoder takes away the space that goes before every text."""
    strips = step["type"] == "Strip" and step["content"] == " " and step["start"] == 1
    return strips or (step["type"] == "Metaspace" and step["prepend_scheme"] != "never")
