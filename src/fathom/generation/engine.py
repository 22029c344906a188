"""The loop that writes text. Continuations join and leave between any two steps, and share each pass (continuous
batching, Yu et al. 2022).

A step reads at most a chunk of prompts, then the newest token of every row, and chooses what follows each. What a row
writes depends on its own request alone. Knows no threads and no HTTP: whoever calls `step` owns the model.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fathom.backend.one_piece import stretched
from fathom.errors import OutsideVocabulary
from fathom.generation.choosing import Outcome, choose
from fathom.generation.context import room_for
from fathom.generation.readers import Reader
from fathom.generation.sampling import evaluating
from fathom.generation.slots import EngineFigures, Event, Request, Slot
from fathom.generation.speculative import MOST, Draft
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer

Adapters = Callable[[Sequence[str | None]], AbstractContextManager[Any]]  # the adapter of each row of a pass
Read = tuple[Slot, Tensor]  # a slot and what `unembed` reads of it, (k, d): after each of its last k tokens


class Engine:
    """`add` requests, and `step` until it is `idle`. rows: how many are written side by side.

    How the texts are read and remembered is the reader's business. With one that is exact (`Paged`) the tokens of a
    request are the same to the last bit of every logit, alone or among others, with its prefix reused or not. Where
    native code reads the pages this costs nothing; elsewhere each row is then a pass of its own, in chunks that begin
    at multiples of `chunk`, and only whole chunks are reused.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        reader: Reader,
        *,
        rows: int = 64,
        at_once: int | None = None,
        choose_adapters: Adapters | None = None,
    ) -> None:
        """at_once: how many tokens of prompts are read in a step; None: a chunk of the reader, so that no row waits for
        long."""
        self.model, self.tokenizer, self.reader, self.rows = model, tokenizer, reader, rows
        self.at_once = reader.chunk if at_once is None else at_once
        self.vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
        self.choose_adapters = choose_adapters or (lambda names: nullcontext())
        self.queue, self.live = deque[Slot](), list[Slot]()
        self.events = list[Event]()
        self.steps = self.prompt_tokens = self.reused_tokens = self.new_tokens = 0

    @property
    def idle(self) -> bool:
        return not self.live and not self.queue

    @property
    def figures(self) -> EngineFigures:
        return EngineFigures(
            len(self.live),
            len(self.queue),
            self.reader.used,
            self.reader.free,
            self.prompt_tokens,
            self.reused_tokens,
            self.new_tokens,
            self.steps,
        )

    def add(self, request: Request) -> Slot:
        """Let a request wait for its turn. ContextOverflow or FathomError where its turn could never come."""
        room = room_for(self.model.config, request.options.past_context, len(request.ids))
        if wrong := [token for token in request.ids if not 0 <= token < self.vocab_size] or not request.ids:
            found = f"token {wrong[0]}" if isinstance(wrong, list) else "no token"
            raise OutsideVocabulary(f"the prompt holds {found}; expected ids from 0 to {self.vocab_size - 1}")
        slot = Slot(request, room, self.tokenizer, self.model.embed.weight.device, self.vocab_size)
        slot.samplers.biased(torch.zeros(1, self.vocab_size))  # a token that is none is said now
        self.reader.require_room(slot)
        self.queue.append(slot)
        return slot

    def cancel(self, slot: Slot) -> None:
        """End a continuation now: its memory is free before the next step. One that has ended is left alone."""
        if slot in self.queue:
            self.queue.remove(slot)
        elif slot in self.live:
            self.close(slot)

    def close(self, slot: Slot, wrong: bool = False) -> None:
        self.live.remove(slot)
        self.reader.close(slot, wrong)

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
        done, spent, chunk = list[Read](), 0, self.reader.chunk
        while (slot := self.next_to_read()) is not None:
            t = min(slot.unread, chunk - slot.length % chunk)
            if spent and spent + t > self.at_once:
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
        while self.queue and len(self.live) < self.rows and self.reader.open(self.queue[0]):
            slot = self.queue.popleft()
            self.live.append(slot)
            if len(slot.text) == len(slot.request.ids):  # else it was open before
                self.prompt_tokens += slot.unread + slot.reused
                self.reused_tokens += slot.reused
            if slot.unread > 1:
                return slot
        return None

    def read_new(self) -> list[Read]:
        """The one token of each row that is not read yet; with a draft after it, where a row is alone."""
        ready = [slot for slot in self.live if slot.unread == 1]
        for slot in ready:
            slot.draft = self.draft(slot)
            if slot.draft.tokens:
                return self.read([slot], 1 + len(slot.draft.tokens))
        groups: dict[bool, list[Slot]] = {}
        for slot in ready:
            groups.setdefault(stretched(self.model, len(slot.ids)), []).append(slot)
        return [read for group in groups.values() for read in self.read_group(group)]

    def read_group(self, slots: list[Slot]) -> list[Read]:
        """All in one pass, or each in its own. An error is the error of the row that has it also when it is alone."""
        if not self.reader.one_by_one and len(slots) > 1:
            failed, read = self.attempt(slots, 1)
            if failed is None:
                return read
        return [read for slot in slots for read in self.read([slot], 1)]

    def draft(self, slot: Slot) -> Draft:
        """What may follow a row that is alone and has begun to write. Never in passes that depend on how many tokens
        they read."""
        begun = len(slot.text) > len(slot.request.ids)
        if slot.proposer is None or not begun or len(self.live) > 1 or self.queue or self.reader.one_by_one:
            return Draft()
        length = len(slot.ids)
        room = min(slot.draft_length, MOST, slot.row.left - 1, slot.most - length)
        if room < 1 or stretched(self.model, length) != stretched(self.model, length + room):
            return Draft()
        return slot.proposer.propose(slot.text, room)

    def read(self, slots: Sequence[Slot], t: int) -> list[Read]:
        """The next t tokens of each slot in one pass. Slots whose pass fails end with the error."""
        failed, read = self.attempt(slots, t)
        if failed is not None:
            for slot in slots:
                self.fail(slot, failed)
        return read

    def attempt(self, slots: Sequence[Slot], t: int) -> tuple[Exception | None, list[Read]]:
        """(what went wrong, nothing read), or (None, what was read). What a pass wrote is kept once it is whole."""
        try:
            with self.choose_adapters([slot.request.adapter for slot in slots]):
                hidden = self.reader.read(slots, t)  # (b, t, d)
        except Exception as error:
            return error, []
        return None, list(zip(slots, hidden))

    def fail(self, slot: Slot, error: Exception) -> None:
        self.close(slot, wrong=True)
        self.events.append((slot, error))

    def write(self, read: list[Read]) -> None:
        """A token for each slot after what it has read, or several after a draft."""
        if not read:
            return
        slots, hidden = [slot for slot, _ in read], [row for _, row in read]
        one_by_one = self.reader.one_by_one
        passes = [([slot], row[None]) for slot, row in read] if one_by_one else [(slots, torch.stack(hidden))]
        logits = torch.cat([self.unembed(*each) for each in passes])[:, : self.vocab_size].float()
        if slots[0].draft.tokens:
            self.write_draft(slots[0], logits)
            return
        for slot, outcome in zip(slots, choose(logits, slots)):
            self.accept(slot, outcome)

    def unembed(self, slots: Sequence[Slot], hidden: Tensor) -> Tensor:  # (b, t, d) -> (b * t, V)
        with self.choose_adapters([slot.request.adapter for slot in slots]):
            return self.model.unembed(hidden).flatten(0, 1)

    def write_draft(self, slot: Slot, logits: Tensor) -> None:  # (1 + k, V)
        """The draft up to its first token that is not chosen, and what is chosen there."""
        draft, slot.draft, accepted = slot.draft, Draft(), 0
        for place, here in enumerate(logits.split(1)):  # (1, V)
            (outcome,) = choose(here, [slot], draft.verifier(place))
            self.accept(slot, outcome)
            if slot not in self.live or slot.ids[-1:] != draft.tokens[place : place + 1]:
                break
            accepted += 1
            slot.length += 1
        slot.draft_length = min(MOST, 2 * slot.draft_length) if accepted == len(draft.tokens) else max(1, accepted)
        slot.proposed, slot.accepted = slot.proposed + len(draft.tokens), slot.accepted + accepted

    def accept(self, slot: Slot, outcome: Outcome) -> None:
        """Append what was chosen to the text, and end it where it ends."""
        try:
            if isinstance(outcome, Exception):
                raise outcome
            before = len(slot.ids)
            piece = slot.accept(outcome)
        except Exception as error:
            self.fail(slot, error)
            return
        self.new_tokens += 1
        self.events.append((slot, piece))
        if piece.finish_reason is not None:
            self.close(slot)
        elif len(slot.ids) <= before or stretched(self.model, len(slot.ids)) != stretched(self.model, before):
            self.close(slot)  # its text has slid out of the context, or is rotated otherwise: it is read again
            self.queue.appendleft(slot)
