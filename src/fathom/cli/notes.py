"""What the source says of a dataclass's fields: the comment beside each is its help on the command line, written once.

`rank: int = 8  # rank of the adapter` is a sentence; `# ...; None: 2 * rank` names the default that None stands for; a
comment on a line of its own, after an empty line, is the heading of the fields below it.
"""

import dataclasses
import inspect
import re
from functools import cache

FIELD = re.compile(r"    (?P<name>\w+): (?:[^#\"']|\"[^\"]*\"|'[^']*')*(?:  # (?P<comment>.*))?")
HEADING = re.compile(r"    # (?P<text>\w.*)")
UNSET = re.compile(r"(?:^|; )(?:None|empty): (?P<text>.*)$")


@dataclasses.dataclass(frozen=True)
class Note:
    """The comment of a field."""

    sentence: str = ""
    unset: str = ""  # what an empty default stands for
    heading: str = ""


@cache
def notes(cls: type) -> dict[str, Note]:
    """The notes of a dataclass by field name, with those of its bases; none where there is no source."""
    found: dict[str, Note] = {}
    for base in cls.__mro__[::-1]:
        if dataclasses.is_dataclass(base):
            found |= _read(base)
    return found


def _read(cls: type) -> dict[str, Note]:
    try:
        lines = inspect.getsource(cls).splitlines()
    except (OSError, TypeError):
        return {}
    found, heading, before = {}, "", ""
    for line in lines:
        if re.match(r"    (def|@)", line):
            break
        if match := HEADING.fullmatch(line):
            heading = match["text"] if not before.strip() else heading
        elif (match := FIELD.fullmatch(line)) and match["name"] in cls.__annotations__:
            comment = match["comment"] or ""
            unset = UNSET.search(comment)
            sentence = comment[: unset.start()] if unset else comment
            found[match["name"]] = Note(sentence, unset["text"] if unset else "", heading)
        before = line
    return found
