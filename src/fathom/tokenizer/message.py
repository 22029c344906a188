"""One turn of a conversation: what is said, and what templates read beside it, such as the calls of tools.

The content is text, a list of parts such as {"type": "text", "text": ...}, or nothing beside calls of tools. The fields
are those that transformers' `apply_chat_template` passes to a template.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fathom.errors import FathomError
from fathom.tokenizer.marked_text import texts_in
from fathom.tokenizer.protocol import utf8
from fathom.tokenizer.typed import uniform

FRAME = "frame"  # the role of what belongs to no message: the template's own text and special tokens
ROLE = re.compile(r"[A-Za-z][\w-]{0,63}")
CALLS = ("tool_calls", "function_call")  # beside these a message may have no content
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one thing; templates read one or another
CALLED = "tool call"
SPOKEN = {  # fields that an assistant writes beside the content, and the role that their text has
    **dict.fromkeys(CALLS, CALLED),
    **dict.fromkeys(REASONING, "reasoning"),
}


@dataclass(frozen=True)
class Message:
    """One turn. role: system, user, assistant, tool, or another word that the template supports.

    fields: everything else that the template may read, as plain JSON values: tool_calls, reasoning_content, name.
    """

    role: str
    content: str | list[Any] | None = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.role, str) or not ROLE.fullmatch(self.role) or self.role == FRAME:
            raise FathomError(f"a message's role is {self.role!r:.80}; expected a word such as user or assistant")
        match self.content:
            case str():
                utf8(self.content)
            case list():
                for part in self.content:
                    _check_part(part)
            case None if any(self.fields.get(call) for call in CALLS):
                pass
            case other:
                raise FathomError(f"a message's content is {type(other).__name__}; expected text, or a list of parts")
        for text in texts_in(self.fields):
            utf8(text)

    @property
    def text(self) -> str:
        """The text of the content: of its parts, one after another."""
        if isinstance(self.content, list):
            return "".join(part if isinstance(part, str) else part.get("text", "") for part in self.content)
        return self.content or ""

    def to_json(self) -> dict[str, Any]:
        """The message as one object, as `read_message` reads it."""
        return {"role": self.role, "content": self.content, **self.fields}


def _check_part(part: object) -> None:
    if not isinstance(part, str | Mapping):
        raise FathomError(f"a part of a message's content is {type(part).__name__}; expected {{'type': 'text', ...}}")
    kind = "text" if isinstance(part, str) else part.get("type", "text")
    text = part if isinstance(part, str) else part.get("text", "")
    if kind != "text" or not isinstance(text, str):
        raise FathomError(f"a part of a message's content is {str(kind)[:40]!r}; expected text")
    utf8(text)


def read_message(values: object, where: str) -> Message:
    """A message from an object with role and content, and perhaps other fields; `where` names it in errors.

    A field that is null is left out: tables write null where a record has no such field.
    """
    if not isinstance(values, Mapping):
        raise FathomError(f"{where}: {type(values).__name__}; expected an object with 'role' and 'content'")
    missing = "role" if "role" not in values else "content" if not {"content", *CALLS} & values.keys() else ""
    if missing:
        fields = ", ".join(map(repr, values))[:200] or "none"
        raise FathomError(f"{where}: no field {missing!r}, found {fields}; expected 'role' and 'content'")
    others = {str(k): value for k, value in values.items() if k not in ("role", "content") and value is not None}
    try:
        return Message(values["role"], values.get("content"), others)
    except FathomError as problem:
        raise FathomError(f"{where}: {problem}") from None


def uniform_message(message: Message) -> Message:
    """The message with its texts, those of the content and of reasoning, as training reads text."""
    content, spoken = message.content, {name: text for name, text in message.fields.items() if name in REASONING}
    if isinstance(content, list):
        content = [_uniform_part(part) for part in content]
    fields = {name: uniform(text) if isinstance(text, str) else text for name, text in spoken.items()}
    return replace(
        message,
        content=uniform(content) if isinstance(content, str) else content,
        fields={**message.fields, **fields},
    )


def _uniform_part(part: Any) -> Any:
    if isinstance(part, str):
        return uniform(part)
    return {**part, "text": uniform(part["text"])} if isinstance(part.get("text"), str) else part
