"""What every tokenizer is: text to ids and back, its special tokens, and how long texts are cut into chunks.

A tokenizer is a value that never changes. `to_json` holds all of it, so that it can be stored in a run folder or a
checkpoint.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fathom.errors import FathomError, OutsideVocabulary

TokenArray: TypeAlias = NDArray[np.unsignedinteger[Any]]

CHUNK = 1 << 16  # characters that a library encodes at a time, one thread each; it is slower on longer texts
READ_CHUNK = 16 * CHUNK  # characters of a corpus that are read at a time: work for 16 threads
MAX_CHUNK = 64 * CHUNK  # a longer text with no safe place to cut is cut anywhere, so that memory stays bounded
MATCHING = 0.9  # of the larger of a vocabulary and its model's ids, the part that is in both; the rest is padding

FLAGS = ("lstrip", "rstrip", "single_word", "normalized")  # of a special token: what it takes along, where it counts


@dataclass(frozen=True)
class Special:
    """The special tokens, which no text becomes, and what a format does with them."""

    bos: int | None = None  # the token that begins a text, which templates call bos_token; None: the format has none
    eos: int | None = None  # the token that ends a document; None: documents are separated by a newline
    ends: tuple[int, ...] = ()  # tokens other than eos after which generation ends
    names: Mapping[str, int] = field(default_factory=dict)  # id of each special token by its text, such as "</s>"
    template: str | None = None  # chat template, in Jinja
    prefix: tuple[int, ...] = ()  # the ids that the format puts before every text
    settings: Mapping[str, Any] = field(default_factory=dict)  # what else its files say, carried through: pad_token
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)  # FLAGS of special tokens by their texts
    generation: Mapping[str, Any] = field(default_factory=dict)  # entries of generation_config.json but for ids

    def check(self, vocab_size: int) -> "Special":
        """Itself. OutsideVocabulary where a special token is not in the vocabulary."""
        single = [id for id in (self.bos, self.eos) if id is not None]
        check_ids([*single, *self.ends, *self.prefix, *self.names.values()], vocab_size)
        return self

    @property
    def end_ids(self) -> frozenset[int]:
        """Every id after which generation ends."""
        return frozenset(self.ends) | ({self.eos} if self.eos is not None else frozenset())

    last = end_ids  # its name in the first versions, which scripts use

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, to be merged into those of the tokenizer."""
        lists = {"names": dict(self.names), "ends": list(self.ends), "prefix": list(self.prefix)}
        flags = {name: list(flags) for name, flags in self.flags.items()}
        more = {"settings": dict(self.settings), "flags": flags, "generation": dict(self.generation)}
        return asdict(self) | lists | more

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Special":
        """The special tokens in the JSON object of a tokenizer, as `to_json` wrote them."""
        ids = {"bos": values.get("bos"), "eos": values.get("eos")}
        names, ends, template = values.get("names", {}), values.get("ends", []), values.get("template")
        settings, flags, generation = (values.get(name, {}) for name in ("settings", "flags", "generation"))
        prefix = values.get("prefix", [id for id in (ids["bos"],) if id is not None])  # older runs
        objects = (names, settings, flags, generation)
        if not all(isinstance(value, Mapping) for value in objects) or not isinstance(template, str | None):
            raise FathomError(
                "'names', 'settings', 'flags', 'generation' or 'template' is damaged; expected four objects and text"
            )
        if not isinstance(ends, list) or not isinstance(prefix, list):
            raise FathomError("'ends' or 'prefix' is damaged; expected lists of token ids")
        listed = [("ends", id) for id in ends] + [("prefix", id) for id in prefix]
        for name, id in [*ids.items(), *names.items(), *listed]:
            if type(id) is not int and (id is not None or name not in ids):
                raise FathomError(f"{name!r} is {id!r}; expected a token id{' or null' if name in ids else ''}")
        more = [dict(value) for value in (settings, flags, generation)]
        return cls(ids["bos"], ids["eos"], tuple(ends), dict(names), template, tuple(prefix), *more)


class Tokenizer(ABC):
    """Text to ids and back. Text never becomes a special token: only `special` names them."""

    kind: ClassVar[str]  # the word under which `from_json` finds the class
    vocab_size: int
    special: Special = Special()

    @property
    def bos(self) -> int | None:
        """The token that begins a text, whether or not it goes before every text; None: the format has none."""
        return self.special.bos

    @property
    def eos(self) -> int | None:
        """The token that ends a document; None: documents are separated by a newline."""
        return self.special.eos

    @property
    def prefix(self) -> list[int]:
        """The ids that the format puts before every text; `encode` leaves them out."""
        return list(self.special.prefix)

    @property
    def added_ids(self) -> frozenset[int]:
        """The ids of tokens that were added to the vocabulary, the special ones among them."""
        return frozenset(self.special.names.values())

    def continued(self, text: str) -> list[int]:
        """The ids of `text` where it follows a special token: no space that goes only before a whole text."""
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without prefix and eos. OutsideVocabulary where the vocabulary cannot spell it."""
        return self.encode_array(text).tolist()

    @abstractmethod
    def encode_array(self, text: str) -> TokenArray:
        """(n,) `encode` for corpora: an array of dtype `id_dtype(vocab_size)`."""

    @abstractmethod
    def cut(self, text: str) -> int:
        """The last place where `text`, whatever follows it, can be cut into two parts that have the ids of the whole.

        0: there is none.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. OutsideVocabulary: no such id."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The exact bytes of `ids`, which may end in the middle of a character."""

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes that each id adds to the text of those before it: of a first word the space may be dropped."""
        alone = [self.decode_bytes([id]) for id in ids]
        pairs = zip(ids, ids[1:], alone)
        return [*alone[:1], *(self.decode_bytes([one, id])[len(bytes_) :] for one, id, bytes_ in pairs)]

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All of the tokenizer as plain JSON values."""


def id_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """The narrowest unsigned type that holds every id below `vocab_size`."""
    for dtype in (np.uint8, np.uint16, np.uint32):
        if vocab_size <= np.iinfo(dtype).max + 1:
            return np.dtype(dtype)
    raise FathomError(f"vocab_size is {vocab_size}; expected at most 2 ** 32: ids are stored in 32 bits")


def id_array(chunks: Iterable[Sequence[int]], vocab_size: int) -> TokenArray:
    """(n,) the ids of all chunks, one after another."""
    dtype = id_dtype(vocab_size)
    return np.concatenate([np.zeros(0, dtype), *(np.array(ids, dtype) for ids in chunks)])


def check_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """`ids` as Python integers. OutsideVocabulary: one is not from 0 to below `vocab_size`."""
    numbers = [int(i) for i in ids]
    for place, number in enumerate(numbers):
        if not 0 <= number < vocab_size:
            raise OutsideVocabulary(f"token id {number} at place {place}; ids run from 0 to {vocab_size - 1}")
    return numbers


def check_size(n_tokens: int, vocab_size: int) -> None:
    """FathomError where a vocabulary is larger than its model's. It may be smaller: the model's rows may be padded."""
    if n_tokens > vocab_size:
        raise FathomError(f"a tokenizer of {n_tokens} tokens; the model has {vocab_size} ids; give the model's own")


def check_surplus(tokenizer: Tokenizer, vocab_size: int) -> None:
    """FathomError where so much lies beyond the model's ids that the tokenizer is another model's.

    Added tokens and a few others there are harmless: only using one of them is an error.
    """
    added = sum(id >= vocab_size for id in tokenizer.added_ids)
    if MATCHING * (tokenizer.vocab_size - added) > vocab_size:
        check_size(tokenizer.vocab_size, vocab_size)


def utf8(text: str) -> bytes:
    """`text` as UTF-8. FathomError: it holds half a surrogate pair, which UTF-8 cannot encode."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as problem:
        at = problem.start
        raise FathomError(
            f"U+{ord(text[at]):04X} at character {at} is half a surrogate pair; expected text that is valid Unicode"
        ) from None


def slices(text: str, size: int) -> Iterator[str]:
    """The text in chunks of at most `size` characters, cut anywhere."""
    return (text[start : start + size] for start in range(0, len(text), size))


def safe_chunks(chunks: Iterable[str], cut: Callable[[str], int], longest: int = MAX_CHUNK) -> Iterator[str]:
    """The same text in chunks that end where `cut` allows it, so that no token is split."""
    pending = ""
    for chunk in chunks:
        pending += chunk
        end = cut(pending) or (len(pending) if len(pending) > longest else 0)
        if end:
            yield pending[:end]
            pending = pending[end:]
    if pending:
        yield pending
