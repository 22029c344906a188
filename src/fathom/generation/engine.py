"""Continuous batching (Yu et al. 2022): continuations join and leave between any two steps, and share each pass.

A step reads at most one chunk of prompts, then the newest token of every row at once. What a row writes depends on its
own request alone: pages of its own, a generator of its own, and passes whose sums do not depend on who else is there.
Knows no threads and no HTTP: whoever calls `step` owns the model.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fathom.backend.inference import InferenceModel
from fathom.backend.pages import PAGE, PagedCache, Pages, pages_for
from fathom.errors import ContextOverflow, FathomError, OutsideVocabulary
from fathom.generation.choosing import Outcome, choose
from fathom.generation.context import room_for
from fathom.generation.prefixes import Prefixes
from fathom.generation.sampling import evaluating
from fathom.generation.slots import EngineFigures, Event, Request, Slot
from fathom.generation.speculative import MOST
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer
from fathom.words import counted

Adapters = Callable[[Sequence[str | None]], AbstractContextManager[Any]]  # the adapter of each row of a pass
Read = tuple[Slot, Tensor]  # a slot and what `unembed` reads of it, (k, d): after each of its last k tokens


class Engine:
    """`add` requests, and `step` until it is `idle`. rows: how many are written side by side.

    exact: the tokens of a request are the same to the last bit of every logit, alone or among others, with its prefix
    reused or not. Where native code reads the pages this costs nothing; elsewhere each row is then a pass of its own,
    in chunks that begin at multiples of `chunk`, and only whole chunks are reused.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        tokens: int,
        rows: int = 64,
        chunk: int = 128,
        exact: bool | None = None,
        choose_adapters: Adapters | None = None,
    ) -> None:
        """tokens: of all texts together, for which memory is taken at once. exact: None, on a CPU. FathomError where
        there is no such memory."""
        if chunk < PAGE or chunk % PAGE:
            raise FathomError(f"chunk is {chunk}; expected a multiple of {PAGE}, the tokens of a page")
        weight = model.embed.weight
        self.model, self.tokenizer, self.rows, self.chunk = model, tokenizer, rows, chunk
        self.vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
        self.pages = Pages(model.config, tokens, weight.dtype, weight.device)
        self.one_by_one = (weight.is_cpu if exact is None else exact) and not reads_pages(model, self.pages)
        self.prefixes = Prefixes(self.pages, chunk if self.one_by_one else None)
        self.choose_adapters = choose_adapters or (lambda names: nullcontext())
        self.queue, self.live = deque[Slot](), list[Slot]()
        self.events = list[Event]()
        self.steps = self.prompt_tokens = self.reused_tokens = self.new_tokens = 0

    @property
    def idle(self) -> bool:
        return not self.live and not self.queue

    @property
    def figures(self) -> EngineFigures:
        ledger = self.pages.ledger
        return EngineFigures(
            len(self.live),
            len(self.queue),
            ledger.used,
            ledger.available,
            self.prompt_tokens,
            self.reused_tokens,
            self.new_tokens,
            self.steps,
        )

    def add(self, request: Request) -> Slot:
        """Let a request wait for its turn. ContextOverflow or FathomError where its turn could never come."""
        options, count = request.options, len(request.ids)
        room = room_for(self.model.config, options.past_context, count)
        wanted = count + options.max_new_tokens - 1
        if options.past_context == "slide" and room is not None and wanted > room:
            raise ContextOverflow(
                f"a prompt of {counted(count, 'token')} and {options.max_new_tokens:,} new ones are more than the"
                f" context of {room:,}; ask for fewer, or choose past_context='stop'"
            )
        if wrong := [token for token in request.ids if not 0 <= token < self.vocab_size] or not count:
            found = f"token {wrong[0]}" if isinstance(wrong, list) else "no token"
            raise OutsideVocabulary(f"the prompt holds {found}; expected ids from 0 to {self.vocab_size - 1}")
        slot = Slot(request, room, self.tokenizer, self.pages.device, self.vocab_size)
        slot.samplers.biased(torch.zeros(1, self.vocab_size))  # a token that is none is said now
        if pages_for(slot.most) > self.pages.n_pages:
            raise ContextOverflow(
                f"a prompt of {counted(count, 'token')} and {options.max_new_tokens:,} new ones need {slot.most:,}"
                f" places and the cache has {self.pages.n_pages * PAGE:,}; ask for fewer"
            )
        self.queue.append(slot)
        return slot

    def cancel(self, slot: Slot) -> None:
        """End a continuation now: its pages are free before the next step. One that has ended is left alone."""
        if slot in self.queue:
            self.queue.remove(slot)
        elif slot in self.live:
            self.close(slot)

    def close(self, slot: Slot, wrong: bool = False) -> None:
        self.live.remove(slot)
        self.prefixes.close(slot, wrong)

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Read a chunk of prompts, then a token of every row that writes; what the rows have written."""
        self.events = []
        self.steps += 1
        try:
            with evaluating(self.model):
                self.write(self.read_prompts() + self.read_new())
        except BaseException:
            for slot in [*self.live]:
                self.close(slot, wrong=True)
            raise
        return self.events

    def read_prompts(self) -> list[Read]:
        """Prompts in the order of their requests, up to a chunk of tokens; those that are read to their end."""
        done, spent = list[Read](), 0
        while (slot := self.next_to_read()) is not None:
            t = min(slot.unread, self.chunk - slot.length % self.chunk)
            if spent and spent + t > self.chunk:
                break
            spent += t
            read = self.read([slot], t)
            done += [(slot, hidden[-1:]) for slot, hidden in read if not slot.unread]
        return done

    def next_to_read(self) -> Slot | None:
        """The first slot with more than one token to be read; else the next of the queue, where there is room."""
        for slot in self.live:
            if slot.unread > 1:
                return slot
        while self.queue and len(self.live) < self.rows and self.prefixes.open(self.queue[0]):
            slot = self.queue.popleft()
            self.live.append(slot)
            self.prompt_tokens += slot.unread + slot.reused
            self.reused_tokens += slot.reused
            if slot.unread > 1:
                return slot
        return None

    def read_new(self) -> list[Read]:
        """The one token of each row that is not read yet; with a draft after it, where a row is alone."""
        ready = [slot for slot in self.live if slot.unread == 1]
        for slot in ready:
            slot.draft = self.draft(slot) if len(self.live) == 1 and not self.queue else []
            if slot.draft:
                return self.read([slot], 1 + len(slot.draft))
        groups: dict[bool, list[Slot]] = {}
        for slot in ready:
            groups.setdefault(self.pages.stretched(len(slot.ids)), []).append(slot)
        return [read for group in groups.values() for read in self.read_group(group)]

    def read_group(self, slots: list[Slot]) -> list[Read]:
        """All in one pass, or each in its own. An error is the error of the row that has it also when it is alone."""
        if not self.one_by_one and len(slots) > 1:
            failed, read = self.attempt(slots, 1)
            if failed is None:
                return read
        return [read for slot in slots for read in self.read([slot], 1)]

    def draft(self, slot: Slot) -> list[int]:
        """What may follow, looked up in the text itself. Never in passes that depend on how many tokens they read."""
        if slot.request.options.speculate == "off" or self.one_by_one:
            return []
        length = len(slot.ids)
        room = min(slot.draft_length, MOST, slot.row.left - 1, slot.most - length)
        if room < 1 or self.pages.stretched(length) != self.pages.stretched(length + room):
            return []
        return slot.lookup.propose(list(slot.ids), torch.empty(0), room).tokens

    def read(self, slots: Sequence[Slot], t: int) -> list[Read]:
        """The next t tokens of each slot in one pass. Slots whose pass fails end with the error."""
        failed, read = self.attempt(slots, t)
        if failed is not None:
            for slot in slots:
                self.fail(slot, failed)
        return read

    def attempt(self, slots: Sequence[Slot], t: int) -> tuple[Exception | None, list[Read]]:
        """(what went wrong, nothing read), or (None, what was read). What a pass wrote is kept once it is whole."""
        texts = [[*slot.ids[slot.length :], *slot.draft][:t] for slot in slots]
        horizon = max(len(slot.ids) + len(slot.draft) for slot in slots)
        cache = PagedCache(self.pages, [slot.table for slot in slots], [slot.length for slot in slots], horizon)
        try:
            with self.choose_adapters([slot.request.adapter for slot in slots]):
                hidden = self.model.hidden(torch.tensor(texts, device=self.pages.device), cache)  # (b, t, d)
        except Exception as error:
            return error, []
        for slot in slots:
            slot.length += t - len(slot.draft)  # of a draft what is accepted counts, once it is chosen
            self.prefixes.offer(slot)
        return None, [(slot, row) for slot, row in zip(slots, hidden)]

    def fail(self, slot: Slot, error: Exception) -> None:
        self.close(slot, wrong=True)
        self.events.append((slot, error))

    def write(self, read: list[Read]) -> None:
        """A token for each slot after what it has read, or several after a draft."""
        if not read:
            return
        slots, hidden = [slot for slot, _ in read], [row for _, row in read]
        passes = [([slot], row[None]) for slot, row in read] if self.one_by_one else [(slots, torch.stack(hidden))]
        logits = torch.cat([self.unembed(*each) for each in passes])[:, : self.vocab_size].float()
        if slots[0].draft:
            self.write_draft(slots[0], logits)
            return
        for slot, outcome in zip(slots, choose(logits, slots)):
            self.accept(slot, outcome)

    def unembed(self, slots: Sequence[Slot], hidden: Tensor) -> Tensor:  # (b, t, d) -> (b * t, V)
        with self.choose_adapters([slot.request.adapter for slot in slots]):
            return self.model.unembed(hidden).flatten(0, 1)

    def write_draft(self, slot: Slot, logits: Tensor) -> None:  # (1 + k, V)
        """The draft up to its first token that is not chosen, and what is chosen there."""
        draft, accepted = slot.draft, 0
        slot.draft = []
        for place, here in enumerate(logits.split(1)):  # (1, V)
            (outcome,) = choose(here, [slot])
            self.accept(slot, outcome)
            if slot not in self.live or slot.ids[-1:] != draft[place : place + 1]:
                break
            accepted += 1
            slot.length += 1
        slot.draft_length = min(MOST, 2 * slot.draft_length) if accepted == len(draft) else max(1, accepted)

    def accept(self, slot: Slot, outcome: Outcome) -> None:
        """Append what was chosen to the text, and end it where it ends."""
        try:
            if isinstance(outcome, Exception):
                raise outcome
            piece = slot.accept(outcome)
        except Exception as error:
            self.fail(slot, error)
            return
        self.new_tokens += 1
        self.events.append((slot, piece))
        if piece.finish_reason is not None:
            self.close(slot)
        elif slot.private and self.pages.stretched(len(slot.ids)) and not self.pages.stretched(len(slot.ids) - 1):
            slot.length = 0  # from here on all of the text is rotated otherwise


def reads_pages(model: Transformer, pages: Pages) -> bool:
    """Whether native code reads these pages: then the sums of a row do not depend on the others."""
    step = model.step if isinstance(model, InferenceModel) else None
    ids, cache = torch.zeros(1, 1, dtype=torch.int64), PagedCache(pages, [[0]], [0])
    return step is not None and step.takes(ids.to(pages.device), cache)
