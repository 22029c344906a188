"""A conversation as the tokens that a chat model was trained on, and for each token who says it.

The template's text is cut at the special tokens it spells; each stretch between two of them is encoded as one text, so
that tokens may join template and content exactly as in the reference. What a message spells stays text. Knows no
model; how a template runs is the sandbox's business.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fathom.errors import FathomError
from fathom.tokenizer.marked_text import by, plain, voices
from fathom.tokenizer.protocol import Tokenizer, utf8
from fathom.tokenizer.sandbox import fill

NEVER = "\uffff"  # no character: no special token is spelled with it
FRAME = "frame"  # who says what no message says: the template's text and special tokens
ROLE = re.compile(r"[A-Za-z][\w-]{0,63}")

# Touvron et al. 2023 (LLaMA 2), as in Meta's `chat_completion`: a system prompt stands in the first question.
LLAMA2 = """\
{% if messages[0].role == 'system' %}
{% set system, turns = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n', messages[1:] %}
{% else %}
{% set system, turns = '', messages %}
{% endif %}
{% for message in turns %}
{% if message.role != ['user', 'assistant'][loop.index0 % 2] %}
{{ raise_exception('LLaMA 2 takes turns: system if any, then user, assistant, user, ...') }}
{% endif %}
{% if message.role == 'user' %}
{% set text = system + message.content if loop.first else message.content %}
{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
{%- else %}
{{ ' ' + message.content.strip() + ' ' + eos_token }}
{%- endif %}
{% endfor %}"""

# Dubey et al. 2024 (LLaMA 3), as in Meta's `ChatFormat`.
LLAMA3 = """\
{{ bos_token }}
{%- for message in messages %}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content.strip() + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

# For a model that was never taught to converse: a transcript, which it may go on with.
PLAIN = """\
{{ bos_token }}
{%- for message in messages %}
{{ message.role.capitalize() + ': ' + message.content.strip() }}
{{- eos_token if message.role == 'assistant' }}
{{- '\\n' }}
{%- endfor %}
{{- 'Assistant:' if add_generation_prompt }}"""

LLAMAS = ("sentencepiece", "byte_fallback")  # the same vocabulary in Meta's files and in those of Hugging Face
STOPS = {PLAIN: ("\nUser:",)}  # texts that begin another's turn where no token ends one
BUILT_IN = {LLAMA2: "LLaMA 2's", LLAMA3: "LLaMA 3's", PLAIN: "a plain transcript (User: ..., Assistant: ...)"}


@dataclass(frozen=True)
class Message:
    """What one side says. role: system, user, assistant, or another word that the template knows."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if not isinstance(self.role, str) or not ROLE.fullmatch(self.role) or self.role == FRAME:
            raise FathomError(f"a message's role is {self.role!r:.80}; expected a word such as user or assistant")
        if not isinstance(self.content, str):
            raise FathomError(f"a message's content is {type(self.content).__name__}; expected text")
        utf8(self.content)


def read_message(values: object, where: str) -> Message:
    """A message from an object with role and content; `where` names it in errors."""
    if not isinstance(values, Mapping):
        raise FathomError(f"{where}: {type(values).__name__}; expected an object with 'role' and 'content'")
    for name in ("role", "content"):
        if name not in values:
            raise FathomError(f"{where}: no field {name!r}, found {', '.join(map(repr, values))[:200] or 'none'}")
    try:
        return Message(values["role"], values["content"])
    except FathomError as problem:
        raise FathomError(f"{where}: {problem}") from None


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens. A token that joins template and content is said by the content's role."""

    ids: list[int]
    roles: list[str]  # of each token: the role of its message, or FRAME
    text: str


def template_for(tokenizer: Tokenizer) -> str:
    """The model's own template; without one that of LLaMA 3 or 2, whose special tokens these are; else PLAIN."""
    names = tokenizer.special.names
    if tokenizer.special.template is not None:
        return tokenizer.special.template
    if "<|start_header_id|>" in names:
        return LLAMA3
    llama = tokenizer.kind in LLAMAS and {"<s>", "</s>"} <= names.keys()
    return LLAMA2 if llama else PLAIN


def about(template: str) -> str:
    """In words where a template comes from."""
    return BUILT_IN.get(template, "the model's own")


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], reply: bool, *, special_in_content: bool = False
) -> Rendered:
    """The tokens of a conversation; with `reply` up to where the assistant's next message begins.

    special_in_content: special tokens that a message spells become tokens too, not text. FathomError where the
    template refuses the conversation, or is damaged.
    """
    speakers = [FRAME, *dict.fromkeys(message.role for message in messages)]  # a voice is a place in it
    text = told(tokenizer, messages, reply, speakers)
    names = tokenizer.special.names
    shown = plain(text) if special_in_content else "".join(c if v == 0 else NEVER for c, v in zip(text, voices(text)))
    ids, roles = list[int](), list[str]()
    for start, stop, name in pieces(shown, names):
        found = [names[name]] if name else tokenizer.encode(plain(text[start:stop]))
        ids += found
        roles += [speakers[v] for v in ([0] if name else who(tokenizer, found, text[start:stop]))]
    return Rendered(ids, roles, plain(text))


def told(tokenizer: Tokenizer, messages: Sequence[Message], reply: bool, speakers: list[str]) -> str:
    """The conversation as the template tells it, with voices."""
    if not messages:
        raise FathomError("a conversation without messages; expected at least one")
    names: dict[int | None, str] = {id: name for name, id in tokenizer.special.names.items()}
    ends = {"bos_token": names.get(tokenizer.bos), "eos_token": names.get(tokenizer.eos)}
    values: dict[str, Any] = {name: text for name, text in ends.items() if text is not None}
    values["messages"] = [{"role": m.role, "content": by(speakers.index(m.role), m.content)} for m in messages]
    return fill(template_for(tokenizer), values | {"add_generation_prompt": reply, "tools": None, "documents": None})


def pieces(text: str, names: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, name) of each special token, the longest where several begin, and of each stretch between: ""."""
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name)
    end = 0
    for match in re.finditer(pattern, text) if pattern else ():
        if end < match.start():
            yield end, match.start(), ""
        yield match.start(), match.end(), match[0]
        end = match.end()
    if end < len(text):
        yield end, len(text), ""


def who(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> Iterator[int]:
    """The voice of each of the tokens that `text` was encoded to."""
    voice = b"".join(bytes([v]) * len(c.encode("utf-8")) for c, v in zip(plain(text), voices(text)))  # of each byte
    end = 0
    for place in range(len(ids)):
        before = ids[max(place - 1, 0) : place]  # what a first token spells may differ from what a later one does
        length = len(tokenizer.decode_bytes(ids[max(place - 1, 0) : place + 1])) - len(tokenizer.decode_bytes(before))
        yield max(voice[end : end + max(length, 1)], default=0)
        end += length
