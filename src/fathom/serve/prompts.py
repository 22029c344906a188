"""What a request asks of the engine: the ids of its prompt, its grammar, and its options. Computed beside the engine's
thread."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from fathom.errors import FathomError
from fathom.generation import constraint
from fathom.generation.constraint import Grammar, vocabulary
from fathom.generation.generate import prompt_ids
from fathom.serve.calls import Convention, convention_of, forced
from fathom.serve.failures import Failure
from fathom.serve.schema import Chat, Complete, Generation, ToolChoice
from fathom.serve.served import Served
from fathom.tokenizer.message import Message, read_message, uniform_message
from fathom.tokenizer.template import TRANSCRIPT, Extras, render, template_for

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")
PENALTIES = {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1}  # values that change nothing


def options(served: Served, asked: Generation) -> dict[str, Any]:
    """The fields of GenerateOptions that a request gives. Failure: it biases a token that is none."""
    given = {name: value for name in SAMPLING if (value := getattr(asked, name)) is not None}
    given |= {name: value for name, off in PENALTIES.items() if (value := getattr(asked, name)) not in (None, off)}
    most = getattr(asked, "max_completion_tokens", None) or asked.max_tokens
    given |= {"stop": asked.stops, "max_new_tokens": most}
    if asked.logit_bias:
        given["logit_bias"] = [{"token": token(served, id), "value": bias} for id, bias in asked.logit_bias.items()]
    return given


def token(served: Served, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) >= served.vocab_size:
        said = f"logit_bias names token {text!r:.40}; expected ids from 0 to {served.vocab_size - 1}"
        raise Failure(said, param="logit_bias")
    return int(text)


def chat_ids(served: Served, asked: Chat) -> list[int]:
    """The conversation through the model's template. Failure: it has none, or refuses it."""
    if served.tokenizer.special.template is None and template_for(served.tokenizer) == TRANSCRIPT:
        said = f"{served.name} has no chat template: it was not trained to converse; send a prompt to /v1/completions"
        raise Failure(said, param="messages", code="no_chat_template")
    messages = [read(values, place) for place, values in enumerate(asked.messages)]
    tools = [tool.model_dump(exclude_none=True) for tool in asked.tools or ()] if wanted(asked) else None
    if tools and convention_of(served.tokenizer) is None:
        said = f"the chat template of {served.name} writes no calls of tools that are known here; leave tools out"
        raise Failure(said, param="tools")
    try:
        return render(served.tokenizer, messages, reply=True, extras=Extras(tools=tools or None)).ids
    except FathomError as problem:
        raise Failure(str(problem), param="messages") from None


def wanted(asked: Chat) -> bool:
    """Whether the model may call tools."""
    return bool(asked.tools) and asked.tool_choice != "none"


def read(values: Mapping[str, Any], place: int) -> Message:
    """A message as templates read it: a developer is the system, and arguments of calls are objects."""
    values = {**values, "role": "system"} if values.get("role") == "developer" else values
    try:
        made = read_message(values, f"messages[{place}]")
    except FathomError as problem:
        raise Failure(str(problem), param=f"messages[{place}]") from None
    calls = made.fields.get("tool_calls")
    if isinstance(calls, list):
        fields = {**made.fields, "tool_calls": [as_object(call) for call in calls]}
        made = Message(made.role, made.content, fields)
    return uniform_message(made)


def as_object(call: Any) -> Any:
    """A call whose arguments are what their JSON says."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        given = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": given}}


def text_ids(served: Served, asked: Complete) -> list[list[int]]:
    """The ids of each prompt of a request. Failure: one is no token, or cannot be spelled."""
    try:
        return [prompt_ids(served.tokenizer, prompt, served.vocab_size) for prompt in asked.prompts]
    except FathomError as problem:
        raise Failure(str(problem), param="prompt") from None


def grammar_of(served: Served, asked: Generation) -> Grammar | None:
    """What the answer must be, compiled. Failure: it cannot be, and why."""
    found: dict[str, Callable[[], Grammar]] = {}
    if asked.grammar is not None:
        found["grammar"] = lambda: constraint.of_text(words(served), asked.grammar or "")
    if (schema := schema_of(asked)) is not None:
        found["response_format"] = lambda: constraint.of_schema(words(served), schema)
    if isinstance(asked, Chat) and (rules := rules_of(served, asked)) is not None:
        found["tool_choice"] = lambda: constraint.of_rules(words(served), rules)
    if len(found) > 1:
        raise Failure(f"{' and '.join(found)} both say what the answer must be; give one of them", param=list(found)[1])
    for param, made in found.items():
        try:
            return made()
        except FathomError as problem:
            raise Failure(f"{param} cannot be compiled: {problem}", param=param, code="invalid_grammar") from None
    return None


def words(served: Served) -> constraint.Vocabulary:
    return vocabulary(served.with_turns, served.vocab_size)


def schema_of(asked: Generation) -> Mapping[str, Any] | None:
    """The schema that the answer must have."""
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return constraint.JSON_OBJECT
    if wanted.json_schema is None:
        raise Failure(
            "response_format.type is json_schema and json_schema is missing", param="response_format.json_schema"
        )
    return wanted.json_schema.schema_


def rules_of(served: Served, asked: Chat) -> list[str] | None:
    """The grammar of an answer that must call a tool; None: it need not."""
    choice = asked.tool_choice
    if choice in (None, "none", "auto"):
        return None
    functions = [tool.function.model_dump(exclude_none=True) for tool in asked.tools or ()]
    if isinstance(choice, ToolChoice):
        functions = [function for function in functions if function["name"] == choice.function.name]
    if not functions:
        name = choice.function.name if isinstance(choice, ToolChoice) else "a tool"
        raise Failure(f"tool_choice asks for {name!r:.80}, which is not among tools", param="tool_choice")
    convention = convention_of(served.tokenizer)
    if convention is None:
        raise Failure("the chat template writes no calls of tools that are known here", param="tool_choice")
    several = asked.parallel_tool_calls is not False and not isinstance(choice, ToolChoice)
    return forced(convention, functions, served.tokenizer.special.names, several)


def listening(served: Served, asked: Generation) -> Convention | None:
    """How calls are told apart from text in the answer; None: all of it is text."""
    return convention_of(served.tokenizer) if isinstance(asked, Chat) and wanted(asked) else None
