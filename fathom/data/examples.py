"""From a record to what a model is shown: its tokens, who says each, and which of them are learned.

Of a conversation all that the assistant has to write is learned: from where the template leaves it to answer, to the
token that ends the answer. Does not know files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fathom.data.corpus import Corpus
from fathom.data.instructions import Completion, Dialogue, Document, Record
from fathom.data.prepare import encoded
from fathom.errors import OutsideVocabulary
from fathom.tokenizer.protocol import Tokenizer
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
    start = [] if tokenizer.bos is None else [tokenizer.bos]
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
    special, last = frozenset(tokenizer.special.names.values()), tokenizer.special.last
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
