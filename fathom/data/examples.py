"""From a record to what a model is shown: its tokens, who says each, and which of them are learned.

Of a conversation all that the assistant has to write is learned: from where the template leaves it to answer, to the
token that ends the answer. Does not know files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.data.corpus import Corpus
from fathom.data.records import Completion, Dialogue, Document, Record
from fathom.data.token_file import encoded, open_tokens, write_tokens
from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer.protocol import TokenArray, Tokenizer, id_dtype
from fathom.tokenizer.template import FRAME, Message, render

TEXT, USER, ASSISTANT = "text", "user", "assistant"


@dataclass(frozen=True)
class Example:
    """What a model is shown. A token that is `trained` is one to be predicted from those before it."""

    ids: tuple[int, ...]
    roles: tuple[str, ...]  # of each token: text, user, assistant, ..., or FRAME for what nobody says
    trained: tuple[bool, ...]


def rendered(record: Record, tokenizer: Tokenizer) -> Example:
    """The tokens of a record; FathomError where they cannot be said in this vocabulary or by this template."""
    start = tokenizer.prefix
    match record:
        case Document(text):
            return _side_by_side(
                (start, FRAME, True), (tokenizer.encode(text), TEXT, True), (end_of(tokenizer), FRAME, True)
            )
        case Completion(prompt, completion):
            question = (tokenizer.encode(prompt), USER, False)
            return _side_by_side(
                (start, FRAME, False),
                question,
                (tokenizer.encode(completion), ASSISTANT, True),
                (end_of(tokenizer), FRAME, True),
            )
        case Dialogue(messages):
            return conversation(messages, tokenizer)


def _side_by_side(*parts: tuple[list[int], str, bool]) -> Example:
    ids, roles, trained = zip(*((id, role, learned) for found, role, learned in parts for id in found))
    return Example(ids, roles, trained)


def end_of(tokenizer: Tokenizer) -> list[int]:
    """What ends a document: eos, else a newline where there is one."""
    if tokenizer.eos is not None:
        return [tokenizer.eos]
    try:
        return tokenizer.encode("\n")
    except OutsideVocabulary:
        return []


def conversation(messages: Sequence[Message], tokenizer: Tokenizer) -> Example:
    """A conversation in which the assistant's answers are trained."""
    whole = render(tokenizer, messages, reply=False)
    ids, roles = whole.ids, whole.roles
    starts = _starts(messages, tokenizer, ids)
    trained, place = [False] * len(ids), 0
    while place < len(ids):
        answering = place in starts or roles[place] == ASSISTANT
        end = answer_end(ids, roles, place, tokenizer) if answering else place
        trained[place:end] = [True] * (end - place)
        place = max(end, place + 1)
    return Example(tuple(ids), tuple(roles), tuple(trained))


def _starts(messages: Sequence[Message], tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Where the assistant is left to answer, as when it is asked; none where a template tells the past another way."""
    turns = [place for place, message in enumerate(messages) if message.role == ASSISTANT and place]
    asked = [render(tokenizer, messages[:turn], reply=True).ids for turn in turns]
    return [len(question) for question in asked if ids[: len(question)] == question]


def answer_end(ids: Sequence[int], roles: Sequence[str], start: int, tokenizer: Tokenizer) -> int:
    """One past the last token of the answer that begins at `start`: the token that ends it, where there is one."""
    special, last = frozenset(tokenizer.special.names.values()), tokenizer.special.end_ids
    said = place = start  # said: one past what the assistant itself has said
    while place < len(ids) and roles[place] in (ASSISTANT, FRAME):
        if roles[place] == ASSISTANT:
            said = place + 1
        elif ids[place] in last:
            return place + 1
        elif ids[place] in special and said > start:
            return place + 1 if place == said else said
        place += 1
    return said if last else place


def windows(corpus: Corpus, tokenizer: Tokenizer, length: int) -> Iterator[Example]:
    """A corpus as pre-training reads it: its documents one after another, cut into windows wherever that falls."""
    held: list[int] = []
    for ids in encoded(corpus, tokenizer, lambda done, total: None):
        held += ids.tolist()
        while len(held) >= length:
            yield _plain(held[:length], tokenizer)
            held = held[length:]
    if held:
        yield _plain(held, tokenizer)


def _plain(ids: list[int], tokenizer: Tokenizer) -> Example:
    return _side_by_side(*(([id], FRAME if id == tokenizer.eos else TEXT, True) for id in ids))


# Examples on disk: their tokens one after another, which of them are learned, where each ends, and whose they were.
#
# ids.npy trained.npy (0 or 1) ends.npy numbers.npy (of the record in its file, from 1)
#
# Written once, when a run is made, and read through a memory map, so that to resume needs neither the file of records
# nor the tokenizer. Does not know how examples become batches.

FIELDS = ("ids", "trained", "ends", "numbers")


@dataclass(frozen=True)
class Short:
    """An example as numbers. `number` is its record's."""

    ids: TokenArray  # (n,)
    trained: NDArray[np.uint8]  # (n,)
    number: int

    @property
    def n_trained(self) -> int:
        """Tokens that are predicted and learned; nothing predicts the first."""
        return int(self.trained[1:].sum())


def short(example: Example, number: int, length: int, vocab_size: int, whole: bool) -> Short:
    """The first `length` tokens of an example; `whole`: all of them are learned."""
    ids = np.array(example.ids[:length], id_dtype(vocab_size))
    return Short(ids, np.array(example.trained[:length], np.uint8) | np.uint8(whole), number)


class ExampleFile:
    """The examples in a folder."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """FathomError where it is not complete or does not fit together."""
        largest = {"ids": vocab_size, "trained": 2, "ends": 1 << 62, "numbers": 1 << 62}
        self.folder = folder
        self.ids, self.trained, ends, self.numbers = (
            open_tokens(folder / f"{field}.npy", largest[field]) for field in FIELDS
        )
        self.ends = np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])  # (n + 1,)
        sizes = (len(self.trained), int(self.ends[-1]))
        if sizes != (len(self.ids),) * 2 or len(ends) != len(self.numbers) or (np.diff(self.ends) < 2).any():
            raise FathomError(f"{folder}: its files do not fit together; prepare the data again")

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Short:
        part = slice(self.ends[place], self.ends[place + 1])
        return Short(self.ids[part], self.trained[part], int(self.numbers[place]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each."""
        return np.diff(self.ends)


def write_examples(folder: Path, examples: Sequence[Short], vocab_size: int) -> None:
    """Write them into a new folder."""
    folder.mkdir()
    kinds: dict[str, tuple[list[TokenArray], Any]] = {
        "ids": ([example.ids for example in examples], id_dtype(vocab_size)),
        "trained": ([example.trained for example in examples], np.uint8),
        "ends": ([np.cumsum([len(example.ids) for example in examples], dtype=np.uint64)], np.uint64),
        "numbers": ([np.array([example.number for example in examples], np.uint64)], np.uint64),
    }
    for field, (arrays, dtype) in kinds.items():
        write_tokens(folder / f"{field}.npy", arrays, np.dtype(dtype))
