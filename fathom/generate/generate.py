"""The loop that writes: read what is in view, choose a token, show what it adds, until there is a reason to end.

`stream` gives a piece for each token as it is chosen; `generate` is the same, collected. Does not know files, and
prints nothing.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fathom.errors import FathomError, OutsideVocabulary
from fathom.fields import build, plain
from fathom.generate.context import Window, make_reader, room_for
from fathom.generate.options import GenerateOptions
from fathom.generate.pieces import Completion, Facts, Finish, Piece, complete
from fathom.generate.sampling import Samplers, draw
from fathom.generate.stops import StopStrings, TextDecoder
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer

Prompt = str | Sequence[int]  # a text, or ids that are taken as they are
Prompts = str | Sequence[Prompt]


def stream(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerateOptions | None = None,
    **changes: Any,
) -> "Stream":
    """Pieces of text as the model writes them: for one text, or side by side for a list of texts or of lists of ids.

    `changes` are fields of GenerateOptions, such as `temperature=0`. Every FathomError comes before the first piece.
    """
    if isinstance(changes.get("stop"), str):
        changes["stop"] = (changes["stop"],)
    options = build(GenerateOptions, plain(options or GenerateOptions()) | changes, "generate")
    return Stream(model, tokenizer, [prompts] if isinstance(prompts, str) else prompts, options)


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerateOptions | None = None,
    **changes: Any,
) -> list[Completion]:
    """What `stream` writes, whole: `num_samples` completions of each prompt, in the order of the prompts."""
    return stream(model, tokenizer, prompts, options, **changes).collect()


class Stream(Iterator[Piece]):
    """Pieces as they are chosen. `facts`: what was measured so far. `prompts`: the text each row goes on from."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Prompt], options: GenerateOptions
    ) -> None:
        self.model, self.options, self.samplers = model, options, Samplers(options)
        self.vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)  # a padded vocabulary ends in no tokens
        ids = [prompt_ids(tokenizer, prompt, self.vocab_size) for prompt in prompts]
        longest = max(map(len, ids), default=1)
        room = room_for(model.config, options.past_context, longest)
        self.reader = make_reader(model, options, longest, room)
        self.facts = Facts(secrets.randbits(32) if options.seed is None else options.seed, sum(map(len, ids)))
        self.prompts, self.rows = [], list[Row]()
        for prompt, start in zip(prompts, ids):
            for _ in range(options.num_samples):
                self.prompts.append(prompt if isinstance(prompt, str) else tokenizer.decode(prompt))
                self.rows.append(Row(len(self.rows), start, room, tokenizer, options))
        self.pieces = self.run()

    def __next__(self) -> Piece:
        return next(self.pieces)

    def collect(self) -> list[Completion]:
        """Run to the end; the completion of every row."""
        return complete(self, self.prompts)

    def run(self) -> Iterator[Piece]:
        """The loop."""
        generators = [torch.Generator().manual_seed(self.facts.seed + row.index) for row in self.rows]
        seen = self.seen_at_start()
        live = self.rows
        while live:
            began = time.perf_counter()
            index = torch.tensor([row.index for row in live], device=seen.device)
            logits = self.logits(live)  # (b, V)
            ids = draw(self.samplers(logits, seen[index]), [generators[row.index] for row in live])  # (b,)
            seen[index, ids] = True
            logprobs = logits.log_softmax(-1).gather(1, ids[:, None])  # (b, 1)
            chosen = list(zip(live, ids.tolist(), logprobs.flatten().tolist()))
            self.facts.count(len(live), time.perf_counter() - began)
            for row, token, logprob in chosen:
                yield row.accept(token, logprob)
            self.facts.forgotten = sum(row.window.forgotten for row in self.rows)
            live = [row for row in live if row.finish_reason is None]

    @torch.no_grad()
    def logits(self, live: Sequence["Row"]) -> Tensor:  # (b, V)
        """The model's float32 logits of each row's next token, refused when they are not numbers."""
        with evaluating(self.model):
            logits = self.reader.logits([row.window for row in live])[:, : self.vocab_size].float()
        self.facts.cache_bytes = self.reader.nbytes
        if not logits.amax(-1).isfinite().all():
            raise FathomError(
                "the model's logits are not finite numbers; its weights are damaged or its dtype too small"
            )
        return logits

    def seen_at_start(self) -> Tensor:
        """(rows, V) which tokens each row's prompt holds."""
        seen = torch.zeros(len(self.rows), self.vocab_size, dtype=torch.bool, device=self.model.embed.weight.device)
        for row in self.rows:
            seen[row.index, row.window.ids] = True
        return seen


class Row:
    """One text being written: what is in view, what may be shown of it, and why it ended."""

    def __init__(
        self, index: int, ids: list[int], room: int | None, tokenizer: Tokenizer, options: GenerateOptions
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


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt, vocab_size: int) -> list[int]:
    """What the model reads of a prompt: of a text bos, where the format has one, and its ids; of ids themselves.

    An empty text starts as a document does: from bos, else from eos, which ends the one before it, else from a
    newline, else from the first token.
    """
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    ids = start + tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if outside := [i for i in ids if not 0 <= i < vocab_size]:
        raise OutsideVocabulary(
            f"the prompt holds token {outside[0]}; ids run from 0 to {vocab_size - 1}; is this the model's tokenizer?"
        )
    return ids or [first_id(tokenizer)]


def first_id(tokenizer: Tokenizer) -> int:
    """What comes before an empty text for a tokenizer without bos."""
    if tokenizer.eos is not None:
        return tokenizer.eos
    try:
        return tokenizer.encode("\n")[-1]
    except OutsideVocabulary:
        return 0


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Without dropout; afterwards as before."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
