"""How a chat template ends a turn: with a token, or with text alone. Read from what it writes after an answer.

A tokenizer gets another template here, and with it the tokens that end its turns.
"""

import copy
import re
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from fathom.errors import FathomError, near
from fathom.tokenizer.load import read_template
from fathom.tokenizer.message import FRAME, Message
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import NAMES, render, template_for
from fathom.tokenizer.typed import uniform

CALL = {"id": "abcdef123", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}
BARE = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": {}}}
ANSWER, *CALLS = (
    Message("assistant", "y"),
    *(Message("assistant", None, {"tool_calls": [call]}) for call in (CALL, BARE)),
)


MARKS = re.compile(r"<\|\w+\|>")  # what looks like a special token


@dataclass(frozen=True)
class Closing:
    """What ends an answer: `ids`, tokens other than the tokenizer's own ends; `texts`: what is written after each kind
    of answer."""

    ids: frozenset[int]
    texts: tuple[bytes, ...]


@lru_cache(maxsize=8)
def closing(tokenizer: Tokenizer) -> Closing:
    """How the tokenizer's template ends an answer, and a call of a tool where it writes those."""
    ends, special, texts = {*tokenizer.special.end_ids}, {*tokenizer.special.names.values()}, list[bytes]()
    for answer in (ANSWER, *CALLS):
        try:
            found = render(tokenizer, [Message("user", "x"), answer], reply=False)
        except FathomError:
            continue
        said = [place for place, role in enumerate(found.roles) if role not in (FRAME, "user")]
        after = found.ids[said[-1] + 1 :] if said else []
        tokens = [id for id in after if id in special]
        if tokens and answer is ANSWER:
            ends.add(tokens[0])
        elif tokens and ends.isdisjoint(tokens):  # others may end the call itself, and not the turn
            ends.add(tokens[-1])
        text = b"".join(tokenizer.token_bytes(found.ids)[said[-1] + 1 :]) if said else b""
        texts.append(text.rstrip())
    return Closing(frozenset(ends) - tokenizer.special.end_ids, tuple(text for text in texts if text))


def find_template(name: str) -> str:
    """The chat template that is called so, or in a file of Jinja."""
    if name in NAMES:
        return NAMES[name]
    if not Path(name).is_file():
        raise FathomError(
            f"chat template {name!r}: expected a file in Jinja, or one of {', '.join(NAMES)}{near(name, NAMES)}"
        )
    return uniform(read_template(Path(name)))


def with_template(tokenizer: Tokenizer, name: str | None = None) -> Tokenizer:
    """The same tokenizer with this chat template, else its own or what its tokens ask for; what ends a turn there ends
    generation too. Where the template spells what looks like a special token and is none, a warning says so."""
    template = template_for(tokenizer) if name is None else find_template(name)
    if template in NAMES.values() and "bos_token" not in template and tokenizer.prefix:
        template = "{{- bos_token }}" + template  # as every text of this model begins
    spelled = set(MARKS.findall(template)) - tokenizer.special.names.keys()
    if name is not None and spelled:
        listed = ",".join(sorted(spelled))
        warnings.warn(
            f"the chat template {name} writes {listed}, which the tokenizer has only as text; add tokens:"
            f" --add-token '{listed}'",
            stacklevel=2,
        )
    settings = {key: value for key, value in tokenizer.special.settings.items() if key != "chat_template" or not name}
    changed = copy.copy(tokenizer)
    changed.special = replace(tokenizer.special, template=template, settings=settings)
    ends = (*changed.special.ends, *sorted(closing(changed).ids))
    changed = copy.copy(changed)
    changed.special = replace(changed.special, ends=ends)
    return changed
