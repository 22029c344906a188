"""A SentencePiece vocabulary and its model file, read by hand: nothing that is required here installs `protobuf`.

The library's own reader (sentencepiece_model_pb2) needs it. The file is a protocol buffer (sentencepiece_model.proto).
Supported is what LLaMA uses: BPE with byte fallback and no normalisation. Damage is refused with its offset, before the
library sees anything.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from fathom.errors import FathomError
from fathom.tokenizer.protocol import Special, check_size, utf8

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "▁"  # U+2581: how pieces write a space
MAX_PIECE = 1000  # bytes; the library takes 8,000, the longest in use has 64
MAX_FLOAT32 = (2 - 2**-23) * 2.0**127
PIECES, TRAINER, NORMALIZER, DENORMALIZER = 1, 2, 3, 5  # fields of the file's outermost message
MODEL_TYPE, VOCAB_SIZE, AS_SUFFIX, BYTE_FALLBACK = 3, 4, 24, 35  # of TRAINER
UNK_ID, BOS_ID, EOS_ID, PAD_ID = range(40, 44)
PIECE_OF = {UNK_ID: 45, BOS_ID: 46, EOS_ID: 47}  # the field with the text of the piece that an id refers to
CHARSMAP, DUMMY_PREFIX, SQUEEZE_SPACES, ESCAPE = 2, 3, 4, 5  # of NORMALIZER
BPE = 2  # a MODEL_TYPE
ALGORITHMS = {1: "unigram", BPE: "BPE", 3: "word", 4: "character"}
NO_ID = (1 << 64) - 1  # -1
Fields = Mapping[int, int | bytes]
T = TypeVar("T", int, bytes)


@dataclass(frozen=True)
class Pieces:
    """Text, score and type of every id; whether a space goes before a text and runs of spaces become one."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]  # float32; of all neighbouring pairs the one with the best score is joined first
    types: tuple[int, ...]
    dummy_prefix: bool = True
    squeeze_spaces: bool = False
    apart: bool = False  # user-defined pieces are split off first, and what is between them is a text each (llama.cpp)

    def check(self) -> "Pieces":
        """Itself. FathomError where the library cannot make a tokenizer of it."""
        if not len(self.texts) == len(self.scores) == len(self.types):
            counts = f"{len(self.texts)} pieces with {len(self.scores)} scores and {len(self.types)} types"
            raise FathomError(f"{counts}; expected one of each for every id")
        place: dict[str, int] = {}
        for id, (text, score, type) in enumerate(zip(self.texts, self.scores, self.types)):
            if problem := _problem(text, score, type):
                raise FathomError(f"piece {id} {problem}")
            if place.setdefault(text, id) != id:
                raise FathomError(f"pieces {place[text]} and {id} are both {text[:40]!r}; expected each text once")
        if (unknown := self.types.count(UNKNOWN)) != 1:
            raise FathomError(f"{unknown} pieces are of the type 'unknown'; expected one")
        if missing := set(BYTE_PIECES) - {text for text, type in zip(self.texts, self.types) if type == BYTE}:
            raise FathomError(f"no byte piece {min(missing)}; expected all 256, for what no other piece spells")
        return self

    @property
    def special(self) -> dict[str, int]:
        """The ids of the pieces that text never becomes, by their texts."""
        return {text: id for id, (text, type) in enumerate(zip(self.texts, self.types)) if type == CONTROL}

    @property
    def defined(self) -> dict[str, int]:
        """The ids of the user-defined pieces, which are never joined with others, by their texts."""
        return {text: id for id, (text, type) in enumerate(zip(self.texts, self.types)) if type == USER_DEFINED}


def filler(id: int) -> str:
    """The text of an id without a token, which no text becomes."""
    return f"[PAD{id}]"


def _problem(text: str, score: float, type: int) -> str:
    """What the library would refuse, crash on or silently misread; empty: nothing."""
    if not text or "\0" in text or len(utf8(text)) > MAX_PIECE:
        return f"is {text[:40]!r}; expected 1 to {MAX_PIECE} bytes, none of them 0"
    if not abs(score) <= MAX_FLOAT32:  # nor not-a-number
        return f"has the score {str(score)[:40]}; expected a number that float32 holds"
    if not NORMAL <= type <= BYTE:
        return f"is of type {type}; expected {NORMAL} to {BYTE}"
    if type == CONTROL and len(text) == 1:
        return f"is the single character {text!r} and a control piece; the same character in a text would become it"
    if type == BYTE and text not in BYTE_PIECES:
        return f"is {text[:40]!r}; expected a byte piece, such as <0x0A>"
    return ""


def read_pieces(data: bytes, vocab_size: int) -> tuple[Pieces, Special]:
    """The contents of a model file for a model of `vocab_size` ids. FathomError: it is damaged or not supported."""
    rows: list[tuple[str, float, int]] = []
    count, most, messages = 0, 2 * vocab_size, dict[int, dict[int, int | bytes]]()
    for field, value, at in read_fields(data):
        if field == PIECES:
            count += 1
            if count <= most:  # of more only the number matters
                rows.append(_piece(_message(value, at), f"piece {count - 1} at offset {at}"))
        elif field in (TRAINER, NORMALIZER, DENORMALIZER):
            messages[field] = messages.get(field, {}) | _message(value, at)
    if count > most:
        check_size(count, vocab_size)
    trainer, normalizer = messages.get(TRAINER, {}), messages.get(NORMALIZER, {})
    _refuse_unsupported(trainer, normalizer, messages.get(DENORMALIZER, {}))
    texts, scores, types = zip(*rows) if rows else ((), (), ())
    prefix, squeeze = (bool(_get(normalizer, field, 1)) for field in (DUMMY_PREFIX, SQUEEZE_SPACES))
    pieces = Pieces(texts, scores, types, prefix, squeeze)
    names = pieces.special
    bos = names.get(decoded(_get(trainer, PIECE_OF[BOS_ID], b"") or b"<s>", "the name of the first token"))
    eos = names.get(decoded(_get(trainer, PIECE_OF[EOS_ID], b"") or b"</s>", "the name of the last token"))
    has_bos, has_eos = (_get(trainer, field, 0) != NO_ID for field in (BOS_ID, EOS_ID))
    bos = bos if has_bos else None
    start = () if bos is None else (bos,)
    return pieces, Special(bos, eos if has_eos else None, names=names, prefix=start)


def _piece(fields: Fields, where: str) -> tuple[str, float, int]:
    score = _get(fields, 2, b"\0\0\0\0")
    if len(score) != 4:
        raise FathomError(f"the score of {where} has {len(score)} bytes; expected 4")
    return decoded(_get(fields, 1, b""), where), struct.unpack("<f", score)[0], _get(fields, 3, NORMAL)


def _refuse_unsupported(trainer: Fields, normalizer: Fields, denormalizer: Fields) -> None:
    """FathomError where the file asks for what is not done here, so that no text is silently encoded otherwise."""
    if (kind := _get(trainer, MODEL_TYPE, 1)) != BPE:
        raise FathomError(f"a SentencePiece model of type {ALGORITHMS.get(kind, kind)}; expected BPE, as LLaMA's")
    if not _get(trainer, BYTE_FALLBACK, 0):
        raise FathomError("a SentencePiece model without byte_fallback; expected 256 byte pieces, as LLaMA has them")
    if _get(normalizer, CHARSMAP, b"") or _get(denormalizer, CHARSMAP, b""):
        raise FathomError("a SentencePiece model with precompiled_charsmap; expected text taken as it is (identity)")
    if _get(trainer, AS_SUFFIX, 0) or not _get(normalizer, ESCAPE, 1):
        raise FathomError("treat_whitespace_as_suffix or not escape_whitespaces; expected spaces before words, as ▁")


def _message(value: int | bytes, at: int) -> dict[int, int | bytes]:
    if isinstance(value, int):
        raise FathomError(f"offset {at}: a number; expected a message of a SentencePiece model")
    return {field: value for field, value, _ in read_fields(value, at)}


def _get(fields: Fields, field: int, default: T) -> T:
    value = fields.get(field, default)
    if not isinstance(value, type(default)):
        expected = "a number" if isinstance(default, int) else "bytes"
        raise FathomError(f"field {field} of a SentencePiece model is not {expected}; the file is damaged")
    return value


def decoded(value: bytes, where: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise FathomError(f"{where} is {value[:40]!r}; expected UTF-8") from None


def write_pieces(pieces: Pieces, special: Special) -> bytes:
    """The bytes of a model file."""
    rows = [
        length_field(1, piece.encode()) + float_field(2, score) + varint_field(3, type)
        for piece, score, type in zip(pieces.texts, pieces.scores, pieces.types)
    ]
    normalizer = length_field(1, b"identity") + varint_field(DUMMY_PREFIX, pieces.dummy_prefix)
    normalizer += varint_field(SQUEEZE_SPACES, pieces.squeeze_spaces)
    messages = [*((PIECES, row) for row in rows), (TRAINER, _trainer(pieces, special)), (NORMALIZER, normalizer)]
    return b"".join(length_field(field, message) for field, message in messages)


def _trainer(pieces: Pieces, special: Special) -> bytes:
    """The trainer's settings, as far as other readers use them: the ids and texts of the special pieces."""
    ids = {UNK_ID: pieces.types.index(UNKNOWN), BOS_ID: special.bos, EOS_ID: special.eos, PAD_ID: None}
    numbers = {MODEL_TYPE: BPE, VOCAB_SIZE: len(pieces.texts), BYTE_FALLBACK: 1}
    numbers |= {field: NO_ID if id is None else id for field, id in ids.items()}
    names = {PIECE_OF[field]: pieces.texts[id] for field, id in ids.items() if id is not None}
    fields = [varint_field(*item) for item in numbers.items()]
    return b"".join([*fields, *(length_field(field, name.encode()) for field, name in names.items())])


# Protocol buffers' wire format: a message is a row of fields, each a tag (number and kind), then a varint, 4 or 8
# bytes, or a length and so many bytes (protobuf.dev/programming-guides/encoding).
VARINT, LENGTH, FOUR = 0, 2, 5  # kinds of fields; 3 and 4, groups, are obsolete
WIDTHS = {1: 8, FOUR: 4}  # bytes of the kinds of fixed size


def read_fields(data: bytes, base: int = 0) -> Iterator[tuple[int, int | bytes, int]]:
    """(number, value, offset of the value) of each field; `base`: offset of the message in its file."""
    end = 0
    while (at := end) < len(data):
        tag, start = read_varint(data, at, base)
        field, kind = tag >> 3, tag & 7
        if kind == VARINT:
            number, end = read_varint(data, start, base)
            yield field, number, base + start
            continue
        length, start = read_varint(data, start, base) if kind == LENGTH else (WIDTHS.get(kind, -1), start)
        end = start + length
        if length < 0 or end > len(data):
            raise FathomError(f"offset {base + at}: not a field of a protocol buffer, or one cut short")
        yield field, data[start:end], base + start


def read_varint(data: bytes, at: int, base: int = 0) -> tuple[int, int]:
    """An unsigned number of 7 bits a byte, the lowest first, and the place after it."""
    if at < len(data) and data[at] < 128:
        return data[at], at + 1  # as almost all are
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise FathomError(f"offset {base + at}: a number of a protocol buffer is cut short or longer than 64 bits")


ONE_BYTE = tuple(bytes([value]) for value in range(128))


def varint(value: int) -> bytes:
    """`value`, 64 bits of it, as `read_varint` reads it; negative numbers as their two's complement."""
    if 0 <= value < 128:
        return ONE_BYTE[value]  # as almost all are
    value, encoded = value & (1 << 64) - 1, bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def varint_field(field: int, value: int) -> bytes:
    return varint(field << 3 | VARINT) + varint(value)


def float_field(field: int, value: float) -> bytes:
    return varint(field << 3 | FOUR) + struct.pack("<f", value)


def length_field(field: int, value: bytes) -> bytes:
    """A field with text, bytes or a message."""
    return varint(field << 3 | LENGTH) + varint(len(value)) + value
