"""Records that say what to answer: files of conversations, of questions with answers, or of plain texts.

What the records are is detected from the first and said in words; every other must be the same. JSON lines are read
as a stream; a JSON list is held whole. Knows no tokenizer: `examples` makes tokens of records.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fathom.data.text import LONGEST_LINE, opened
from fathom.errors import FathomError, near
from fathom.tokenizer.template import Message, read_message

BLANK = b"\xef\xbb\xbf \t\r\n"  # with the mark that some write before UTF-8
LARGEST = 1 << 30  # bytes of a file that has to be read whole


@dataclass(frozen=True)
class Document:
    """A text that is learned as it is."""

    text: str


@dataclass(frozen=True)
class Completion:
    """A text and what follows it: only that is learned."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Dialogue:
    """A conversation, of which the assistant's part is learned."""

    messages: tuple[Message, ...]


Record = Document | Completion | Dialogue
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """What records of one kind hold, and how one becomes a Record. Errors of `make` begin with `where`."""

    about: str
    fields: tuple[str, ...]
    make: Callable[[Values, str], Record]


def _messages(values: Values, where: str) -> Record:
    found = values["messages"]
    if not isinstance(found, list) or not found:
        raise FathomError(f"{where}: 'messages' is {type(found).__name__}; expected a list of at least one message")
    messages = tuple(read_message(entry, f"{where}, message {place}") for place, entry in enumerate(found, 1))
    answers = [place for place, message in enumerate(messages, 1) if message.role == "assistant"]
    if not answers:
        raise FathomError(f"{where}: no message has the role assistant; expected an answer to learn from")
    if empty := [place for place in answers if not messages[place - 1].content.strip()]:
        raise FathomError(f"{where}, message {empty[0]}: 'content' is empty; expected an answer to learn from")
    return Dialogue(messages)


def _instruction(values: Values, where: str) -> Record:
    question, more = _text(values, "instruction", where), _text(values, "input", where, optional=True)
    question = f"{question}\n\n{more}" if more.strip() else question
    return Dialogue((Message("user", question), Message("assistant", _text(values, "output", where))))


def _completion(values: Values, where: str) -> Record:
    return Completion(_text(values, "prompt", where, optional=True), _text(values, "completion", where))


def _document(values: Values, where: str) -> Record:
    return Document(_text(values, "text", where))


KINDS = (
    Kind("conversations (messages)", ("messages",), _messages),
    Kind("instructions with an answer (instruction, perhaps input, output)", ("instruction", "output"), _instruction),
    Kind("prompts with a completion (prompt, completion)", ("prompt", "completion"), _completion),
    Kind("plain texts (text)", ("text",), _document),
)


class Instructions:
    """The records of a file, again and again. `kind` says what they are; FathomError names file, record and field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        where, first = next(entries(path), (str(path), None))
        if first is None:
            raise FathomError(f"{path}: holds no records; expected JSON lines or a JSON list of objects")
        self.kind = kind_of(first, where)

    def __iter__(self) -> Iterator[Record]:
        for where, values in entries(self.path):
            if missing := [field for field in self.kind.fields if field not in values]:
                raise FathomError(
                    f"{where}: no field {missing[0]!r}, found {_names(values)}{near(missing[0], map(str, values))}"
                    f"{'' if near(missing[0], map(str, values)) else ';'} the first record is one of {self.kind.about}"
                )
            yield self.kind.make(values, where)


def kind_of(values: Values, where: str) -> Kind:
    """The first kind whose fields are all there."""
    for kind in KINDS:
        if all(field in values for field in kind.fields):
            return kind
    wanted = ", or ".join(" + ".join(kind.fields) for kind in KINDS)
    raise FathomError(f"{where}: the fields are {_names(values)}; expected {wanted}")


def entries(path: Path) -> Iterator[tuple[str, Values]]:
    """(where, object) for each record. A file that begins with `[`, or with an unfinished line, is read whole."""
    with opened(path) as file:
        line = file.readline(LONGEST_LINE)
        while line and not line.strip(BLANK):
            line = file.readline(LONGEST_LINE)
        whole = line.lstrip(BLANK).startswith(b"[") or not _is_json(line)
        file.seek(0)
        for where, values in _listed(path, file) if whole and line else _lines(path, file):
            if not isinstance(values, dict):
                raise FathomError(f"{where}: {type(values).__name__}; expected an object with fields")
            yield where, values


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[str, Any]]:
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise FathomError(f"{path}, line {number}: longer than {LONGEST_LINE >> 20} MiB; expected a record a line")
        if line.strip(BLANK):
            yield f"{path}, line {number}", _parsed(line, f"{path}, line {number}")


def _listed(path: Path, file: BinaryIO) -> Iterator[tuple[str, Any]]:
    data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise FathomError(
            f"{path}: a JSON list larger than {LARGEST >> 30} GiB; write it as JSON lines, one record each"
        )
    values = _parsed(data, str(path))
    for number, entry in enumerate(values if isinstance(values, list) else [values], 1):
        yield f"{path}, record {number}", entry


def _parsed(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as problem:
        raise FathomError(f"{where}: not UTF-8 at byte {problem.start}; save the file as UTF-8") from None
    except (ValueError, RecursionError) as problem:
        raise FathomError(f"{where}: not JSON ({problem}); expected an object with fields") from None


def _text(values: Values, field: str, where: str, optional: bool = False) -> str:
    """The text of a field; an empty one teaches nothing."""
    text = values.get(field) or "" if optional else values[field]
    if not isinstance(text, str):
        raise FathomError(f"{where}: {field!r} is {type(text).__name__}; expected text")
    if not optional and not text.strip():
        raise FathomError(f"{where}: {field!r} is empty; expected text to learn from")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FathomError(f"{where}: half a surrogate pair (\\ud800 to \\udfff) in {field!r}; expected valid Unicode")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _names(values: Values) -> str:
    return ", ".join(map(repr, values))[:300] or "none at all"
