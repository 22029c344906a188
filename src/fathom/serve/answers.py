"""What is written as OpenAI's answers: whole, or piece by piece as events of a stream.

Both are made of the same deltas, so that a stream joined is the whole answer.
"""

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fathom.generation.text import Piece
from fathom.serve.calls import Convention, Delta, Listener
from fathom.serve.failures import Failure, Fault
from fathom.serve.worker import Job

DONE = b"data: [DONE]\n\n"
Parts = list[tuple[Delta, dict[str, Any] | None, str | None]]  # of a stream: delta, logprobs, finish reason
REASONS = {"stop": "stop", "eos": "stop", "length": "length"}


@dataclass(frozen=True)
class Spelling:
    """Tokens as text. ends: those that are no text; marks: texts of special tokens that a decoder leaves out."""

    bytes_of: Callable[[int], bytes]
    ends: frozenset[int]
    marks: Mapping[int, str] = field(default_factory=dict)

    def text(self, token: int) -> str:
        return self.bytes_of(token).decode("utf-8", "replace")

    def entry(self, token: int, logprob: float) -> dict[str, Any]:
        """A token as chat's logprobs show it."""
        return {"token": self.text(token), "logprob": logprob, "bytes": list(self.bytes_of(token))}


class Choice:
    """One continuation on its way, of a chat or of a text."""

    def __init__(
        self, index: int, spelling: Spelling, chat: bool, logprobs: bool, convention: Convention | None
    ) -> None:
        self.index, self.spelling, self.chat, self.logprobs = index, spelling, chat, logprobs
        self.listener = Listener(convention)
        self.shown = 0  # characters
        self.finish: str | None = None

    def push(self, piece: Piece) -> Parts:
        """The parts of a stream that a token makes: (delta, logprobs, finish reason)."""
        text = self.spelling.marks.get(piece.token, "") + piece.text
        deltas = self.listener.feed(text)
        if piece.finish_reason is not None:
            deltas += self.listener.end()
            self.finish = "tool_calls" if self.called(piece) else REASONS[piece.finish_reason]
        logprobs = self.of(piece) if self.logprobs and piece.token not in self.spelling.ends else None
        self.shown += len(piece.text)
        if not deltas and (logprobs is not None or self.finish):
            deltas = [{}]
        last = len(deltas) - 1
        return [
            (delta, logprobs if place == 0 else None, self.finish if place == last else None)
            for place, delta in enumerate(deltas)
        ]

    def called(self, piece: Piece) -> bool:
        return bool(self.listener.calls) and piece.finish_reason != "length"

    def of(self, piece: Piece) -> dict[str, Any]:
        """The logprobs of a token in the shape of its route."""
        entry = self.spelling.entry(piece.token, piece.logprob)
        if self.chat:
            top = [self.spelling.entry(token, value) for token, value in piece.top]
            return {"content": [{**entry, "top_logprobs": top}], "refusal": None}
        top_ = {self.spelling.text(token): value for token, value in reversed(piece.top)}
        return {"tokens": [entry["token"]], "token_logprobs": [piece.logprob], "top_logprobs": [top_],
                "text_offset": [self.shown]}  # fmt: skip


@dataclass
class Answering:
    """A request whose job is running."""

    job: Job
    choices: list[Choice]
    model: str
    prompt_tokens: int
    chat: bool
    id: str = ""
    created: int = 0

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.chat else "cmpl-") + secrets.token_hex(12)
        self.created = int(time.time())

    @property
    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.job.tokens,
            "total_tokens": self.prompt_tokens + self.job.tokens,
            "prompt_tokens_details": {"cached_tokens": self.job.reused},
        }

    def frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    async def whole(self) -> dict[str, Any]:
        """The answer once all of it is written. Failure: what went wrong."""
        parts: list[Parts] = [[] for _ in self.choices]
        async for index, piece in self.job:
            parts[index] += self.choices[index].push(piece)
        make = message if self.chat else text
        choices = [make(choice, part) for choice, part in zip(self.choices, parts)]
        return {**self.frame("chat.completion" if self.chat else "text_completion", choices), "usage": self.usage}

    async def events(self, first: tuple[int, Piece], usage: bool) -> AsyncIterator[bytes]:
        """The answer as server-sent events, the last of which is [DONE], whatever happens. first: the job's first
        piece, which was waited for so that what is wrong before it has a status of its own."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        more = {"usage": None} if usage else {}

        def chunk(choice: dict[str, Any]) -> bytes:
            return event({**self.frame(kind, [choice]), **more})

        try:
            for choice in self.choices if self.chat else ():
                yield chunk(part(choice.index, {"role": "assistant", "content": ""}, None, None))
            shape = part if self.chat else text_part
            for made in self.choices[first[0]].push(first[1]):
                yield chunk(shape(first[0], *made))
            async for index, piece in self.job:
                for made in self.choices[index].push(piece):
                    yield chunk(shape(index, *made))
            if usage:
                yield event({**self.frame(kind, []), "usage": self.usage})
        except Failure as failure:
            yield event(failure.body())
        except Exception as error:  # a mistake of ours; the stream still ends as streams do
            yield event(Fault(error).body())
        yield DONE


def event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def part(index: int, delta: Delta, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    """A choice in a stream of a chat."""
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def text_part(index: int, delta: Delta, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    """A choice in a stream of a text."""
    return {"index": index, "text": delta.get("content", ""), "logprobs": logprobs, "finish_reason": finish}


def text(choice: Choice, parts: Parts) -> dict[str, Any]:
    """A choice of a text."""
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    told = [logprobs for _, logprobs, _ in parts if logprobs]
    joined = {name: [value for one in told for value in one[name]] for name in names}
    said = "".join(delta.get("content", "") for delta, _, _ in parts)
    logprobs = joined if choice.logprobs else None
    return {"index": choice.index, "text": said, "logprobs": logprobs, "finish_reason": choice.finish}


def message(choice: Choice, parts: Parts) -> dict[str, Any]:
    """A choice of a chat: its deltas, joined."""
    said = "".join(delta.get("content", "") for delta, _, _ in parts)
    calls: list[dict[str, Any]] = []
    for delta, _, _ in parts:
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    made: dict[str, Any] = {"role": "assistant", "content": said or (None if calls else ""), "refusal": None}
    told = [entry for _, logprobs, _ in parts if logprobs for entry in logprobs["content"]]
    return {
        "index": choice.index,
        "message": {**made, **({"tool_calls": calls} if calls else {})},
        "logprobs": {"content": told, "refusal": None} if choice.logprobs else None,
        "finish_reason": choice.finish,
    }
