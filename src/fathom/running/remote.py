"""A conversation with a model that a server answers for: any that speaks OpenAI's API.

Only the standard library: the answer is read as server-sent events while it comes.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

from fathom.errors import FathomError
from fathom.generation.chat import Conversation
from fathom.generation.options import GenerateOptions
from fathom.generation.text import Piece, Stats
from fathom.tokenizer.message import Message
from fathom.tokenizer.template import NO_EXTRAS, Extras
from fathom.tokenizer.typed import uniform

KEY = "FATHOM_API_KEY"  # the environment variable that holds the server's key
PATIENCE = 600  # seconds without a byte, after which a server counts as lost
FIELDS = {"max_new_tokens": "max_tokens"}  # options that OpenAI's API calls otherwise


class Remote(Conversation):
    """A Conversation whose answers a server writes. Everything that was said is sent with each question."""

    def __init__(
        self,
        url: str,
        model: str | None = None,
        system: str | None = None,
        given: Mapping[str, Any] | None = None,
        extras: Extras = NO_EXTRAS,
    ) -> None:
        """url: of the server, with or without /v1. model: None, the first that it serves. given: fields of
        GenerateOptions to be sent. FathomError: there is no such server, or it serves nothing."""
        if not url.startswith(("http://", "https://")):
            raise FathomError(f"--url is {url!r:.200}; expected an address such as http://127.0.0.1:8000")
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self.given = dict(given or {})
        self.options = GenerateOptions(max_new_tokens=self.given.get("max_new_tokens", 256))
        self.system, self.extras = system, extras
        self.turns: list[Message] = []
        self.left_out = 0
        self.name = model or self.first()

    def first(self) -> str:
        """The first model that the server serves."""
        with closing(self.ask("/models")) as answer:
            listed = json.load(answer)
        try:
            return str(listed["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise FathomError(f"{self.url}/models lists no model; name one: --model NAME") from None

    def say(self, text: str) -> Any:
        """The server's answer to `text`, as pieces; it is added to the conversation when it ends or is closed."""
        question = Message("user", uniform(text))
        own = {FIELDS.get(name, name): value for name, value in self.given.items()}
        body = {
            "model": self.name,
            "messages": [message.to_json() for message in [*self.messages, question]],
            "stream": True,
            "max_tokens": self.options.max_new_tokens,
            **own,
            **({"tools": list(self.extras.tools)} if self.extras.tools else {}),
        }
        return RemoteAnswer(self, question, self.ask("/chat/completions", body))

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer to a request, to be read. FathomError: what the server says is wrong, or that there is none."""
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            return urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            raise FathomError(f"{self.url}{path}: {error.code}, {said(error.read(1 << 16))}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise FathomError(f"{self.url} does not answer ({reason}); is the server running?") from None


class RemoteAnswer(Iterator[Piece]):
    """The pieces of an answer that a server writes. stats: its times, counted in pieces."""

    def __init__(self, talk: Remote, question: Message, answer: Any) -> None:
        self.talk, self.question, self.answer = talk, question, answer
        self.texts: list[str] = []
        self.stats = Stats(0, 0)
        self.pieces = self.run()

    def __next__(self) -> Piece:
        return next(self.pieces)

    def close(self) -> None:
        self.pieces.close()
        self.answer.close()

    def run(self) -> Generator[Piece, None, None]:
        began = time.monotonic()
        try:
            with closing(self.answer):
                for event in events(self.answer):
                    for choice in event.get("choices", ()):
                        text = spoken(choice.get("delta") or {})
                        self.texts.append(text)
                        now = time.monotonic()
                        self.stats.count(1, now - began)
                        began = now
                        yield Piece(0, 0, text, 0.0, choice.get("finish_reason"))
        finally:
            self.talk.turns += [self.question, Message("assistant", "".join(self.texts).strip())]


def events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The values of server-sent events up to [DONE]. FathomError: one says what went wrong."""
    try:
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if (data := line[5:].strip()) == b"[DONE]":
                return
            value = json.loads(data)
            if "error" in value:
                raise FathomError(f"the server ended the answer: {said(data)}")
            yield value
    except (OSError, ValueError) as error:
        raise FathomError(f"the answer broke off ({error}); ask again") from None


def spoken(delta: Mapping[str, Any]) -> str:
    """What a delta says, calls of tools as they are written."""
    calls = [call.get("function", {}) for call in delta.get("tool_calls") or ()]
    called = "".join(f"{call.get('name') or ''} {call.get('arguments') or ''}".strip(" ") for call in calls)
    return str(delta.get("content") or "") + called


def said(body: bytes) -> str:
    """The message in an error of OpenAI's shape, else the start of the body."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace") or "without a word"
