"""What reads texts for an engine, and remembers what it has read: a cache in one piece, nothing at all, or pages.

A reader knows no order of requests and chooses nothing: it says what the model makes of each next token of its slots.
`Paged` has a file of its own.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.backend.one_piece import OnePiece
from fathom.generation.slots import Slot
from fathom.model.transformer import Transformer


class Reader:
    """Reads the texts of the slots that are open. Which tokens are still to be read is in the slots."""

    chunk: int  # most tokens of a prompt in a pass
    one_by_one = False  # whether each row is a pass of its own, in chunks that begin at multiples of `chunk`
    nbytes = 0  # of its memory
    used = free = 0  # pages that slots have, and that they can get

    def require_room(self, slot: Slot) -> None:
        """ContextOverflow where it could never be opened."""

    def open(self, slot: Slot) -> bool:
        """Begin with a slot; its `length` is then what it need not read. False: not now."""
        raise NotImplementedError

    def read(self, slots: Sequence[Slot], t: int) -> Tensor:
        """(b, t, d) what `unembed` reads after each of the next t tokens; they are counted as read, drafts are not."""
        raise NotImplementedError

    def close(self, slot: Slot, wrong: bool = False) -> None:
        """End with a slot. wrong: what it has read last is not to be used again."""


class Alone(Reader):
    """One text at a time, in a cache in one piece: as fast as can be, for as much memory as the text takes. The next
    text is read from where it differs."""

    def __init__(self, model: Transformer, chunk: int = 512) -> None:
        self.text, self.chunk, self.busy = OnePiece(model), chunk, False

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        return self.text.nbytes

    def open(self, slot: Slot) -> bool:
        if self.busy:
            return False
        slot.length = slot.reused = self.text.begin(slot.ids, slot.most, adapter=slot.request.adapter)
        self.busy = True
        return True

    def read(self, slots: Sequence[Slot], t: int) -> Tensor:  # -> (1, t, d)
        (slot,) = slots
        self.text.rewind(slot.length)  # tokens of a draft that were rejected
        hidden = self.text.read(slot.next(t))
        slot.count(t)
        return hidden

    def close(self, slot: Slot, wrong: bool = False) -> None:
        self.busy = False
        if wrong:
            self.text.forget()


class Whole(Reader):
    """Nothing is remembered: the whole text through the model for every token. Slow, and the reference for caches."""

    chunk = sys.maxsize

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def open(self, slot: Slot) -> bool:
        slot.length = slot.reused = 0
        return True

    def read(self, slots: Sequence[Slot], t: int) -> Tensor:  # -> (b, t, d)
        device, hidden = self.model.embed.weight.device, list[Tensor]()
        for slot in slots:
            text = torch.tensor([[*slot.ids, *slot.draft.tokens]], device=device)
            hidden.append(self.model.hidden(text)[:, -t:])
            slot.count(t)
        return torch.cat(hidden)
