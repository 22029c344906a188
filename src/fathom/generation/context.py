"""Which tokens the model sees for the next one.

Once `room` tokens are in the window its older half is dropped and the rest is read again from position 0, as in
training, so that each token follows from at least half a context.
"""

from collections.abc import Sequence

from fathom.errors import ContextOverflow, FathomError
from fathom.generation.options import GenerateOptions, PastContext
from fathom.model.config import ModelConfig
from fathom.words import counted


class Window:
    """The tokens of one row that the model sees. `room` None: unlimited."""

    def __init__(self, ids: Sequence[int], room: int | None, slides: bool) -> None:
        self.ids, self.room, self.slides = list(ids), room, slides
        self.dropped = 0

    def append(self, token: int) -> None:
        self.ids.append(token)
        if self.full and self.slides:
            keep = max(1, len(self.ids) // 2)
            self.dropped += len(self.ids) - keep
            self.ids = self.ids[-keep:]

    @property
    def full(self) -> bool:
        """More tokens than fit: nothing can follow."""
        return self.room is not None and len(self.ids) > self.room


def room_for(config: ModelConfig, past_context: PastContext, longest: int) -> int | None:
    """How many tokens a window may hold; ContextOverflow where the longest prompt alone is longer."""
    learned = config.position == "learned"
    if past_context == "extend" and learned:
        raise FathomError(
            f"past_context is 'extend', but this model has learned positions for {config.context_length} tokens and"
            " none beyond; use slide or stop"
        )
    if past_context == "extend":
        return None
    if longest > config.context_length:
        raise ContextOverflow(
            f"the prompt has {counted(longest, 'token')} and the context is {config.context_length}; shorten it"
            + ("" if learned else ", or go beyond the trained length with past_context='extend'")
        )
    return config.context_length


def most_of(prompt: int, options: GenerateOptions, room: int | None) -> int:
    """How many tokens the model reads at once of a prompt of so many and what follows it: the last new token never.
    room: of the window."""
    longest = prompt + options.max_new_tokens - 1
    return longest if room is None else min(longest, room)
