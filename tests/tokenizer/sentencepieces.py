"""Small SentencePiece vocabularies for tests."""

import io

import sentencepiece as library

from fathom.tokenizer.pieces import BYTE, BYTE_PIECES, CONTROL, NORMAL, Pieces

SENTENCES = ["the cat sat on the mat", "  two  spaces and\ttabs", "Über naïve café — 東京", "they'll see 1987 cats!"]


def train(**how: object) -> bytes:
    """A tiny model of LLaMA's kind: BPE, bytes for what it does not know, text as it is."""
    written = io.BytesIO()
    known = {"vocab_size": 330, "normalization_rule_name": "identity", "byte_fallback": True, "model_type": "bpe"}
    known |= {"hard_vocab_limit": False, "minloglevel": 2, "allow_whitespace_only_pieces": True}
    library.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES * 4), model_writer=written, **known | how)
    return written.getvalue()


def bytes_and(*texts: str, types: tuple[int, ...] = ()) -> Pieces:
    """A vocabulary of <unk>, <s>, </s>, the bytes and these."""
    known = ("<unk>", "<s>", "</s>", *BYTE_PIECES, *texts)
    types = (2, CONTROL, CONTROL, *[BYTE] * 256, *(types or [NORMAL] * len(texts)))
    return Pieces(known, tuple(-float(place) for place in range(len(known))), types)
