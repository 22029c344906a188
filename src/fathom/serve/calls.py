"""Calls of tools in what a model writes: how families spell them, and how they are read while they are written.

Hermes and Qwen write <tool_call>{"name": ..., "arguments": {...}}</tool_call>, Mistral [TOOL_CALLS] and a list of such
objects, or a name, [ARGS] and the arguments, and Llama 3 the object alone, with "parameters".
"""

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fathom.generation.constraint import json_rule
from fathom.generation.text import StopStrings
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import named_templates, template_for

NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}  # parameters of a function without any
HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
NAMED = re.compile(r"\s*([\w.-]{1,64})\[ARGS\]\s*(?=\{)")


@dataclass(frozen=True)
class Convention:
    """How a family writes calls. begin, end: texts around one, or around all of them."""

    begin: str
    end: str
    key: str = "arguments"  # of the object
    listed: bool = False  # several calls are a list
    named: bool = False  # name[ARGS]{...} instead of an object
    bare: bool = False  # an answer that begins with an object may be a call

    @property
    def head(self) -> re.Pattern[str]:
        return NAMED if self.named else HEAD

    def symbols(self) -> list[str]:
        return [text for text in (self.begin, self.end, "[ARGS]" if self.named else "") if text]


HERMES = Convention("<tool_call>", "</tool_call>")
MISTRAL = Convention("[TOOL_CALLS]", "", listed=True)
MISTRAL_NAMED = Convention("[TOOL_CALLS]", "", named=True)
LLAMA3 = Convention("<|python_tag|>", "", "parameters", bare=True)


def convention_of(tokenizer: Tokenizer) -> Convention | None:
    """How the model of this tokenizer writes calls, read from its template; None: in no way that is known here."""
    named = [text for text in named_templates(tokenizer).values() if isinstance(text, str)]
    text = "\n".join([template_for(tokenizer), *named])
    if "tools" not in text or "<function=" in text:
        return None
    if "<tool_call>" in text:
        return HERMES
    if "[TOOL_CALLS]" in text:
        return MISTRAL_NAMED if "[ARGS]" in text else MISTRAL
    return LLAMA3 if '"parameters"' in text and "<|start_header_id|>" in text else None


def forced(
    convention: Convention, functions: Sequence[Mapping[str, Any]], special: Mapping[str, int], several: bool
) -> list[str]:
    """The rules of a grammar in which an answer is a call of one of these functions, or of several."""

    def symbol(text: str) -> str:
        return f"<[{special[text]}]>" if text in special else json.dumps(text)

    one, rules = [], list[str]()
    for place, function in enumerate(functions):
        name = json.dumps(function["name"])
        rules.append(f"given{place}: {json_rule(function.get('parameters') or NOTHING)}")
        if convention.named:
            one.append(f"{name} {symbol('[ARGS]')} given{place}")
        else:
            head = json.dumps(f'{{"name": {name}, "{convention.key}": ')
            one.append(f'{head} given{place} "}}"')
    rules.append(f"call: {' | '.join(one)}")
    begin, end = symbol(convention.begin), symbol(convention.end)
    if convention.bare:
        start = "call"
    elif convention.listed:
        more = ' (", " call)*' if several else ""
        start = f'{begin} "[" call{more} "]"'
    elif convention.named:
        start = f"({begin} call)+" if several else f"{begin} call"
    else:
        whole = f'{begin} "\\n" call "\\n" {end}'
        start = f'{whole} ("\\n" {whole})*' if several else whole
    return [f"start: {start}", *rules]


class Braces:
    """Where a JSON object ends, while it comes."""

    def __init__(self) -> None:
        self.depth, self.quoted, self.escaped = 0, False, False

    def end(self, text: str) -> int | None:
        """The place in `text`, which goes on from the text before, after the object's last brace; None: it goes on."""
        for place, c in enumerate(text):
            if self.escaped:
                self.escaped = False
            elif self.quoted:
                self.escaped, self.quoted = c == "\\", c != '"'
            elif c == '"':
                self.quoted = True
            elif c in "{[":
                self.depth += 1
            elif c in "}]":
                self.depth -= 1
                if self.depth <= 0:
                    return place + 1
        return None


Delta = dict[str, Any]  # of a message, as OpenAI's streams have them


class Listener:
    """What is said and what is called, from the text of an answer as it comes."""

    def __init__(self, convention: Convention | None) -> None:
        self.convention, self.held, self.calls = convention, "", 0
        self.marks = StopStrings([convention.begin] if convention and convention.begin else [])
        self.braces = Braces()
        bare = convention is not None and convention.bare
        self.state: Callable[[], Iterator[Delta]] = self.first if bare else self.saying

    def feed(self, text: str) -> list[Delta]:
        """The changes of the message that this text makes."""
        self.held += text
        return list(self.state()) if text else []

    def end(self) -> list[Delta]:
        """What is left when the answer ends: a call that was never whole is text."""
        left = self.marks.flush() if self.state == self.saying else ""
        if self.state in (self.opening, self.first):
            begin = self.convention.begin if self.convention and self.state == self.opening else ""
            left = ("" if self.convention and self.convention.bare else begin) + self.held
        self.held = ""
        return [{"content": left}] if left else []

    def first(self) -> Iterator[Delta]:
        """Before the first letter, where an answer may be an object."""
        start = self.held.lstrip()
        if not start:
            return
        self.state = self.opening if start.startswith("{") else self.saying
        yield from self.state()

    def saying(self) -> Iterator[Delta]:
        """Text, until a call begins."""
        before = self.marks.held + self.held
        shown, self.held = self.marks.push(self.held), ""
        if shown:
            yield {"content": shown}
        if self.marks.reached and self.convention is not None:
            self.held = before[len(shown) + len(self.convention.begin) :]
            self.state = self.opening
            yield from self.opening()

    def opening(self) -> Iterator[Delta]:
        """After a call has begun, until its name is known."""
        if self.convention is None:
            return
        if self.convention.listed:
            self.held = self.held.lstrip().removeprefix("[")
        if head := self.convention.head.match(self.held):
            name = head[1] if self.convention.named else json.loads(f'"{head[1]}"')
            yield self.call(name)
            self.held, self.braces, self.state = self.held[head.end() :], Braces(), self.giving
            yield from self.giving()
        elif not self.convention.named and (end := Braces().end(self.held)) is not None:
            yield from self.whole(self.held[:end])

    def whole(self, text: str) -> Iterator[Delta]:
        """An object that does not begin as most do: a call with its parts in another order, or text."""
        try:
            found = json.loads(text)
            name, given = found["name"], found.get("arguments", found.get("parameters"))
        except (ValueError, TypeError, KeyError, RecursionError):
            name, given = None, None
        if isinstance(name, str) and isinstance(given, dict):
            yield self.call(name)
            yield self.arguments(json.dumps(given, ensure_ascii=False))
            self.held, self.state = self.held[len(text) :], self.between
            yield from self.between()
        else:
            begin = "" if self.convention is None or self.convention.bare else self.convention.begin
            shown, self.held, self.state = begin + self.held, "", self.saying
            self.marks = StopStrings([])
            yield {"content": shown}

    def giving(self) -> Iterator[Delta]:
        """The arguments, as they come."""
        end = self.braces.end(self.held)
        part, self.held = self.held[:end], "" if end is None else self.held[end:]
        if part:
            yield self.arguments(part)
        if end is not None:
            self.state = self.between
            yield from self.between()

    def between(self) -> Iterator[Delta]:
        """After a call: its end, and perhaps the next one."""
        assert self.convention is not None
        rest = self.held.lstrip("}" + " \n\t,;]")
        if self.convention.end and rest.startswith(self.convention.end):
            rest = rest[len(self.convention.end) :].lstrip()
        if self.convention.end and self.convention.end.startswith(rest) and rest:
            return
        begin = self.convention.begin
        if rest.startswith(begin):
            self.held, self.state = rest[len(begin) :], self.opening
            yield from self.opening()
        elif rest.startswith("{") and (self.convention.listed or self.convention.bare):
            self.held, self.state = rest, self.opening
            yield from self.opening()
        elif rest and not begin.startswith(rest):
            self.held, self.marks, self.state = rest, StopStrings([begin]), self.saying
            yield from self.saying()

    def call(self, name: str) -> Delta:
        """A new call: its number, its id of nine letters and digits, as Mistral's templates want it, and its name."""
        self.calls += 1
        function = {"name": name, "arguments": ""}
        id = secrets.token_hex(5)[:9]
        return {"tool_calls": [{"index": self.calls - 1, "id": id, "type": "function", "function": function}]}

    def arguments(self, text: str) -> Delta:
        return {"tool_calls": [{"index": self.calls - 1, "function": {"arguments": text}}]}
