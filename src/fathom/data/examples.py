"""From records to examples: their tokens, the role of each token, and which are learned.

Of a conversation all that the assistant has to write is learned: from where the template leaves it to answer, to the
token that ends the answer. An example that is too long is truncated; one of which nothing is learned then is dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fathom.data.corpus import Corpus
from fathom.data.records import Completion, Dialogue, Document, Record, RecordFile
from fathom.data.token_file import encode_corpus
from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer.message import FRAME, Message
from fathom.tokenizer.protocol import TokenArray, Tokenizer, id_dtype
from fathom.tokenizer.template import render, template_for, template_origin

TEXT, USER, ASSISTANT = "text", "user", "assistant"
REPORT_EVERY = 1000  # records


@dataclass(frozen=True)
class Example:
    """What a model is shown. A token that is `trained` is one to be predicted from those before it."""

    ids: tuple[int, ...]
    roles: tuple[str, ...]  # of each token: text, user, assistant, ..., or FRAME for what belongs to no message
    trained: tuple[bool, ...]


def to_example(record: Record, tokenizer: Tokenizer) -> Example:
    """The tokens of a record. FathomError: the vocabulary cannot spell it, or the template refuses it."""
    prefix, end = tokenizer.prefix, end_of_document(tokenizer)
    match record:
        case Document(text):
            return _concatenated((prefix, FRAME, True), (tokenizer.encode(text), TEXT, True), (end, FRAME, True))
        case Completion(prompt, completion):
            question, answer = tokenizer.encode(prompt), tokenizer.encode(completion)
            return _concatenated(
                (prefix, FRAME, False), (question, USER, False), (answer, ASSISTANT, True), (end, FRAME, True)
            )
        case Dialogue(messages):
            return dialogue_example(messages, tokenizer)


def question_ids(text: str, tokenizer: Tokenizer, chat: bool) -> list[int]:
    """The tokens of a question as those of the data begin: in the chat template, or as a prompt."""
    if chat:
        return render(tokenizer, [Message("user", text)], reply=True).ids
    return tokenizer.prefix + tokenizer.encode(text)


def _concatenated(*parts: tuple[list[int], str, bool]) -> Example:
    """Parts of (ids, role, trained), one after another."""
    ids, roles, trained = zip(*((id, role, learned) for part, role, learned in parts for id in part))
    return Example(ids, roles, trained)


def end_of_document(tokenizer: Tokenizer) -> list[int]:
    """What ends a document: eos, else a newline if the vocabulary has one."""
    if tokenizer.eos is not None:
        return [tokenizer.eos]
    try:
        return tokenizer.encode("\n")
    except OutsideVocabulary:
        return []


def dialogue_example(messages: Sequence[Message], tokenizer: Tokenizer) -> Example:
    """A conversation in which the assistant's answers are trained."""
    whole = render(tokenizer, messages, reply=False)
    ids, roles = whole.ids, whole.roles
    starts = _answer_starts(messages, tokenizer, ids)
    trained, place = [False] * len(ids), 0
    while place < len(ids):
        answering = place in starts or roles[place] == ASSISTANT
        end = answer_end(ids, roles, place, tokenizer) if answering else place
        trained[place:end] = [True] * (end - place)
        place = max(end, place + 1)
    return Example(tuple(ids), tuple(roles), tuple(trained))


def _answer_starts(messages: Sequence[Message], tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Where the assistant is left to answer, as when asked; none where a template renders the past differently."""
    turns = [place for place, message in enumerate(messages) if message.role == ASSISTANT and place]
    asked = [render(tokenizer, messages[:turn], reply=True).ids for turn in turns]
    return [len(question) for question in asked if ids[: len(question)] == question]


def answer_end(ids: Sequence[int], roles: Sequence[str], start: int, tokenizer: Tokenizer) -> int:
    """One past the last token of the answer that begins at `start`: the token that ends it, if there is one."""
    special, end_ids = frozenset(tokenizer.special.names.values()), tokenizer.special.end_ids
    written = place = start  # written: one past what the assistant itself has written
    while place < len(ids) and roles[place] in (ASSISTANT, FRAME):
        if roles[place] == ASSISTANT:
            written = place + 1
        elif ids[place] in end_ids:
            return place + 1
        elif ids[place] in special and written > start:
            return place + 1 if place == written else written
        place += 1
    return written if end_ids else place


def corpus_examples(corpus: Corpus, tokenizer: Tokenizer, length: int) -> Iterator[Example]:
    """A corpus as pre-training reads it: its documents one after another, cut into windows of `length` tokens."""
    ids: list[int] = []
    for more in encode_corpus(corpus, tokenizer):
        ids += more.tolist()
        while len(ids) >= length:
            yield _window(ids[:length], tokenizer)
            ids = ids[length:]
    if ids:
        yield _window(ids, tokenizer)


def _window(ids: list[int], tokenizer: Tokenizer) -> Example:
    roles = tuple(FRAME if id == tokenizer.eos else TEXT for id in ids)
    return Example(tuple(ids), roles, (True,) * len(ids))


@dataclass(frozen=True)
class TrainingExample:
    """An example as arrays, without roles. `number` is that of its record in the file, from 1."""

    ids: TokenArray  # (n,)
    trained: NDArray[np.uint8]  # (n,)
    number: int

    @property
    def n_trained(self) -> int:
        """Tokens that are predicted and learned; nothing predicts the first."""
        return int(self.trained[1:].sum())


@dataclass(frozen=True)
class EncodedFile:
    """The examples of a file, and how many records were truncated or dropped."""

    description: str
    examples: tuple[TrainingExample, ...]
    n_truncated: int
    n_dropped: int
    chat: bool  # whether the records are conversations, in the tokenizer's chat template


def encode_file(
    path: Path,
    tokenizer: Tokenizer,
    length: int,
    train_all: bool,
    progress: Callable[[int], None] = lambda n_records: None,
) -> EncodedFile:
    """The examples of a file of records, each at most `length` tokens; `train_all`: the questions are learned too.

    FathomError names file and record where one cannot be encoded, and where nothing is left to learn.
    """
    records, examples, n_truncated, n_dropped = RecordFile(path), list[TrainingExample](), 0, 0
    template = ""
    for number, record in enumerate(records, 1):
        try:
            whole = to_example(record, tokenizer)
        except FathomError as problem:
            raise FathomError(f"{path}, record {number}: {problem}") from None
        if isinstance(record, Dialogue) and not template:
            template = f"; chat template: {template_origin(template_for(tokenizer))}"
        ids = np.array(whole.ids[:length], id_dtype(tokenizer.vocab_size))
        example = TrainingExample(ids, np.array(whole.trained[:length], np.uint8) | np.uint8(train_all), number)
        n_truncated += len(whole.ids) > length
        n_dropped += not example.n_trained
        examples += [example] if example.n_trained else []
        if number % REPORT_EVERY == 0:
            progress(number)
    if not examples:
        raise FathomError(
            f"{path}: of {n_dropped:,} records nothing is left to learn in the first {length:,} tokens of each; raise"
            " --block-size or give other records"
        )
    return EncodedFile(f"{records.kind.description}{template}", tuple(examples), n_truncated, n_dropped, bool(template))


def split_examples(
    examples: Sequence[TrainingExample], fraction: float, seed: int
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """(training, validation): that fraction of the examples, drawn at random, is held back; at least one of each."""
    if len(examples) < 2:
        raise FathomError("there is 1 example, which cannot be split; give more, or others with --val-data")
    n_val = min(max(1, round(len(examples) * fraction)), len(examples) - 1)
    held_back = set(np.random.default_rng([seed, len(examples)]).permutation(len(examples))[:n_val].tolist())
    parts: tuple[list[TrainingExample], list[TrainingExample]] = ([], [])
    for place, example in enumerate(examples):
        parts[place in held_back].append(example)
    return parts


def count_shared(train: Sequence[TrainingExample], val: Sequence[TrainingExample]) -> int:
    """How many of the validation examples are training examples too, token for token."""
    known = {example.ids.tobytes() for example in train}
    return sum(example.ids.tobytes() in known for example in val)
