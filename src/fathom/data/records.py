"""Records for fine-tuning: conversations, questions with answers, completions, plain texts.

The kind of the records is detected from the first; every other must be the same. A field that is not used is counted,
never dropped in silence.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fathom.data.dialogues import Dialogue, of_messages, of_pair, of_prompt, required, text_of
from fathom.data.record_files import Entry, Values, entries
from fathom.errors import FathomError, near


@dataclass(frozen=True)
class Document:
    """A text, all of which is learned."""

    text: str


@dataclass(frozen=True)
class Completion:
    """A text and what follows it, which alone is learned."""

    prompt: str
    completion: str


Record = Document | Completion | Dialogue


@dataclass(frozen=True)
class Kind:
    """The fields of one kind of records, and how a record is built from them. Errors of `build` begin with `where`."""

    description: str
    fields: tuple[str, ...]
    build: Callable[[Values, str], Record]
    more: tuple[str, ...] = ()  # fields that are used where they are there


def _completion(values: Values, where: str) -> Record:
    if isinstance(values["prompt"], list) or isinstance(values["completion"], list):
        return of_prompt(values, where)
    return Completion(text_of(values, "prompt", where), required(values, "completion", where))


def _document(values: Values, where: str) -> Record:
    return Document(required(values, "text", where))


def _conversations(name: str, description: str) -> Kind:
    more = ("system", "tools", "functions", "chat_template_kwargs")
    return Kind(f"{description} ({name})", (name,), lambda values, where: of_messages(values, name, where), more)


def _pairs(question: str, answer: str, description: str = "questions with an answer") -> Kind:
    more = [name for name in ("input", "context") if name not in (question, answer)]
    return Kind(
        f"{description} ({question}, perhaps {more[0]}, {answer})",
        (question, answer),
        lambda values, where: of_pair(values, question, answer, where),
        (*more, "system", "system_prompt", "history", "tools"),
    )


KINDS = (
    _conversations("messages", "conversations"),
    _conversations("conversations", "conversations as ShareGPT writes them"),
    _conversations("conversation", "conversations"),
    _pairs("instruction", "output", "instructions with an answer"),
    _pairs("instruction", "response", "instructions with an answer"),
    Kind(
        "prompts with a completion (prompt, completion)",
        ("prompt", "completion"),
        _completion,
        ("tools", "chat_template_kwargs"),
    ),
    _pairs("prompt", "response"),
    _pairs("question", "answer"),
    _pairs("question", "response"),
    _pairs("query", "response"),
    _pairs("input", "output"),
    Kind("plain texts (text)", ("text",), _document),
)


@dataclass
class RecordFile:
    """The records of one or several files, as often as they are iterated over.

    FathomError names file, record and field. skip: the kind may be that of a later record, where the first are bad.
    unused: how many records had each field that nothing reads, of those that were built so far; latest: those fields of
    the last of them.
    """

    paths: tuple[Path, ...]
    kind: Kind
    unused: Counter[str] = field(default_factory=Counter)
    latest: set[str] = field(default_factory=set)

    def __init__(self, *paths: Path, skip: bool = False) -> None:
        self.paths, self.unused, self.latest = paths, Counter(), set[str]()
        self.kind = detect(self.entries(), str(paths[0]), tries=100 if skip else 1)

    def entries(self) -> Iterator[Entry]:
        """The records as they stand in the files."""
        for path in self.paths:
            yield from entries(path)

    def build(self, entry: Entry) -> Record:
        values, where = entry.values(), entry.where
        if missing := [name for name in self.kind.fields if name not in values]:
            similar = near(missing[0], [str(name) for name in values if name not in self.kind.fields]) or ";"
            raise FathomError(
                f"{where}: no field {missing[0]!r}, found {_names(values)}{similar} the first record is one of"
                f" {self.kind.description}"
            )
        record = self.kind.build(values, where)
        used = {*self.kind.fields, *self.kind.more}
        self.latest = {str(name) for name, value in values.items() if name not in used and value is not None}
        self.unused.update(self.latest)
        return record

    def __iter__(self) -> Iterator[Record]:
        self.unused.clear()
        return map(self.build, self.entries())


def detect(found: Iterator[Entry], path: str, tries: int) -> Kind:
    """The kind of the first record, or with more `tries` of the first that has one."""
    problem = FathomError(f"{path}: holds no records; expected JSON lines or a JSON list of objects")
    for number, entry in enumerate(found):
        try:
            return detect_kind(entry.values(), entry.where)
        except FathomError as error:
            problem = problem if number else error
        if number + 1 >= tries:
            break
    raise problem


def detect_kind(values: Values, where: str) -> Kind:
    """The first kind whose fields are all present."""
    for kind in KINDS:
        if all(field in values for field in kind.fields):
            return kind
    if {"chosen", "rejected"} <= values.keys():
        raise FathomError(
            f"{where}: preferences (chosen, rejected), which finetune does not learn from; expected an answer: give"
            " 'chosen' as 'completion' beside 'prompt', or as 'messages'"
        )
    expected = ", ".join(" + ".join(kind.fields) for kind in KINDS)
    raise FathomError(f"{where}: the fields are {_names(values)}; expected one of {expected}")


def unused_fields(unused: Mapping[str, int], n_records: int) -> str:
    """Which fields of how many records were not used, in words; empty where all were."""
    named = [f"{name!r} ({count:,} of {n_records:,} records)" for name, count in sorted(unused.items())]
    more = f" and {len(named) - 8} others" if len(named) > 8 else ""
    return f"fields that are not used: {', '.join(named[:8])}{more}" if named else ""


def _names(values: Mapping[Any, Any]) -> str:
    return ", ".join(map(repr, values))[:300] or "none at all"
