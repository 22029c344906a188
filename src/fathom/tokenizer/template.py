"""A conversation as the tokens that a chat model was trained on, and the role of each token.

The template's text is cut at the special tokens that it spells; each stretch between two of them is encoded as one
text, so that tokens may join template and content exactly as in the reference. What a message spells stays text.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fathom.errors import FathomError
from fathom.tokenizer.marked_text import mark_all, speakers_of, texts_in, unmarked
from fathom.tokenizer.protocol import Tokenizer, utf8
from fathom.tokenizer.sandbox import run_template

HIDDEN = "\uffff"  # not a character: no special token is spelled with it
FRAME = "frame"  # the role of what belongs to no message: the template's own text and special tokens
ROLE = re.compile(r"[A-Za-z][\w-]{0,63}")
TOOLS = "tools"  # the role of what describes the tools to the model
# What an assistant writes beside content, and the role of such text in what an assistant has written.
SPOKEN = {
    "tool_calls": "tool call",
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "thinking": "reasoning",
}

# Touvron et al. 2023 (LLaMA 2), as in Meta's `chat_completion`: a system prompt is part of the first question.
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

# For a base model, which was not trained to converse: a transcript that it may continue.
TRANSCRIPT = """\
{{ bos_token }}
{%- for message in messages %}
{{ message.role.capitalize() + ': ' + message.content.strip() }}
{{- eos_token if message.role == 'assistant' }}
{{- '\\n' }}
{%- endfor %}
{{- 'Assistant:' if add_generation_prompt }}"""

LLAMA2_KINDS = ("sentencepiece", "byte_fallback")  # the same vocabulary in Meta's files and in those of Hugging Face
STOPS = {TRANSCRIPT: ("\nUser:",)}  # texts that begin another's turn where no token ends one
BUILT_IN = {LLAMA2: "LLaMA 2's", LLAMA3: "LLaMA 3's", TRANSCRIPT: "a plain transcript (User: ..., Assistant: ...)"}


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. role: system, user, assistant, tool, or another word that the template supports.

    content: text, a list of parts {"type": "text", "text": ...}, or None beside other fields. more: those fields, as
    the template reads them: tool_calls, reasoning_content, name, tool_call_id, ...
    """

    role: str
    content: str | list[dict[str, Any]] | None
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.role, str) or not ROLE.fullmatch(self.role) or self.role == FRAME:
            raise FathomError(f"a message's role is {self.role!r:.80}; expected a word such as user or assistant")
        for part in self.content if isinstance(self.content, list) else ():
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise FathomError(f"a message's content has a part of type {kind!r:.80}; expected text parts alone")
        if self.content is None and not self.more:
            raise FathomError("a message's content is null; expected text, or fields such as tool_calls beside it")
        if not isinstance(self.content, str | list | None):
            raise FathomError(f"a message's content is {type(self.content).__name__}; expected text")
        for text in texts_in([self.content, self.more]):
            utf8(text)

    @property
    def text(self) -> str:
        """The text of the content, of all parts one after another."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part["text"] for part in self.content)

    def values(self) -> dict[str, Any]:
        """The message as a template and JSON have it."""
        return {"role": self.role, "content": self.content, **self.more}


def read_message(values: object, where: str) -> Message:
    """A message from an object with role, content and perhaps other fields; `where` names it in errors.

    A field that is null is left out; content may be, where another field says something.
    """
    if not isinstance(values, Mapping):
        raise FathomError(f"{where}: {type(values).__name__}; expected an object with 'role' and 'content'")
    more = {name: value for name, value in values.items() if name not in ("role", "content") and value is not None}
    for name in ("role", "content"):
        if name not in values and (name == "role" or not more.keys() & SPOKEN):
            fields = ", ".join(map(repr, values))[:200] or "none"
            raise FathomError(f"{where}: no field {name!r}, found {fields}; expected 'role' and 'content'")
    try:
        return Message(values["role"], values.get("content"), more)
    except FathomError as problem:
        raise FathomError(f"{where}: {problem}") from None


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens. A token that joins template and content has the content's role."""

    ids: list[int]
    roles: list[str]  # of each token: the role of its message, or FRAME
    text: str


def template_for(tokenizer: Tokenizer) -> str:
    """The model's own template, else that of LLaMA 3 or 2 if the special tokens are theirs, else TRANSCRIPT."""
    names = tokenizer.special.names
    if tokenizer.special.template is not None:
        return tokenizer.special.template
    if "<|start_header_id|>" in names:
        return LLAMA3
    llama = tokenizer.kind in LLAMA2_KINDS and {"<s>", "</s>"} <= names.keys()
    return LLAMA2 if llama else TRANSCRIPT


def template_origin(template: str) -> str:
    """Where a template comes from, in words."""
    return BUILT_IN.get(template, "the model's own")


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    reply: bool,
    *,
    special_in_content: bool = False,
    variables: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
) -> Rendered:
    """The tokens of a conversation; with `reply` up to where the assistant's next message begins.

    special_in_content: special tokens that a message spells become tokens too, not text. variables: what else the
    template reads, such as tools or enable_thinking. labels: what stands for each message's role in `Rendered.roles`.
    FathomError where the template refuses the conversation, or is damaged.
    """
    labels = [message.role for message in messages] if labels is None else labels
    of_fields = [speaker(message, name, label) for message, label in zip(messages, labels) for name in message.more]
    speakers = [FRAME, *dict.fromkeys([TOOLS, *labels, *of_fields])]  # numbered by their places here
    text = _fill(tokenizer, messages, reply, speakers, labels, variables or {})
    names = tokenizer.special.names
    own = "".join(c if speaker == 0 else HIDDEN for c, speaker in zip(text, speakers_of(text)))
    ids, roles = list[int](), list[str]()
    for start, stop, name in split_at_special(unmarked(text) if special_in_content else own, names):
        new = [names[name]] if name else tokenizer.encode(unmarked(text[start:stop]))
        ids += new
        roles += [speakers[i] for i in ([0] if name else _token_speakers(tokenizer, new, text[start:stop]))]
    return Rendered(ids, roles, unmarked(text))


def _fill(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    reply: bool,
    speakers: list[str],
    labels: Sequence[str],
    variables: Mapping[str, Any],
) -> str:
    """The text that the template makes of a conversation, marked with the places of roles in `speakers`."""
    if not messages:
        raise FathomError("a conversation without messages; expected at least one")
    names: dict[int | None, str] = {id: name for name, id in tokenizer.special.names.items()}
    ends = {"bos_token": names.get(tokenizer.bos), "eos_token": names.get(tokenizer.eos)}
    values: dict[str, Any] = {name: text for name, text in ends.items() if text is not None}
    values |= {"add_generation_prompt": reply, "tools": None, "documents": None}
    values |= {name: mark_all(value, speakers.index(TOOLS)) for name, value in variables.items()}
    values["messages"] = [
        {"role": message.role, "content": mark_all(message.content, speakers.index(label))}
        | {name: mark_all(value, speakers.index(speaker(message, name, label))) for name, value in message.more.items()}
        for message, label in zip(messages, labels)
    ]
    return run_template(template_for(tokenizer), values)


def speaker(message: Message, name: str, label: str) -> str:
    """The role of the text in a field of a message beside its content."""
    return SPOKEN.get(name, label) if label == message.role else label


def split_at_special(text: str, names: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, name) of each special token, the longest where several begin; name is empty for text between."""
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name)
    end = 0
    for match in re.finditer(pattern, text) if pattern else ():
        if end < match.start():
            yield end, match.start(), ""
        yield match.start(), match.end(), match[0]
        end = match.end()
    if end < len(text):
        yield end, len(text), ""


def _token_speakers(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> Iterator[int]:
    """The speaker of each of the tokens that `text` was encoded to; of several, the last in number."""
    characters = zip(unmarked(text), speakers_of(text))
    of_bytes = b"".join(bytes([speaker]) * len(c.encode("utf-8")) for c, speaker in characters)
    end = 0
    for spelled in tokenizer.token_bytes(ids):
        yield max(of_bytes[end : end + max(len(spelled), 1)], default=0)
        end += len(spelled)
