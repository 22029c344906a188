"""One text being written: what is in view, what may be shown of it, and why it ends.

Knows neither the model nor how a token is chosen.
"""

from collections.abc import Sequence

from fathom.generate.context import Window
from fathom.generate.options import GenerateOptions
from fathom.generate.pieces import Finish, Piece
from fathom.generate.stops import StopStrings, TextDecoder
from fathom.tokenizer.protocol import Tokenizer


class Row:
    """`accept` takes its next token; `finish_reason` is None until it has ended, `left` how many may still come."""

    def __init__(
        self, index: int, ids: Sequence[int], room: int | None, tokenizer: Tokenizer, options: GenerateOptions
    ) -> None:
        self.index, self.last, self.left = index, tokenizer.special.last, options.max_new_tokens
        self.window = Window(ids, room, slides=options.past_context == "slide")
        self.decoder, self.stops = TextDecoder(tokenizer, ids), StopStrings(options.stop)
        self.finish_reason: Finish | None = None

    def accept(self, token: int, logprob: float) -> Piece:
        """What this row makes of its next token."""
        self.left -= 1
        self.window.append(token)
        text = "" if token in self.last else self.stops.push(self.decoder.push(token))
        self.finish_reason = self.reason(token)
        if self.finish_reason in ("eos", "length"):
            text += self.stops.push(self.decoder.flush()) + self.stops.flush()
        return Piece(self.index, token, text, logprob, self.finish_reason)

    def reason(self, token: int) -> Finish | None:
        if self.stops.found:
            return "stop"
        if token in self.last:
            return "eos"
        return "length" if self.left == 0 or self.window.full else None
