"""How a chat template ends a turn: with a token, or with text alone. Read from what it writes after an answer."""

from dataclasses import dataclass
from functools import lru_cache

from fathom.errors import FathomError
from fathom.tokenizer.message import FRAME, Message
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import render

CALL = {"id": "abcdef123", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}
BARE = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": {}}}
ANSWER, *CALLS = (
    Message("assistant", "y"),
    *(Message("assistant", None, {"tool_calls": [call]}) for call in (CALL, BARE)),
)


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
