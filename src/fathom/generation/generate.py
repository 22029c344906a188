"""Text from prompts: each row is a request to an engine, which is the loop.

`stream` yields a piece for each token as it is chosen; `generate` collects them; `show` writes rows in order.
"""

import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fathom.backend.pages import PAGE, pages_for
from fathom.errors import OutsideVocabulary
from fathom.fields import build, plain
from fathom.generation.context import most_of, room_for
from fathom.generation.engine import Engine
from fathom.generation.options import GenerateOptions
from fathom.generation.paged import Paged
from fathom.generation.readers import Alone, Reader, Whole
from fathom.generation.recommended import with_recommended
from fathom.generation.slots import Request
from fathom.generation.speculative import DraftModel, check_draft
from fathom.generation.text import Completion, Piece, Stats, complete
from fathom.model.transformer import Transformer
from fathom.native.stopwatch import Stopwatch
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.typed import uniform

Prompt = str | Sequence[int]  # a text, or token ids used as they are
Prompts = str | Sequence[Prompt]


def stream(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerateOptions | None = None,
    draft: Transformer | None = None,
    **changes: Any,
) -> "Stream":
    """Pieces of text as the model generates them: for one text, or in a batch for a list of texts or lists of ids.

    `changes`: fields of GenerateOptions, such as `temperature=0`; without `options` the others are what the model's
    files recommend. `draft`: a smaller model of the same vocabulary for speculative decoding. Any FathomError about
    the call is raised before the first piece.
    """
    options = changed(options, changes, tokenizer)
    return Stream(model, tokenizer, [prompts] if isinstance(prompts, str) else prompts, options, draft)


def changed(options: GenerateOptions | None, changes: Mapping[str, Any], tokenizer: Tokenizer) -> GenerateOptions:
    """The options with some fields changed; without options those that the files of the model recommend.

    A single stop string may stand for a list of one.
    """
    given = {**changes, **({"stop": (changes["stop"],)} if isinstance(changes.get("stop"), str) else {})}
    if options is None:
        return with_recommended(given, tokenizer.special.generation)
    return build(GenerateOptions, {**plain(options), **given}, "generate")


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerateOptions | None = None,
    draft: Transformer | None = None,
    **changes: Any,
) -> list[Completion]:
    """What `stream` yields, collected: `num_samples` completions of each prompt, in the order of the prompts."""
    return stream(model, tokenizer, prompts, options, draft, **changes).collect()


class Stream(Iterator[Piece]):
    """Pieces as they are chosen. `stats`: timing so far. `prompts`: the prompt of each row as text."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        options: GenerateOptions,
        draft: Transformer | None = None,
        engine: Engine | None = None,
    ) -> None:
        """engine: one that is idle, which remembers what it has read; None: a new one."""
        vocab_size = min(
            tokenizer.vocab_size, model.config.vocab_size
        )  # a padded vocabulary ends in rows without tokens
        ids = [prompt_ids(tokenizer, prompt, vocab_size) for prompt in prompts]
        room = room_for(model.config, options.past_context, max(map(len, ids), default=1))
        if draft is not None:
            check_draft(model, draft, options, vocab_size)
        seed = secrets.randbits(32) if options.seed is None else options.seed
        rows, self.samples = len(ids) * options.num_samples, options.num_samples
        options = replace(options, seed=seed, speculate=options.speculate if rows == 1 else "off")
        self.stats = Stats(seed, sum(map(len, ids)))
        texts = [uniform(prompt) if isinstance(prompt, str) else tokenizer.decode(prompt) for prompt in prompts]
        self.prompts = [texts[row // self.samples] for row in range(rows)]
        requests = [Request(tuple(ids[row // self.samples]), options, index=row) for row in range(rows)]
        self.engine = engine or engine_for(model, tokenizer, requests, room)
        self.slots = [self.engine.add(request) for request in requests]
        if draft is not None and rows == 1:
            (slot,), longest = self.slots, len(ids[0]) + options.max_new_tokens
            sampling = (slot.samplers, slot.generator, vocab_size)
            slot.proposer = DraftModel(draft, *sampling, longest, options.prefill_chunk)
        self.pieces = self.run()

    def __next__(self) -> Piece:
        return next(self.pieces)

    def collect(self) -> list[Completion]:
        """Run to the end; the completion of every row."""
        return complete(self, self.prompts)

    def end(self, row: int) -> None:
        """Write no more of this row."""
        self.engine.cancel(self.slots[row])

    def run(self) -> Iterator[Piece]:
        """The pieces of one step of the engine after another, in the order of the rows."""
        clock = Stopwatch()
        while not self.engine.idle:
            clock.start()
            events = self.engine.step()
            self.count(len(events), clock.lap())
            for _, piece in sorted(events, key=lambda event: event[0].request.index):
                if isinstance(piece, Exception):
                    raise piece
                yield piece

    def count(self, tokens: int, seconds: float) -> None:
        """Count the tokens of a step."""
        stats, (first, *_) = self.stats, self.slots
        if stats.prefill_seconds is None:
            stats.reused_tokens = sum(slot.reused for slot in self.slots[:: self.samples])
        stats.count(tokens, seconds)
        stats.dropped = sum(slot.row.window.dropped for slot in self.slots)
        stats.cache_bytes = self.engine.reader.nbytes
        if first.proposer is not None:
            stats.proposed, stats.accepted = first.proposed, first.accepted
            stats.cache_bytes += first.proposer.nbytes


def engine_for(model: Transformer, tokenizer: Tokenizer, requests: Sequence[Request], room: int | None) -> Engine:
    """An engine for requests that begin at once and have the same options: a text alone is read in one piece, several
    in pages. room: of each text."""
    reader: Reader = Whole(model)
    if requests and (options := requests[0].options).use_cache:
        pages = [pages_for(most_of(len(request.ids), options, room)) for request in requests]
        reader = Alone(model, options.prefill_chunk)
        if len(requests) > 1:
            reader = Paged(model, PAGE * sum(pages), chunk=options.prefill_chunk, exact=False)
    return Engine(model, tokenizer, reader, rows=len(requests), at_once=sys.maxsize)


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt, vocab_size: int) -> list[int]:
    """The ids of a prompt: for a text bos, where the format has one, and its ids; ids as they are.

    A text is read as training reads it: without a byte order mark, with newlines as line ends.

    An empty text starts as a document does: from bos, else from eos (the end of the document before), else from a
    newline, else from token 0.
    """
    ids = tokenizer.prefix + tokenizer.encode(uniform(prompt)) if isinstance(prompt, str) else list(prompt)
    ids = ids or [first_id(tokenizer)]
    if outside := [i for i in ids if not 0 <= i < vocab_size]:
        raise OutsideVocabulary(
            f"the prompt holds token {outside[0]}; ids run from 0 to {vocab_size - 1}; is this the model's tokenizer?"
        )
    return ids


def first_id(tokenizer: Tokenizer) -> int:
    """The first id of an empty text for a tokenizer without bos."""
    if tokenizer.eos is not None:
        return tokenizer.eos
    try:
        return tokenizer.encode("\n")[-1]
    except OutsideVocabulary:
        return 0


BETWEEN = "\n\n---\n\n"  # between one row and the next


def show(stream: Stream, write: Callable[[str], None], echo: bool = True) -> list[Completion]:
    """Run `stream` and pass its text to `write`, each row after its prompt if `echo`; returns the completions.

    Rows are written in order, each as early as possible: text of later rows waits until the rows before have ended.
    """
    waiting = [[BETWEEN * (row > 0) + prompt * echo] for row, prompt in enumerate(stream.prompts)]
    pieces: list[Piece] = []
    ended: set[int] = set()
    turn = flush(waiting, ended, 0, write)
    for piece in stream:
        pieces.append(piece)
        waiting[piece.row].append(piece.text)
        if piece.finish_reason:
            ended.add(piece.row)
        turn = flush(waiting, ended, turn, write)
    return complete(pieces, stream.prompts)


def flush(waiting: list[list[str]], ended: set[int], turn: int, write: Callable[[str], None]) -> int:
    """Write the waiting text of the current row, and of those after it once it has ended; returns the new turn."""
    while turn < len(waiting):
        if text := "".join(waiting[turn]):
            write(text)
        waiting[turn].clear()
        if turn not in ended:
            break
        turn += 1
    return turn
