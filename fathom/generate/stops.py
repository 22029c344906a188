"""From tokens to text that can be shown at once and never has to be taken back.

A token may be half a character and a piece of text may be half a stop string: both are held back until it is clear
what they become. Does not know models.
"""

import codecs
from collections.abc import Sequence

from fathom.tokenizer.protocol import Tokenizer


class TextDecoder:
    """The text of a growing row of tokens, a piece for each; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self.tokenizer, self.context = tokenizer, list(before)
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """What `token` adds: what it decodes to after the tokens before it, without an unfinished last character."""
        old = self.tokenizer.decode_bytes(self.context)
        new = self.tokenizer.decode_bytes([*self.context, token])[len(old) :]
        self.context = [token] if new else [*self.context, token]  # a first word's space may depend on what precedes it
        return self.utf8.decode(new)

    def flush(self) -> str:
        """What is still held back, at the end."""
        return self.utf8.decode(b"", final=True)


class StopStrings:
    """Lets text through up to the first complete stop string. `found` once that was seen."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held, self.found = tuple(stops), "", False

    def push(self, text: str) -> str:
        """What of the text so far, beyond what was let through before, cannot be part of a stop string."""
        text = self.held + text
        ends = [(at + len(stop), at) for stop in self.stops if (at := text.find(stop)) >= 0]
        self.found = self.found or bool(ends)
        shown = (
            min(ends)[1] if ends else len(text) - self.pending(text)
        )  # the first to be complete; of those, the longest
        self.held = "" if ends else text[shown:]
        return text[:shown]

    def pending(self, text: str) -> int:
        """The length of the longest end of `text` with which a stop string begins."""
        longest = max(map(len, self.stops), default=0)
        lengths = range(min(len(text), longest), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self.stops)), 0)

    def flush(self) -> str:
        """What is still held back, at the end: it never became a stop string."""
        held, self.held = self.held, ""
        return held
