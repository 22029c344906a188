"""Conversations as records have them: turns of role and content, or of from and value; questions with an answer.

A message may say whether it is learned (weight), tools and their calls go to the template, and what could not be
learned as it is meant is refused. Errors begin with `where`: file and record.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fathom.data.record_files import Values
from fathom.data.text import parse_json, text_field
from fathom.errors import FathomError, near
from fathom.tokenizer.message import SPOKEN, Message, read_message, uniform_message
from fathom.tokenizer.typed import uniform

ROLES = {  # as `from` names them
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "model", "assistant", "chatgpt", "bot", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response", "function", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
    "system": "system",
}
WEIGHTS = ("weight", "train", "training")  # fields of a message: 0 or false is not learned
EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True)
class Dialogue:
    """A conversation, of which the assistant's part is learned, but for the messages at the places `unlearned`.

    n_prompt: how many messages ask; of them nothing is learned unless all of a record is. tools: for the template.
    arguments: further names that the template may read.
    """

    messages: tuple[Message, ...]
    unlearned: frozenset[int] = frozenset()
    n_prompt: int = 0
    tools: tuple[Any, ...] | None = None
    arguments: Values = field(default_factory=dict)


def of_messages(values: Values, name: str, where: str) -> Dialogue:
    """A record with a list of messages in the field `name`."""
    messages, unlearned = turns(values, name, where)
    opening = _system(values, where)
    if opening and messages[0].role == "system":
        if messages[0].text.strip() != opening[0].text.strip():
            raise FathomError(f"{where}: 'system' and the first message are two system prompts; leave one out")
        opening = []
    return _checked([*opening, *messages], {place + len(opening) for place in unlearned}, 0, values, where)


def of_prompt(values: Values, where: str) -> Dialogue:
    """A prompt and a completion that are lists of messages, of which the completion is learned."""
    for name in ("prompt", "completion"):
        if not isinstance(values[name], list):
            raise FathomError(f"{where}: {name!r} is {type(values[name]).__name__}; expected a list, as the other is")
    asked, unlearned = turns(values, "prompt", where)
    answers, others = turns(values, "completion", where)
    return _checked([*asked, *answers], unlearned | {place + len(asked) for place in others}, len(asked), values, where)


def of_pair(values: Values, question: str, answer: str, where: str) -> Dialogue:
    """A question, perhaps with more text, and its answer; perhaps a system prompt and earlier questions."""
    asked = required(values, question, where)
    for name in ("input", "context"):
        if name not in (question, answer) and (more := text_of(values, name, where)).strip():
            asked = f"{asked}\n\n{more}"
    messages = [*_system(values, where), *_history(values, where)]
    messages += [Message("user", asked), Message("assistant", required(values, answer, where))]
    return _checked(messages, set(), 0, values, where)


def _checked(messages: list[Message], unlearned: set[int], n_prompt: int, values: Values, where: str) -> Dialogue:
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    if not [place for place in answers if place >= n_prompt]:
        roles = ", ".join(dict.fromkeys(message.role for message in messages[n_prompt:]))
        raise FathomError(f"{where}: no message has the role assistant, found {roles}; expected one that answers")
    learned = [place for place in answers if place not in unlearned and place >= n_prompt]
    if not learned:
        raise FathomError(f"{where}: every answer has weight 0; expected one to learn from")
    for place in learned:
        if not messages[place].text.strip() and not messages[place].fields.keys() & SPOKEN.keys():
            raise FathomError(f"{where}, message {place + 1}: 'content' is empty; expected an answer to learn from")
    arguments = values.get("chat_template_kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise FathomError(f"{where}: 'chat_template_kwargs' is {type(arguments).__name__}; expected an object")
    return Dialogue(tuple(messages), frozenset(unlearned), n_prompt, _tools(values, where), arguments)


def turns(values: Values, name: str, where: str) -> tuple[list[Message], set[int]]:
    """The messages in a field, and the places of those that are not learned though the assistant says them."""
    listed = values[name]
    if not isinstance(listed, list) or not listed:
        raise FathomError(f"{where}: {name!r} is {type(listed).__name__}; expected a list of at least one message")
    messages, unlearned = list[Message](), set[int]()
    for place, entry in enumerate(listed):
        at = f"{where}, message {place + 1}"
        if isinstance(entry, Mapping) and "from" in entry and "role" not in entry:
            entry = _from_value(entry, at)
        message = _with_calls(read_message(entry, at), at)
        weights = {weight: message.fields[weight] for weight in WEIGHTS if weight in message.fields}
        if not all(_learned(weight, value, message.role, at) for weight, value in weights.items()):
            unlearned.add(place)
        rest = {name: value for name, value in message.fields.items() if name not in weights}
        messages.append(uniform_message(replace(message, fields=rest)))
    return messages, unlearned


def _from_value(entry: Values, at: str) -> dict[str, Any]:
    """A ShareGPT turn as a message of role and content."""
    if "value" not in entry:
        raise FathomError(f"{at}: no field 'value', found {', '.join(map(repr, entry))}; expected 'from' and 'value'")
    role = ROLES.get(str(entry["from"]).lower())
    if role is None:
        known = ", ".join(ROLES)
        raise FathomError(f"{at}: 'from' is {entry['from']!r:.80}{near(str(entry['from']), ROLES)}; expected {known}")
    more = {name: value for name, value in entry.items() if name not in ("from", "value")}
    if role != "function_call":
        return {"role": role, "content": entry["value"], **more}
    calls = parse_json(text_field(entry, "value", at), f"{at}: 'value'")
    return {"role": "assistant", "content": None, "tool_calls": calls if isinstance(calls, list) else [calls], **more}


def _learned(name: str, weight: Any, role: str, at: str) -> bool:
    if weight not in (0, 1):  # True and False too
        raise FathomError(f"{at}: {name!r} is {weight!r:.80}; expected 0 or 1: learned or not")
    if weight and role != "assistant" and name == "weight":
        raise FathomError(f"{at}: {name!r} is 1, and the role is {role}; only the assistant's messages are learned")
    return bool(weight) or role != "assistant"


def _with_calls(message: Message, at: str) -> Message:
    """The message with the calls of tools as templates read them: a list, each with its arguments as an object."""
    fields = dict(message.fields)
    if call := fields.pop("function_call", None):
        fields["tool_calls"] = [{"type": "function", "function": call}]
    calls = fields.get("tool_calls")
    if calls in EMPTY:
        fields.pop("tool_calls", None)
    elif not isinstance(calls, list):
        raise FathomError(f"{at}: 'tool_calls' is {type(calls).__name__}; expected a list")
    else:
        fields["tool_calls"] = [_call(call, f"{at}, call {number}") for number, call in enumerate(calls, 1)]
    role = "tool" if message.role == "function" else message.role
    return replace(message, role=role, fields=fields)


def _call(call: Any, at: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise FathomError(f"{at}: has no function with a 'name'; expected {{'function': {{'name', 'arguments'}}}}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parse_json(arguments or "{}", f"{at}: 'arguments'")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise FathomError(f"{at}: 'arguments' is {type(arguments).__name__}; expected an object, or one as JSON text")
    function = {**function} if arguments is None else {**function, "arguments": arguments}
    beside = call if "function" in call else {}
    return {"type": "function", **beside, "function": function}  # as templates read it, ShareGPT's calls too


def _tools(values: Values, where: str) -> tuple[Any, ...] | None:
    tools, name = values.get("tools"), "tools"
    if tools in EMPTY and values.get("functions") not in EMPTY:
        tools, name = values["functions"], "functions"
    if isinstance(tools, str) and tools.strip():
        tools = parse_json(tools, f"{where}: {name!r}")
    if tools in EMPTY or isinstance(tools, str):
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise FathomError(f"{where}: {name!r} is {type(tools).__name__}; expected a list of objects")
    return tuple({"type": "function", "function": tool} if name == "functions" else tool for tool in tools)


def _system(values: Values, where: str) -> list[Message]:
    texts = [text_of(values, name, where) for name in ("system", "system_prompt")]
    return [Message("system", text) for text in texts if text.strip()][:1]


def _history(values: Values, where: str) -> list[Message]:
    """Earlier questions with their answers, as pairs."""
    history, messages = values.get("history") or [], list[Message]()
    if not isinstance(history, list):
        raise FathomError(f"{where}: 'history' is {type(history).__name__}; expected a list of [question, answer]")
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise FathomError(f"{where}: 'history' {number} is {json.dumps(pair)[:80]}; expected [question, answer]")
        messages += [Message(role, uniform(text)) for role, text in zip(("user", "assistant"), pair)]
    return messages


def required(values: Values, field: str, where: str) -> str:
    """The text of a field that is learned."""
    text = text_field(values, field, where)
    if not text.strip():
        raise FathomError(f"{where}: {field!r} is empty; expected text to learn from")
    return text


def text_of(values: Values, field: str, where: str) -> str:
    """The text of a field that may be missing or null."""
    return text_field(values, field, where) if values.get(field) else ""
