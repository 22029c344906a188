"""A conversation with a model: the messages so far, and the next answer as it is generated.

The whole conversation goes through the chat template again for each answer; the model reads it from where it differs
from what was read for the last one. The oldest exchanges that no longer fit beside an answer are left out, and
`dropped` lists their messages.
"""

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fathom.anatomy.state import State
from fathom.errors import ContextOverflow, FathomError
from fathom.files import replacing
from fathom.generation.engine import Engine
from fathom.generation.generate import Stream, changed
from fathom.generation.options import GenerateOptions
from fathom.generation.speculative import check_draft
from fathom.generation.text import Piece
from fathom.model.transformer import Transformer
from fathom.tokenizer.message import Message, read_message, uniform_message
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import NO_EXTRAS, STOPS, Extras, render, template_for
from fathom.tokenizer.typed import uniform

LARGEST = 64 << 20  # bytes of a saved conversation


class Conversation:
    """`ask` for an answer, or `say` a text and iterate over the pieces of the answer.

    `messages`: all so far; `dropped`: those that the model no longer sees.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        options: GenerateOptions | None = None,
        system: str | None = None,
        draft: Transformer | None = None,
        extras: Extras = NO_EXTRAS,
    ) -> None:
        """options: None, those that the model's files recommend. extras: what the chat template reads besides the
        messages, such as tools."""
        options = options or changed(None, {}, tokenizer)
        if draft is not None:
            check_draft(model, draft, options, min(tokenizer.vocab_size, model.config.vocab_size))
        stop = (*options.stop, *STOPS.get(template_for(tokenizer), ()))
        past_context = "stop" if options.past_context == "slide" else options.past_context  # whole messages are dropped
        self.options = replace(options, stop=stop, num_samples=1, past_context=past_context)
        self.model, self.tokenizer, self.system, self.draft = model, tokenizer, system, draft
        self.extras = extras
        self.turns: list[Message] = []
        self.left_out = 0  # how many of the oldest turns
        self.engine: Engine | None = None  # remembers what it has read of the conversation
        self.read_by: State | None = None  # the model as it was then

    @property
    def messages(self) -> list[Message]:
        return [*self.opening, *self.turns]

    @property
    def dropped(self) -> list[Message]:
        return self.turns[: self.left_out]

    @property
    def opening(self) -> list[Message]:
        return [] if self.system is None else [Message("system", uniform(self.system))]

    def reset(self) -> None:
        """Drop all messages but the system prompt."""
        self.turns, self.left_out = [], 0

    def say(self, text: str) -> "Answer":
        """The model's answer to `text`. Any FathomError is raised before its first piece; then nothing is added."""
        question = Message("user", uniform(text))
        ids = self.prompt(question)

        def keep(answer: str) -> None:
            self.turns += [question, Message("assistant", answer.strip())]

        now = State(self.model)
        if self.engine is not None and not (self.engine.idle and now == self.read_by):
            self.engine = None
        running = Stream(self.model, self.tokenizer, [ids], self.options, self.draft, self.engine)
        self.engine, self.read_by = running.engine, now
        return Answer(running, keep)

    def ask(self, text: str) -> str:
        """The model's whole answer to `text`, without the spaces around it."""
        return "".join(piece.text for piece in self.say(text)).strip()

    def prompt(self, question: Message) -> list[int]:
        """The ids of the conversation: as many of the newest turns as leave room for an answer."""
        context = self.model.config.context_length
        room = min(self.options.max_new_tokens, max(1, context // 4))
        starts = [place for place, turn in enumerate(self.turns) if turn.role == "user" and place >= self.left_out]
        for start in dict.fromkeys([self.left_out, *starts, len(self.turns)]):
            shown = [*self.opening, *self.turns[start:], question]
            ids = render(self.tokenizer, shown, reply=True, extras=self.extras).ids
            if len(ids) + room <= context or self.options.past_context == "extend":
                break
        if len(ids) > context and self.options.past_context != "extend":
            raise ContextOverflow(f"the message is {len(ids):,} tokens and the context {context:,}; send a shorter one")
        self.left_out = start
        return ids

    def save(self, path: str | Path) -> None:
        """Write all messages as JSON, atomically."""
        with replacing(Path(path)) as file:
            values = {"messages": [message.to_json() for message in self.messages]}
            file.write(json.dumps(values, ensure_ascii=False, indent=1).encode("utf-8"))

    def load(self, path: str | Path) -> None:
        """Replace the conversation by one that `save` wrote."""
        messages = read_messages(Path(path))
        self.system = messages[0].text if messages and messages[0].role == "system" else None
        self.turns, self.left_out = messages[self.system is not None :], 0


class Answer(Iterator[Piece]):
    """The pieces of one answer. When it ends or is closed, it is added to the conversation."""

    def __init__(self, running: Stream, keep: Callable[[str], None]) -> None:
        self.stats, self.texts = running.stats, list[str]()
        self.pieces = self.run(running, keep)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self.texts)

    def run(self, running: Stream, keep: Callable[[str], None]) -> Generator[Piece, None, None]:
        try:
            for piece in running:
                self.texts.append(piece.text)
                yield piece
        finally:
            running.end(0)
            keep(self.text)

    def __next__(self) -> Piece:
        return next(self.pieces)

    def close(self) -> None:
        """End the answer here; keep what there is."""
        self.pieces.close()


def read_messages(path: Path) -> list[Message]:
    """The messages in a file that `save` wrote; FathomError names the file and what is wrong."""
    try:
        if path.stat().st_size > LARGEST:
            raise FathomError(f"{path}: larger than {LARGEST >> 20} MiB; expected a conversation")
        values: Any = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror}); expected a saved conversation") from None
    except (ValueError, RecursionError) as problem:
        raise FathomError(f"{path}: not JSON in UTF-8 ({problem}); expected a saved conversation") from None
    listed = values.get("messages") if isinstance(values, dict) else None
    if not isinstance(listed, list):
        raise FathomError(f"{path}: holds no list 'messages'; expected a saved conversation")
    return [uniform_message(read_message(entry, f"{path}, message {place}")) for place, entry in enumerate(listed, 1)]
