"""A BPE with byte fallback, which is LLaMA 2's tokenizer told as merges, as SentencePiece's pieces with scores.

Merges join the pair that comes first in their list, SentencePiece the one whose piece has the best score. Both are the
same where the merges that make a token stand together, and the pair from which SentencePiece makes it is among them.
"""

from itertools import groupby
from typing import Any

from fathom.errors import FathomError
from fathom.tokenizer import library
from fathom.tokenizer.byte_fallback import PREPEND, REPLACE, ByteFallbackTokenizer
from fathom.tokenizer.merges import merges_of
from fathom.tokenizer.pieces import BYTE, BYTE_PIECES, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Pieces
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer


def as_sentencepiece(tokenizer: Tokenizer) -> Tokenizer:
    """A BPE with byte fallback as SentencePiece, any other tokenizer as it is. FathomError: it has no equal there."""
    if not isinstance(tokenizer, ByteFallbackTokenizer):
        return tokenizer
    prefix = _prefix(tokenizer)
    model = tokenizer.to_json()["tokenizer"]["model"]
    texts = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = _types(tokenizer, texts, model["unk_token"])
    ranked = _ranked(model, [text for text, type in zip(texts, types) if type == NORMAL])
    scores = {text: -float(place) for place, text in enumerate(ranked)}
    pieces = Pieces(tuple(texts), tuple(scores.get(text, 0.0) for text in texts), tuple(types), prefix)
    return SentencePieceTokenizer(pieces, tokenizer.special)


def _prefix(tokenizer: ByteFallbackTokenizer) -> bool:
    """Whether a space goes before every text. A Metaspace puts none before a space, which no SentencePiece does."""
    match library.parts(tokenizer.hf, "normalizer"), library.parts(tokenizer.hf, "pre_tokenizer"):
        case [one, two], [] if (one, two) == (PREPEND, REPLACE):
            return True
        case ([one], []) if one == REPLACE:
            return False
        case [], [{"type": "Metaspace", "prepend_scheme": "never", "split": False}]:
            return False
    raise FathomError("spaces are treated as SentencePiece has no name for; use the tokenizer.model it was made from")


def _types(tokenizer: ByteFallbackTokenizer, texts: list[str], unknown: str | None) -> list[int]:
    added = {token.content: token.special for token in tokenizer.hf.get_added_tokens_decoder().values()}
    known = {text: CONTROL if special else USER_DEFINED for text, special in added.items()}
    known |= {**dict.fromkeys(tokenizer.special.names, CONTROL), **dict.fromkeys(BYTE_PIECES, BYTE)}
    return [UNKNOWN if text == unknown else known.get(text, NORMAL) for text in texts]


def _ranked(model: dict[str, Any], normal: list[str]) -> list[str]:
    """The tokens that text becomes, the one that is joined first before all others."""
    merges = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    made = [token for _, block in groupby(merges, _run_of) for token in _made(list(block))]
    known = set(made)
    # where ids follow the merges single letters, which nothing joins, keep their places: so SentencePiece scores them
    by_id = sorted(made, key=model["vocab"].__getitem__) == made
    ranked = normal if by_id else [*made, *(text for text in normal if text not in known)]
    needed = merges_of({text: rank for rank, text in enumerate(ranked)})
    if len(known) < len(made) or not set(merges) >= set(needed) or not known <= set(normal):
        raise FathomError("its merges join otherwise than by one score for each token; expected LLaMA 2's kind of BPE")
    return ranked


def _run_of(merge: tuple[str, str]) -> str:
    """The letter of which the token that is made is a run, as LLaMA 2's of spaces; empty: of several."""
    letters = set("".join(merge))
    return letters.pop() if len(letters) == 1 else ""


def _made(merges: list[tuple[str, str]]) -> list[str]:
    """The tokens that these merges make, in order: more than once where others' stand between.

    Runs of one letter have the same score in LLaMA 2, and their merges stand mixed. Where two letters come last and
    every run can grow by one letter, a run grows from its left: the same as when the longer run always comes first.
    """
    made = [token for token, _ in groupby(merges, "".join)]
    letter, longest = _run_of(merges[0]), max(map(len, made))
    growing = {(letter * length, letter) for length in range(1, longest)}
    if letter and len(set(made)) < len(made) and set(merges) >= growing and merges[-1] == (letter, letter):
        return [letter * length for length in range(longest, 1, -1)]
    return made
