"""Which pages a slot has: those of its beginning that another has read, and new ones for the rest.

All pages that it can ever need are its own before its first token is read, so that no text is interrupted for want of
memory. A page is offered to others once it is full.
"""

from fathom.backend.pages import PAGE, Pages, beginning, digest, digests, pages_for
from fathom.generation.slots import Slot


class Prefixes:
    """Gives pages to slots and takes them back.

    multiple: prefixes are reused in multiples of so many tokens, and only what a prompt has in whole multiples is
    offered; None: any full page, those of new tokens included.
    """

    def __init__(self, pages: Pages, multiple: int | None) -> None:
        self.pages, self.ledger, self.multiple = pages, pages.ledger, multiple

    def open(self, slot: Slot) -> bool:
        """Give a slot all its pages; False where there are too few now, and nothing has changed."""
        slot.private = self.pages.stretched(slot.most) != self.pages.stretched(len(slot.ids))
        found = [] if slot.private else self.find(slot)
        missing = pages_for(slot.most) - len(found)
        if missing > self.ledger.available - self.ledger.kept_among(found):
            return False
        self.ledger.share(found)
        slot.table = found + self.ledger.take(missing)
        slot.length = slot.reused = len(found) * PAGE
        slot.named = len(found)
        return True

    def find(self, slot: Slot) -> list[int]:
        """The pages of the longest beginning of its text that is there; the last token is always left to be read."""
        step = (self.multiple or PAGE) // PAGE
        slot.names = digests(slot.ids, self.begin(slot))
        found = self.ledger.find(slot.names[: (len(slot.ids) - 1) // PAGE])
        return found[: len(found) // step * step]

    def begin(self, slot: Slot) -> bytes:
        return beginning(slot.request.adapter, self.pages.stretched(len(slot.ids)))

    def offer(self, slot: Slot) -> None:
        """Let the pages be found that have become full."""
        end = slot.length if self.multiple is None else self.whole(slot)
        if slot.private or end // PAGE <= slot.named:
            return
        for page in range(slot.named, end // PAGE):
            if page == len(slot.names):
                parent = slot.names[-1] if slot.names else self.begin(slot)
                slot.names.append(digest(parent, slot.ids[page * PAGE : (page + 1) * PAGE]))
            self.ledger.name(slot.table[page], slot.names[page])
        slot.named = end // PAGE

    def whole(self, slot: Slot) -> int:
        """Tokens of its prompt, of those read, that were read in whole multiples."""
        assert self.multiple is not None
        return min(slot.length, len(slot.request.ids)) // self.multiple * self.multiple

    def close(self, slot: Slot, wrong: bool = False) -> None:
        """Take its pages back. wrong: what it has written in them is not to be found by others."""
        if wrong:
            self.ledger.forget(slot.table[slot.reused // PAGE : slot.named])
        self.ledger.give_back(slot.table)
        slot.table = []
