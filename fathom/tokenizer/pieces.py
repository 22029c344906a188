"""A SentencePiece vocabulary as plain parts, and the same as the bytes of a model file.

The file is a protocol buffer (sentencepiece_model.proto of the SentencePiece project). Known is what LLaMA uses: BPE
with byte fallback, text taken as it is. Parts are checked before any library sees them. Does not encode.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fathom.errors import FathomError
from fathom.tokenizer.protocol import Special, utf8

# Protocol buffers' wire format: just enough to read and write a SentencePiece model.
#
# A message is a row of fields: a tag (number and kind), then a varint, 4 or 8 bytes, or a length and so many bytes
# (protobuf.dev/programming-guides/encoding). Knows no message.

VARINT, BYTES, FOUR = 0, 2, 5  # kinds of fields; 3 and 4, groups, are out of use
WIDTHS = {1: 8, FOUR: 4}  # bytes of those whose size is fixed


def read_fields(data: bytes, base: int = 0) -> Iterator[tuple[int, int | bytes, int]]:
    """(number, value, offset of the value) of each field; `base` is where the message lies in its file."""
    end = 0
    while (at := end) < len(data):
        tag, start = read_varint(data, at, base)
        field, kind = tag >> 3, tag & 7
        if kind == VARINT:
            number, end = read_varint(data, start, base)
            yield field, number, base + start
            continue
        length, start = read_varint(data, start, base) if kind == BYTES else (WIDTHS.get(kind, -1), start)
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


def varint(value: int) -> bytes:
    """`value`, 64 bits of it, as `read_varint` reads it; negative numbers as their two's complement."""
    value, found = value & (1 << 64) - 1, bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def number(field: int, value: int) -> bytes:
    """A field with a whole number or a truth."""
    return varint(field << 3 | VARINT) + varint(value)


def real(field: int, value: float) -> bytes:
    """A field with a float32."""
    return varint(field << 3 | FOUR) + struct.pack("<f", value)


def text(field: int, value: bytes) -> bytes:
    """A field with text, bytes or a message."""
    return varint(field << 3 | BYTES) + varint(len(value)) + value


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "▁"  # U+2581: how pieces write a space
LONGEST = 1000  # bytes of one piece; the library takes 8,000, the longest in use has 64
LARGEST = (2 - 2**-23) * 2.0**127  # of float32
PIECES, TRAINER, NORMALIZER, DENORMALIZER = 1, 2, 3, 5  # fields of the file's outermost message
MODEL_TYPE, VOCAB_SIZE, AS_SUFFIX, BYTE_FALLBACK = 3, 4, 24, 35  # of TRAINER
UNK_ID, BOS_ID, EOS_ID, PAD_ID = range(40, 44)
PIECE_OF = {UNK_ID: 45, BOS_ID: 46, EOS_ID: 47}  # where the piece is named that an id stands for
CHARSMAP, DUMMY_PREFIX, SQUEEZE_SPACES, ESCAPE = 2, 3, 4, 5  # of NORMALIZER
BPE = 2  # a MODEL_TYPE
ALGORITHMS = {1: "unigram", BPE: "BPE", 3: "word", 4: "character"}
NONE = (1 << 64) - 1  # -1, the id of what there is not
Fields = Mapping[int, int | bytes]
T = TypeVar("T", int, bytes)


@dataclass(frozen=True)
class Pieces:
    """Text, score and type of every id, and whether a space goes before a text and runs of spaces become one."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]  # float32; of the pairs that stand side by side the best-scored is joined first
    types: tuple[int, ...]
    dummy_prefix: bool = True
    squeeze_spaces: bool = False

    def check(self) -> "Pieces":
        """Itself, where the library can make a tokenizer of it."""
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
        """The pieces that text never becomes, by how they are written."""
        return {
            text: id
            for id, (text, type) in enumerate(zip(self.texts, self.types))
            if type == CONTROL or (type == USER_DEFINED and len(text) > 1)
        }


def _problem(text: str, score: float, type: int) -> str:
    """What the library would refuse, crash on or silently take for something else."""
    if not text or "\0" in text or len(utf8(text)) > LONGEST:
        return f"is {text[:40]!r}; expected 1 to {LONGEST} bytes, none of them 0"
    if not abs(score) <= LARGEST:  # nor not-a-number
        return f"has the score {str(score)[:40]}; expected a number that float32 holds"
    if not NORMAL <= type <= BYTE:
        return f"is of type {type}; expected {NORMAL} to {BYTE}"
    if type == CONTROL and len(text) == 1:
        return f"is the single character {text!r} and a control piece; text with it could not be told from it"
    if type == BYTE and text not in BYTE_PIECES:
        return f"is {text[:40]!r}; expected a byte piece, such as <0x0A>"
    return ""


def read_pieces(data: bytes, vocab_size: int) -> tuple[Pieces, Special]:
    """What a model file says, of at most `vocab_size` pieces. FathomError: damaged, or of a kind not known here."""
    rows: list[tuple[str, float, int]] = []
    count, said = 0, dict[int, dict[int, int | bytes]]()
    for field, value, at in read_fields(data):
        if field == PIECES:
            count += 1
            if count <= vocab_size:  # of more only the number is of interest
                rows.append(_piece(_message(value, at), f"piece {count - 1} at offset {at}"))
        elif field in (TRAINER, NORMALIZER, DENORMALIZER):
            said[field] = said.get(field, {}) | _message(value, at)
    fits(count, vocab_size)
    trainer, normalizer = said.get(TRAINER, {}), said.get(NORMALIZER, {})
    _known(trainer, normalizer, said.get(DENORMALIZER, {}))
    texts, scores, types = zip(*rows) if rows else ((), (), ())
    prefix, squeeze = (bool(_get(normalizer, field, 1)) for field in (DUMMY_PREFIX, SQUEEZE_SPACES))
    pieces = Pieces(texts, scores, types, prefix, squeeze)
    names = pieces.special
    bos = names.get(_text(_get(trainer, PIECE_OF[BOS_ID], b"") or b"<s>", "the name of the first token"))
    eos = names.get(_text(_get(trainer, PIECE_OF[EOS_ID], b"") or b"</s>", "the name of the last token"))
    has_bos, has_eos = (_get(trainer, field, 0) != NONE for field in (BOS_ID, EOS_ID))
    return pieces, Special(bos if has_bos else None, eos if has_eos else None, names=names)


def fits(count: int, vocab_size: int) -> None:
    """A vocabulary may be smaller than a model, whose rows may be padded, but not larger."""
    if count > vocab_size:
        raise FathomError(f"a tokenizer of {count} tokens for a model of {vocab_size}; expected the model's tokenizer")


def _piece(fields: Fields, where: str) -> tuple[str, float, int]:
    score = _get(fields, 2, b"\0\0\0\0")
    if len(score) != 4:
        raise FathomError(f"the score of {where} has {len(score)} bytes; expected 4")
    return _text(_get(fields, 1, b""), where), struct.unpack("<f", score)[0], _get(fields, 3, NORMAL)


def _known(trainer: Fields, normalizer: Fields, denormalizer: Fields) -> None:
    """FathomError where the file asks for what is not done here, so that no text is quietly encoded otherwise."""
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
        raise FathomError(f"offset {at}: a number where a message of a SentencePiece model should be")
    return {field: value for field, value, _ in read_fields(value, at)}


def _get(fields: Fields, field: int, default: T) -> T:
    value = fields.get(field, default)
    if not isinstance(value, type(default)):
        raise FathomError(f"field {field} of a SentencePiece model is of another kind than it should be")
    return value


def _text(value: bytes, where: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise FathomError(f"{where} is {value[:40]!r}; expected UTF-8") from None


def write_pieces(pieces: Pieces, special: Special) -> bytes:
    """The bytes of a model file."""
    rows = [
        text(1, piece.encode()) + real(2, score) + number(3, type)
        for piece, score, type in zip(pieces.texts, pieces.scores, pieces.types)
    ]
    normalizer = text(1, b"identity") + number(DUMMY_PREFIX, pieces.dummy_prefix)
    normalizer += number(SQUEEZE_SPACES, pieces.squeeze_spaces)
    messages = [(TRAINER, _trainer(pieces, special)), (NORMALIZER, normalizer)]
    return b"".join(text(field, message) for field, message in [*((PIECES, row) for row in rows), *messages])


def _trainer(pieces: Pieces, special: Special) -> bytes:
    """How it was trained, as far as other readers of the file go by it: the ids and names of the special pieces."""
    ids = {UNK_ID: pieces.types.index(UNKNOWN), BOS_ID: special.bos, EOS_ID: special.eos, PAD_ID: None}
    numbers = {MODEL_TYPE: BPE, VOCAB_SIZE: len(pieces.texts), BYTE_FALLBACK: 1}
    numbers |= {field: NONE if id is None else id for field, id in ids.items()}
    names = {PIECE_OF[field]: pieces.texts[id] for field, id in ids.items() if id is not None}
    fields = [number(*item) for item in numbers.items()]
    return b"".join([*fields, *(text(field, name.encode()) for field, name in names.items())])


def read_small(path: Path, vocab_size: int) -> bytes:
    """A tokenizer's file, whose size its vocabulary bounds: whatever else it is, it is not read for long."""
    most = (1 << 20) + 64 * vocab_size
    try:
        if (size := path.stat().st_size) > most:
            raise FathomError(f"{path}: {size} bytes; a tokenizer of {vocab_size} tokens has at most {most}")
        return path.read_bytes()
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror}); expected a tokenizer's file") from None
