"""Texts in pages: which pages a text has, those of its beginning that another has read and new ones for the rest.

All pages that it can ever need are its own before its first token is read, so that no text is interrupted for want of
memory. A page is offered to others once it is full.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.backend.inference import InferenceModel
from fathom.backend.linear import PanelLinear
from fathom.backend.pages import PAGE, PagedCache, Pages, beginning, digest, digests, pages_for
from fathom.errors import ContextOverflow, FathomError
from fathom.generation.readers import Reader
from fathom.generation.slots import Slot
from fathom.model.transformer import Transformer


class Paged(Reader):
    """Reads texts of any length side by side, and what was read before not again. chunk: most tokens of a pass."""

    def __init__(self, model: Transformer, tokens: int, *, chunk: int = 128, exact: bool | None = None) -> None:
        """tokens: of all texts together, for which memory is taken at once. exact: None, on a CPU; see `Engine`.
        FathomError where there is no such memory."""
        weight = model.embed.weight
        self.model, self.chunk = model, chunk
        self.pages = Pages(model.config, tokens, weight.dtype, weight.device)
        self.ledger, self.slots, self.nbytes = self.pages.ledger, list[Slot](), self.pages.nbytes
        self.one_by_one = (weight.is_cpu if exact is None else exact) and not reads_pages(model, self.pages)
        if self.one_by_one and (chunk < PAGE or chunk % PAGE):
            raise FathomError(f"chunk is {chunk}; expected a multiple of {PAGE}, the tokens of a page")

    @property
    def used(self) -> int:  # type: ignore[override]
        return self.ledger.used

    @property
    def free(self) -> int:  # type: ignore[override]
        return self.ledger.available

    def require_room(self, slot: Slot) -> None:
        """ContextOverflow where all pages together are too few for it."""
        if pages_for(slot.most) > self.pages.n_pages:
            raise ContextOverflow(
                f"{slot.describe()} need {slot.most:,} places and the cache has {self.pages.n_pages * PAGE:,}; ask for"
                " fewer"
            )

    def open(self, slot: Slot) -> bool:
        """Give a slot all its pages; False where there are too few now, and nothing has changed."""
        found = self.find(slot)
        missing = pages_for(slot.most) - len(found)
        if missing > self.ledger.available - self.ledger.kept_among(found):
            return False
        self.ledger.share(found)
        slot.table = found + self.ledger.take(missing)
        slot.length, slot.named, slot.given = len(found) * PAGE, len(found), len(slot.ids)
        self.copy_rest(slot)
        slot.reused = slot.length
        self.slots.append(slot)
        return True

    def find(self, slot: Slot) -> list[int]:
        """The pages of the longest beginning of its text that is there; the last token is always left to be read. Where
        each row is a pass of its own, whole chunks alone are the same numbers again."""
        step = self.chunk // PAGE if self.one_by_one else 1
        slot.names = digests(slot.ids, self.begin(slot))
        found = self.ledger.find(slot.names[: (len(slot.ids) - 1) // PAGE])
        return found[: len(found) // step * step]

    def begin(self, slot: Slot) -> bytes:
        return beginning(slot.request.adapter, self.pages.stretched(len(slot.ids)))

    def copy_rest(self, slot: Slot) -> None:
        """The last page of another sample of the same prompt, which is not full: copied, as both will write in it."""
        n, begin = len(slot.ids) - 1, self.begin(slot)
        if self.one_by_one or n <= slot.length:
            return
        for other in self.slots:
            if other.length >= n and other.ids[:n] == slot.ids[:n] and self.begin(other) == begin:
                self.pages.copy(other.table[n // PAGE], slot.table[n // PAGE])
                slot.length = n
                return

    def read(self, slots: Sequence[Slot], t: int) -> Tensor:  # -> (b, t, d)
        """The next t tokens of each, in one pass."""
        horizon = max(len(slot.ids) + len(slot.draft.tokens) for slot in slots)
        cache = PagedCache(self.pages, [slot.table for slot in slots], [slot.length for slot in slots], horizon)
        texts = torch.tensor([slot.next(t) for slot in slots], device=self.pages.device)
        hidden = self.model.hidden(texts, cache)
        for slot in slots:
            slot.count(t)
            self.offer(slot)
        return hidden

    def offer(self, slot: Slot) -> None:
        """Let the pages be found that have become full."""
        end = self.whole(slot) if self.one_by_one else slot.length
        for page in range(slot.named, end // PAGE):
            if page == len(slot.names):
                parent = slot.names[-1] if slot.names else self.begin(slot)
                slot.names.append(digest(parent, slot.ids[page * PAGE : (page + 1) * PAGE]))
            self.ledger.name(slot.table[page], slot.names[page])
        slot.named = max(slot.named, end // PAGE)

    def whole(self, slot: Slot) -> int:
        """Of the tokens that it began with, those that were read in whole chunks."""
        return min(slot.length, slot.given) // self.chunk * self.chunk

    def close(self, slot: Slot, wrong: bool = False) -> None:
        """Take its pages back. wrong: what it has written in them is not to be found by others."""
        if wrong:
            self.ledger.forget(slot.table[slot.reused // PAGE : slot.named])
        self.ledger.give_back(slot.table)
        self.slots.remove(slot)
        slot.table = []


def reads_pages(model: Transformer, pages: Pages) -> bool:
    """Whether native code reads these pages and unembeds: then the sums of a row do not depend on the others."""
    step, unembed = (model.step if isinstance(model, InferenceModel) else None), model.get_submodule("unembed")
    ids, cache = torch.zeros(1, 1, dtype=torch.int64, device=pages.device), PagedCache(pages, [[0]], [0])
    return step is not None and isinstance(unembed, PanelLinear) and step.takes(ids, cache)
