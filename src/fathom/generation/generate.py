"""The generation loop: run the model on the window, choose a token, decode it, until each row has a reason to end.

`stream` yields a piece for each token as it is chosen; `generate` collects them; `show` writes rows in order.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fathom.errors import OutsideVocabulary
from fathom.fields import build, plain
from fathom.generation.context import make_reader, room_for
from fathom.generation.options import GenerateOptions
from fathom.generation.recommended import with_recommended
from fathom.generation.sampling import Chooser, Samplers
from fathom.generation.speculative import DraftModel, PromptLookup, Speculative, check_draft
from fathom.generation.text import Completion, Piece, Row, Stats, complete
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
    ) -> None:
        vocab_size = min(
            tokenizer.vocab_size, model.config.vocab_size
        )  # a padded vocabulary ends in rows without tokens
        ids = [prompt_ids(tokenizer, prompt, vocab_size) for prompt in prompts]
        longest = max(map(len, ids), default=1)
        room = room_for(model.config, options.past_context, longest)
        reader = make_reader(model, options, longest, room)
        self.stats = Stats(secrets.randbits(32) if options.seed is None else options.seed, sum(map(len, ids)))
        self.prompts, self.rows = [], list[Row]()
        for prompt, start in zip(prompts, ids):
            for _ in range(options.num_samples):
                self.prompts.append(uniform(prompt) if isinstance(prompt, str) else tokenizer.decode(prompt))
                self.rows.append(Row(len(self.rows), start, room, tokenizer, options))
        chooser = Chooser(model, reader, Samplers(options), self.rows, self.stats, vocab_size)
        self.chooser = speculating(chooser, options, longest, draft)
        self.pieces = self.run()

    def __next__(self) -> Piece:
        return next(self.pieces)

    def collect(self) -> list[Completion]:
        """Run to the end; the completion of every row."""
        return complete(self, self.prompts)

    def run(self) -> Iterator[Piece]:
        """The loop: one pass of the model for all rows that have not ended."""
        clock = Stopwatch()
        while live := [row for row in self.rows if row.finish_reason is None]:
            clock.start()
            chosen = self.chooser.choose(live)
            seconds = clock.lap()
            pieces = [row.accept(token, logprob) for row, token, logprob in chosen if row.finish_reason is None]
            self.stats.count(len(pieces), seconds)
            self.stats.cache_bytes = self.chooser.nbytes
            self.stats.dropped = sum(row.window.dropped for row in self.rows)
            yield from pieces


def speculating(
    chooser: Chooser, options: GenerateOptions, longest: int, draft: Transformer | None
) -> Chooser | Speculative:
    """The chooser itself, or for a single row one that verifies drafts if asked for; several rows do without."""
    if draft is not None:
        check_draft(chooser.model, draft, options, chooser.vocab_size)
    if len(chooser.generators) != 1 or (draft is None and options.speculate == "off"):
        return chooser
    chooser.stats.proposed = 0
    if draft is None:
        return Speculative(chooser, PromptLookup())
    sampling = (chooser.samplers, chooser.generators[0], chooser.vocab_size)
    return Speculative(chooser, DraftModel(draft, *sampling, longest + options.max_new_tokens, options.prefill_chunk))


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
