"""Records for fine-tuning: files of conversations, of questions with answers, or of plain texts.

The kind of the records is detected from the first; every other must be the same. JSON lines are read as a stream, a
JSON list is read whole.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fathom.data.text import BLANK, JSON_LINES, MAX_LINE, json_lines, opened, parse_json, text_field
from fathom.errors import FathomError, near
from fathom.tokenizer.message import Message, read_message

SUFFIXES = (".json", *JSON_LINES)  # other files are plain text
MAX_BYTES = 1 << 30  # of a file that has to be read whole


@dataclass(frozen=True)
class Document:
    """A text, all of which is learned."""

    text: str


@dataclass(frozen=True)
class Completion:
    """A text and what follows it, which alone is learned."""

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
    """The fields of one kind of records, and how a record is built from them. Errors of `build` begin with `where`."""

    description: str
    fields: tuple[str, ...]
    build: Callable[[Values, str], Record]


def _messages(values: Values, where: str) -> Record:
    entries = values["messages"]
    if not isinstance(entries, list) or not entries:
        raise FathomError(f"{where}: 'messages' is {type(entries).__name__}; expected a list of at least one message")
    messages = tuple(read_message(entry, f"{where}, message {place}") for place, entry in enumerate(entries, 1))
    answers = [place for place, message in enumerate(messages, 1) if message.role == "assistant"]
    if not answers:
        raise FathomError(f"{where}: no message has the role assistant; expected an answer to learn from")
    if empty := [place for place in answers if not messages[place - 1].text.strip() and not messages[place - 1].fields]:
        raise FathomError(f"{where}, message {empty[0]}: 'content' is empty; expected an answer to learn from")
    return Dialogue(messages)


def _instruction(values: Values, where: str) -> Record:
    question, more = _required(values, "instruction", where), _optional(values, "input", where)
    question = f"{question}\n\n{more}" if more.strip() else question
    return Dialogue((Message("user", question), Message("assistant", _required(values, "output", where))))


def _completion(values: Values, where: str) -> Record:
    return Completion(_optional(values, "prompt", where), _required(values, "completion", where))


def _document(values: Values, where: str) -> Record:
    return Document(_required(values, "text", where))


KINDS = (
    Kind("conversations (messages)", ("messages",), _messages),
    Kind("instructions with an answer (instruction, perhaps input, output)", ("instruction", "output"), _instruction),
    Kind("prompts with a completion (prompt, completion)", ("prompt", "completion"), _completion),
    Kind("plain texts (text)", ("text",), _document),
)


def is_record_file(data: str) -> bool:
    """Whether the data are records, and not plain text, by the name of the file."""
    return Path(data).suffix.lower() in SUFFIXES and "://" not in data


class RecordFile:
    """The records of a file, as often as they are iterated over. FathomError names file, record and field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        where, first = next(entries(path), (str(path), None))
        if first is None:
            raise FathomError(f"{path}: holds no records; expected JSON lines or a JSON list of objects")
        self.kind = detect_kind(first, where)

    def __iter__(self) -> Iterator[Record]:
        for where, values in entries(self.path):
            if missing := [field for field in self.kind.fields if field not in values]:
                similar = near(missing[0], map(str, values)) or ";"
                raise FathomError(
                    f"{where}: no field {missing[0]!r}, found {_names(values)}{similar} the first record is one of"
                    f" {self.kind.description}"
                )
            yield self.kind.build(values, where)


def detect_kind(values: Values, where: str) -> Kind:
    """The first kind whose fields are all present."""
    for kind in KINDS:
        if all(field in values for field in kind.fields):
            return kind
    expected = ", or ".join(" + ".join(kind.fields) for kind in KINDS)
    raise FathomError(f"{where}: the fields are {_names(values)}; expected {expected}")


def entries(path: Path) -> Iterator[tuple[str, Values]]:
    """(where, object) for each record. A file that begins with `[`, or with an unfinished line, is read whole."""
    with opened(path) as file:
        line = file.readline(MAX_LINE)
        while line and not line.strip(BLANK):
            line = file.readline(MAX_LINE)
        whole = line.lstrip(BLANK).startswith(b"[") or not _is_json(line)
        file.seek(0)
        for where, values in _json_list(path, file) if whole and line else json_lines(path, file):
            if not isinstance(values, dict):
                raise FathomError(f"{where}: {type(values).__name__}; expected an object with fields")
            yield where, values


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line, "")
    except FathomError:
        return False
    return True


def _json_list(path: Path, file: BinaryIO) -> Iterator[tuple[str, Any]]:
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FathomError(f"{path}: a JSON list larger than {MAX_BYTES >> 30} GiB; write it as JSON lines")
    values = parse_json(data, str(path))
    for number, entry in enumerate(values if isinstance(values, list) else [values], 1):
        yield f"{path}, record {number}", entry


def _required(values: Values, field: str, where: str) -> str:
    text = text_field(values, field, where)
    if not text.strip():
        raise FathomError(f"{where}: {field!r} is empty; expected text to learn from")
    return text


def _optional(values: Values, field: str, where: str) -> str:
    return text_field(values, field, where) if values.get(field) else ""


def _names(values: Values) -> str:
    return ", ".join(map(repr, values))[:300] or "none at all"
