"""A conversation as the tokens that a chat model was trained on, and the role of each token.

The template's text is cut at the special tokens that it spells; each stretch between two of them is encoded as one
text, so that tokens may join template and content exactly as in the reference. What a message spells stays text.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fathom.errors import FathomError
from fathom.tokenizer.marked_text import marked, speakers_of, unmarked
from fathom.tokenizer.message import FRAME, REASONING, SPOKEN, Message
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.sandbox import run_template

HIDDEN, HIDDEN_LETTER = "\uffff", "\ua66e"  # no character and a rare letter: no special token is spelled with them
WORD = re.compile(r"\w")
NO_FLAGS: Mapping[str, Sequence[str]] = MappingProxyType({})
WITHIN = ": "  # between a message's label and the role of a part of it
TOOLS = "tools"  # the role of what describes tools and documents to the model
PARTS = re.compile(  # in a template that reads the parts of a content
    r"\bis\s+(not\s+)?(string|iterable|sequence|mapping)\b|['\"]type['\"]|\.type\b|\[\s*['\"]text['\"]\s*\]"
)

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

# ChatML, with tools as Hermes and Qwen2.5 write them.
CHATML = """\
{% set first = messages[0].content if messages[0].role == 'system' else '' %}
{% if tools %}
{{- '<|im_start|>system\\n' + first + ('\\n\\n' if first else '') + '# Tools\\n\\nYou may call one or more functions' }}
{{- ' to assist with the user query.\\n\\nYou are provided with function signatures within <tools></tools> XML tags:' }}
{{- '\\n<tools>' }}
{%- for tool in tools %}
{{- '\\n' }}{{ tool | tojson }}
{%- endfor %}
{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within ' }}
{{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n' }}
{{- '</tool_call><|im_end|>\\n' }}
{%- elif first %}
{{- '<|im_start|>system\\n' + first + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' }}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' }}
{%- elif not (loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role }}
{{- '\\n' + (message.content or '') if message.content or not message.tool_calls }}
{%- for call in message.tool_calls or [] %}
{%- set of = call.function or call %}
{{- '\\n<tool_call>\\n{"name": "' + of.name + '", "arguments": ' }}
{{- of.arguments if of.arguments is string else of.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt }}"""

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
NAMES = {"chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "transcript": TRANSCRIPT}
BUILT_IN = {
    CHATML: "ChatML",
    LLAMA2: "LLaMA 2's",
    LLAMA3: "LLaMA 3's",
    TRANSCRIPT: "a plain transcript (User: ..., Assistant: ...)",
}


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens. A token that joins template and content has the content's role."""

    ids: list[int]
    roles: list[str]  # of each token: the role of its message, or FRAME
    text: str


def template_for(tokenizer: Tokenizer) -> str:
    """The model's own template, else ChatML, LLaMA 3's or 2's if the special tokens are theirs, else TRANSCRIPT."""
    names = tokenizer.special.names
    if tokenizer.special.template is not None:
        return tokenizer.special.template
    if "<|start_header_id|>" in names:
        return LLAMA3
    if {"<|im_start|>", "<|im_end|>"} <= names.keys():
        return CHATML
    llama = tokenizer.kind in LLAMA2_KINDS and {"<s>", "</s>"} <= names.keys()
    return LLAMA2 if llama else TRANSCRIPT


def template_origin(template: str) -> str:
    """Where a template comes from, in words."""
    return BUILT_IN.get(template, "the model's own")


@dataclass(frozen=True)
class Extras:
    """What a template may read besides the messages.

    tools: functions that the model may call, as JSON schemas. arguments: further names, such as enable_thinking.
    """

    tools: Sequence[Any] | None = None
    documents: Sequence[Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


NO_EXTRAS = Extras()


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    reply: bool,
    *,
    special_in_content: bool = False,
    extras: Extras = NO_EXTRAS,
    labels: Sequence[str] | None = None,
) -> Rendered:
    """The tokens of a conversation; with `reply` up to where the assistant's next message begins.

    special_in_content: special tokens that a message spells become tokens too, not text. labels: what stands for the
    role of each message in `Rendered.roles`. FathomError where the template refuses the conversation, or is damaged.
    """
    labels = [message.role for message in messages] if labels is None else labels
    of_fields = [speaker(message, name, label) for message, label in zip(messages, labels) for name in message.fields]
    speakers = [FRAME, *dict.fromkeys([TOOLS, *labels, *of_fields])]  # numbered by their places here
    text = _fill(tokenizer, messages, labels, speakers, {"add_generation_prompt": reply}, extras)
    names, flags = tokenizer.special.names, tokenizer.special.flags
    own = "".join(c if speaker == 0 else _hidden(c) for c, speaker in zip(text, speakers_of(text)))
    ids, roles = list[int](), list[str]()
    for start, stop, name in split_at_special(unmarked(text) if special_in_content else own, names, flags):
        encode = tokenizer.continued if start else tokenizer.encode
        new = [names[name]] if name else encode(unmarked(text[start:stop]))
        ids += new
        roles += [speakers[i] for i in ([0] if name else _token_speakers(tokenizer, new, text[start:stop]))]
    return Rendered(ids, roles, unmarked(text))


def _fill(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    labels: Sequence[str],
    speakers: list[str],
    given: Mapping[str, Any],
    extras: Extras,
) -> str:
    """The text that the template makes of a conversation, marked with the places of roles in `speakers`."""
    if not messages:
        raise FathomError("a conversation without messages; expected at least one")
    template = _chosen(tokenizer, extras)
    values = {**_token_names(tokenizer), **extras.arguments, **given}
    values["tools"], values["documents"] = (
        marked(each, speakers.index(TOOLS)) for each in (extras.tools, extras.documents)
    )
    values["messages"] = [_read_by(template, message, label, speakers) for message, label in zip(messages, labels)]
    try:
        return run_template(template, values)
    except FathomError:
        if all(message.content is not None for message in messages):
            raise
    values["messages"] = [{"content": None, **message} for message in values["messages"]]  # as transformers < 5 did
    return run_template(template, values)


def _read_by(template: str, message: Message, label: str, speakers: list[str]) -> dict[str, Any]:
    """A message as the template reads it. As in transformers nothing is null, and reasoning has each of its names."""
    fields = {name: marked(it, speakers.index(speaker(message, name, label))) for name, it in message.fields.items()}
    if reasoning := next((name for name in REASONING if name in fields), None):
        fields = {"thinking": fields[reasoning], **fields, "reasoning_content": fields[reasoning]}
    said = {} if message.content is None else {"content": marked(_content(message, template), speakers.index(label))}
    return {"role": message.role, **said, **fields}


def _chosen(tokenizer: Tokenizer, extras: Extras) -> str:
    """The template: of several that a model has, the one called tool_use where there are tools, as in transformers."""
    tool_use = named_templates(tokenizer).get("tool_use") if extras.tools is not None else None
    return tool_use if isinstance(tool_use, str) else template_for(tokenizer)


def named_templates(tokenizer: Tokenizer) -> Mapping[str, str]:
    """The templates by name, where the model's files have several: default, tool_use, rag."""
    named = tokenizer.special.settings.get("chat_template")
    return named if isinstance(named, Mapping) else {}


def _token_names(tokenizer: Tokenizer) -> dict[str, Any]:
    """bos_token, eos_token and those that the model's files name, such as pad_token."""
    names: dict[int | None, str] = {id: name for name, id in tokenizer.special.names.items()}
    ends = {"bos_token": names.get(tokenizer.bos), "eos_token": names.get(tokenizer.eos)}
    settings = {key: token_text(value) for key, value in tokenizer.special.settings.items() if key.endswith("_token")}
    return {name: text for name, text in (settings | ends).items() if text is not None}


def token_text(token: Any) -> str | None:
    """The text of a token in a configuration: itself, or the content of an object; None: it is neither."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _content(message: Message, template: str) -> str | list[Any] | None:
    """The content as the template reads it: one that knows no parts is given their text."""
    return message.text if isinstance(message.content, list) and not PARTS.search(template) else message.content


def _hidden(c: str) -> str:
    """What stands for a character of a message where special tokens are searched: none is spelled with it."""
    return c if c.isspace() else HIDDEN_LETTER if WORD.match(c) else HIDDEN


def speaker(message: Message, name: str, label: str) -> str:
    """The role of the text in a field of a message beside its content, after the label if it is not the role."""
    if name not in SPOKEN:
        return label
    return SPOKEN[name] if label == message.role else f"{label}{WITHIN}{SPOKEN[name]}"


def split_at_special(
    text: str, names: Iterable[str], flags: Mapping[str, Sequence[str]] = NO_FLAGS
) -> Iterator[tuple[int, int, str]]:
    """(start, stop, name) of each special token, the longest where several begin; name is empty for text between.

    flags: by name, as in `Special.flags`. With lstrip or rstrip a token takes along the spaces beside it; with
    single_word it is none inside a word; `normalized` ones are searched where the others are not.
    """
    known = list(names)
    late = [name for name in known if "normalized" in flags.get(name, ())]
    for start, stop, name in _matches(text, 0, [name for name in known if name not in late], flags):
        yield from _matches(text[start:stop], start, late, flags) if late and not name else [(start, stop, name)]


def _matches(
    text: str, base: int, names: Iterable[str], flags: Mapping[str, Sequence[str]]
) -> Iterator[tuple[int, int, str]]:
    """`split_at_special` for tokens that are searched at once; places count from `base`."""
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name)
    end = 0
    for match in re.finditer(pattern, text) if pattern else ():
        own, start, stop = flags.get(match[0], ()), match.start(), match.end()
        if "single_word" in own and WORD.search(text[:start][-1:] + text[stop : stop + 1]):
            continue
        if "lstrip" in own:
            start = max(end, len(text[:start].rstrip()))
        if "rstrip" in own:
            stop = len(text) - len(text[stop:].lstrip())
        if end < start:
            yield base + end, base + start, ""
        yield base + start, base + stop, match[0]
        end = stop
    if end < len(text):
        yield base + end, base + len(text), ""


def _token_speakers(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> Iterator[int]:
    """The speaker of each of the tokens that `text` was encoded to; of several, the last in number."""
    characters = zip(unmarked(text), speakers_of(text))
    of_bytes = b"".join(bytes([speaker]) * len(c.encode("utf-8")) for c, speaker in characters)
    end = 0
    for spelled in tokenizer.token_bytes(ids):
        yield max(of_bytes[end : end + max(len(spelled), 1)], default=0)
        end += len(spelled)
