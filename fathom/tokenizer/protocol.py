"""What every tokenizer can do, and the few checks they share.

A tokenizer is a value: it turns text into ids and back and never changes. `to_json` holds all of it, so that it
travels inside a run directory and a checkpoint. Knows no particular tokenizer and no file.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fathom.errors import FathomError, OutsideVocabulary

TokenArray: TypeAlias = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Special:
    """The tokens that are no text, and what a format does with them."""

    bos: int | None = None  # what the format puts before every text; None: nothing
    eos: int | None = None  # what ends a document; None: documents are separated by a newline
    ends: tuple[int, ...] = ()  # after any of these, or eos, a model has nothing more to say
    names: Mapping[str, int] = field(default_factory=dict)  # how each special token is written, such as "</s>"
    template: str | None = None  # how a conversation becomes text, in Jinja

    def check(self, vocab_size: int) -> "Special":
        """Itself; OutsideVocabulary where a special token is not one of the vocabulary."""
        known([id for id in (self.bos, self.eos, *self.ends, *self.names.values()) if id is not None], vocab_size)
        return self

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values, for the object of its tokenizer."""
        return asdict(self) | {"names": dict(self.names), "ends": list(self.ends)}

    @property
    def last(self) -> frozenset[int]:
        """Every id after which a text is over."""
        return frozenset(self.ends) | ({self.eos} if self.eos is not None else frozenset())


class Marked:
    """What follows from a tokenizer's special tokens; those that have none need to say nothing."""

    special = Special()

    @property
    def bos(self) -> int | None:
        return self.special.bos

    @property
    def eos(self) -> int | None:
        return self.special.eos


class InPieces(Marked):
    """What follows where a text is encoded in pieces, so that a long one needs little memory."""

    vocab_size: int

    def _encode(self, text: str) -> Iterator[list[int]]:
        """The ids of the text, piece by piece."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        return list(chain.from_iterable(self._encode(text)))

    def encode_array(self, text: str) -> TokenArray:
        dtype = id_dtype(self.vocab_size)
        return np.concatenate([np.zeros(0, dtype), *(np.array(ids, dtype) for ids in self._encode(text))])


class Tokenizer(Protocol):
    """Text to ids and back. Special tokens are never made from text: only `special` names them."""

    @property
    def kind(self) -> str:
        """The word under which `load.from_json` finds the class."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special(self) -> Special: ...

    @property
    def bos(self) -> int | None:
        """The id that the format puts before every text; None: none."""

    @property
    def eos(self) -> int | None:
        """The id that ends a document; None: documents are separated by a newline."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without bos or eos. OutsideVocabulary when it cannot be said in this vocabulary."""

    def encode_array(self, text: str) -> TokenArray:
        """`encode` for corpora: an array of dtype `id_dtype(vocab_size)`."""

    def cut(self, text: str) -> int:
        """The last place where `text` can be cut, whatever follows, so that its two parts give the ids of the whole."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. OutsideVocabulary: no such id."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The exact bytes of `ids`, which may end in the middle of a character."""

    def to_json(self) -> dict[str, Any]:
        """All of the tokenizer as plain JSON values."""


def read_special(values: Mapping[str, Any]) -> Special:
    """The special tokens in the JSON object of a tokenizer, as `Special.to_json` wrote them."""
    ids = {"bos": values.get("bos"), "eos": values.get("eos")}
    names, ends, template = values.get("names", {}), values.get("ends", []), values.get("template")
    if not isinstance(names, Mapping) or not isinstance(ends, list) or not isinstance(template, str | None):
        raise FathomError("'names', 'ends' or 'template' is damaged; expected an object, a list and text")
    for name, id in [*ids.items(), *names.items(), *(("ends", end) for end in ends)]:
        if type(id) is not int and (id is not None or name not in ids):
            raise FathomError(f"{name!r} is {id!r}; expected a token id{' or null' if name in ids else ''}")
    return Special(ids["bos"], ids["eos"], tuple(ends), dict(names), template)


def id_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """The narrowest unsigned type that holds every id below `vocab_size`."""
    for dtype in (np.uint8, np.uint16, np.uint32):
        if vocab_size <= np.iinfo(dtype).max + 1:
            return np.dtype(dtype)
    raise FathomError(f"vocab_size is {vocab_size}; ids are stored in at most 32 bits")


def known(ids: Iterable[int], vocab_size: int) -> list[int]:
    """`ids` as whole numbers, each refused that is not from 0 to below `vocab_size`."""
    numbers = [int(i) for i in ids]
    for place, number in enumerate(numbers):
        if not 0 <= number < vocab_size:
            raise OutsideVocabulary(f"token id {number} at place {place}; ids run from 0 to {vocab_size - 1}")
    return numbers


def utf8(text: str) -> bytes:
    """`text` as UTF-8; half a surrogate pair, which no file can hold, is one clear error."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as problem:
        found = ord(text[problem.start])
        raise FathomError(
            f"U+{found:04X} at character {problem.start} is half a surrogate pair; expected text that is valid Unicode"
        ) from None


LONGEST = 1 << 22  # characters without a place to cut: such a run is no language, and memory must stay bounded


def whole_pieces(chunks: Iterable[str], cut: Callable[[str], int], longest: int = LONGEST) -> Iterator[str]:
    """The same text in pieces that end where `cut` allows it, so that no token is torn however the chunks fall."""
    held = ""
    for chunk in chunks:
        held += chunk
        end = cut(held) or (len(held) if len(held) > longest else 0)
        if end:
            yield held[:end]
            held = held[end:]
    if held:
        yield held
