"""Records as people have them: what each is read as, or the line that refuses it."""

import json
from typing import Any

from fathom.data.dialogues import Dialogue
from fathom.data.records import Completion, Document
from fathom.tokenizer.message import Message

CALLS = """{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% elif m.content %}\
{{ m.content | map(attribute='text') | join }}{% endif %}\
{% for c in m.tool_calls or [] %}\
<tool_call>{{ (c.function or c) | tojson }}</tool_call>{% endfor %}
<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def answer(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def turn(who: str, text: Any, **more: Any) -> dict[str, Any]:
    return {"from": who, "value": text, **more}


FORECAST = {"name": "forecast", "arguments": {"city": "Bonn"}}
CALL = {"id": "1", "type": "function", "function": FORECAST}
AS_TEXT = {"type": "function", "function": {"name": "forecast", "arguments": '{"city": "Bonn"}'}}
TOOL = {"type": "function", "function": {"name": "forecast", "parameters": {"type": "object"}}}
Q, A = Message("user", "a"), Message("assistant", "b")
QA = Dialogue((Q, A))
S = Message("system", "s")
CALLING = Message("assistant", None, {"tool_calls": [{"type": "function", "function": FORECAST}]})

RIGHT: dict[str, tuple[list[Any], object]] = {
    "messages": ([{"messages": [user("a"), answer("b")]}], QA),
    "weight 0": (
        [{"messages": [user("a"), answer("b", weight=0), user("a"), answer("b", weight=1)]}],
        Dialogue((Q, A, Q, A), frozenset({1})),
    ),
    "train false": (
        [{"messages": [user("a"), answer("b", train=False), user("a"), answer("b", train=True)]}],
        Dialogue((Q, A, Q, A), frozenset({1})),
    ),
    "weight null": ([{"messages": [user("a"), answer("b", weight=None)]}], QA),
    "weight 0 of a question": ([{"messages": [user("a", weight=0), answer("b")]}], QA),
    "developer": (
        [{"messages": [{"role": "developer", "content": "s"}, user("a"), answer("b")]}],
        Dialogue((Message("developer", "s"), Q, A)),
    ),
    "a system prompt beside the messages": (
        [{"system": "s", "messages": [user("a"), answer("b")]}],
        Dialogue((S, Q, A)),
    ),
    "the same system prompt twice": (
        [{"system": "s", "messages": [{"role": "system", "content": "s"}, user("a"), answer("b")]}],
        Dialogue((S, Q, A)),
    ),
    "carriage returns": (
        [{"messages": [user("a\r\nb"), answer("b\rc")]}],
        Dialogue((Message("user", "a\nb"), Message("assistant", "b\nc"))),
    ),
    "tool_calls and tools": (
        [
            {
                "messages": [
                    user("a"),
                    answer(None, tool_calls=[CALL]),
                    {"role": "tool", "content": "rain", "tool_call_id": "1"},
                    answer("b"),
                ],
                "tools": [TOOL],
            }
        ],
        Dialogue(
            (Q, Message("assistant", None, {"tool_calls": [CALL]}), Message("tool", "rain", {"tool_call_id": "1"}), A),
            tools=(TOOL,),
        ),
    ),
    "arguments as text": ([{"messages": [user("a"), answer(None, tool_calls=[AS_TEXT])]}], Dialogue((Q, CALLING))),
    "no content beside a call": (
        [{"messages": [user("a"), {"role": "assistant", "tool_calls": [AS_TEXT]}]}],
        Dialogue((Q, CALLING)),
    ),
    "tool_calls null": ([{"messages": [user("a"), answer("b", tool_calls=None)]}], QA),
    "tool_calls empty": ([{"messages": [user("a"), answer("b", tool_calls=[])]}], QA),
    "function_call and functions": (
        [{"messages": [user("a"), answer(None, function_call=AS_TEXT["function"])], "functions": [TOOL["function"]]}],
        Dialogue((Q, CALLING), tools=(TOOL,)),
    ),
    "role function": (
        [
            {
                "messages": [
                    user("a"),
                    answer(None, function_call=FORECAST),
                    {"role": "function", "name": "forecast", "content": "rain"},
                    answer("b"),
                ]
            }
        ],
        Dialogue((Q, CALLING, Message("tool", "rain", {"name": "forecast"}), A)),
    ),
    "tools as text": (
        [{"messages": [user("a"), answer("b")], "tools": json.dumps([TOOL])}],
        Dialogue((Q, A), tools=(TOOL,)),
    ),
    "tools empty": ([{"messages": [user("a"), answer("b")], "tools": []}], QA),
    "reasoning": (
        [{"messages": [user("a"), answer("b", reasoning_content="why")]}],
        Dialogue((Q, Message("assistant", "b", {"reasoning_content": "why"}))),
    ),
    "content in parts": (
        [{"messages": [user([{"type": "text", "text": "a"}]), answer("b")]}],  # type: ignore[arg-type]
        Dialogue((Message("user", [{"type": "text", "text": "a"}]), A)),
    ),
    "arguments of the template": (
        [{"messages": [user("a"), answer("b")], "chat_template_kwargs": {"enable_thinking": False}}],
        Dialogue((Q, A), arguments={"enable_thinking": False}),
    ),
    "ShareGPT": ([{"conversations": [turn("human", "a"), turn("gpt", "b")]}], QA),
    "ShareGPT with system": (
        [{"conversations": [turn("system", "s"), turn("human", "a"), turn("gpt", "b")]}],
        Dialogue((S, Q, A)),
    ),
    "ShareGPT, system beside it": (
        [{"system": "s", "conversations": [turn("human", "a"), turn("gpt", "b")]}],
        Dialogue((S, Q, A)),
    ),
    "ShareGPT of a model": ([{"conversations": [turn("user", "a"), turn("model", "b")]}], QA),
    "ShareGPT with tools": (
        [
            {
                "conversations": [
                    turn("human", "a"),
                    turn("function_call", json.dumps(FORECAST)),
                    turn("observation", "rain"),
                    turn("gpt", "b"),
                ],
                "tools": json.dumps([TOOL]),
            }
        ],
        Dialogue((Q, CALLING, Message("tool", "rain"), A), tools=(TOOL,)),
    ),
    "ShareGPT, calls in the text": (
        [
            {
                "conversations": [
                    turn("human", "a"),
                    turn("gpt", "<tool_call>x</tool_call>"),
                    turn("tool", "rain"),
                    turn("gpt", "b"),
                ]
            }
        ],
        Dialogue((Q, Message("assistant", "<tool_call>x</tool_call>"), Message("tool", "rain"), A)),
    ),
    "ShareGPT with weights": (
        [
            {
                "conversations": [
                    turn("human", "a", weight=0),
                    turn("gpt", "b", weight=0),
                    turn("human", "a"),
                    turn("gpt", "b", weight=1),
                ]
            }
        ],
        Dialogue((Q, A, Q, A), frozenset({1})),
    ),
    "conversations of role and content": ([{"conversations": [user("a"), answer("b")]}], QA),
    "conversation": ([{"conversation": [turn("Human", "a"), turn("Assistant", "b")]}], QA),
    "prompt and completion": ([{"prompt": "a", "completion": "b"}], Completion("a", "b")),
    "conversational prompt and completion": (
        [{"prompt": [user("a"), answer("b"), user("a")], "completion": [answer("b")]}],
        Dialogue((Q, A, Q, A), n_prompt=3),
    ),
    "prompt and response": ([{"prompt": "a", "response": "b"}], QA),
    "question and answer": ([{"question": "a", "answer": "b"}], QA),
    "question and answer with context": (
        [{"question": "a", "context": "c", "answer": "b"}],
        Dialogue((Message("user", "a\n\nc"), A)),
    ),
    "system_prompt, question, response": (
        [{"system_prompt": "s", "question": "a", "response": "b"}],
        Dialogue((S, Q, A)),
    ),
    "query and response": ([{"query": "a", "response": "b"}], QA),
    "input and output": ([{"input": "a", "output": "b"}], QA),
    "Dolly": ([{"instruction": "a", "context": "", "response": "b", "category": "x"}], QA),
    "Alpaca": ([{"instruction": "a", "input": "", "output": "b"}], QA),
    "Alpaca with system and history": (
        [{"instruction": "a", "input": "", "output": "b", "system": "s", "history": [["a", "b"]]}],
        Dialogue((S, Q, A, Q, A)),
    ),
    "Alpaca, history null": ([{"instruction": "a", "input": None, "output": "b", "system": None, "history": None}], QA),
    "text": ([{"text": "a\r\nb"}], Document("a\nb")),
}

WRONG: dict[str, tuple[list[Any], str]] = {
    "weight of a half": (
        [{"messages": [user("a"), answer("b", weight=0.5)]}],
        "record 1, message 2: 'weight' is 0.5; expected 0 or 1",
    ),
    "weight as text": ([{"messages": [user("a"), answer("b", weight="0")]}], "record 1, message 2: 'weight' is '0'"),
    "weight 1 of a question": (
        [{"messages": [user("a", weight=1), answer("b")]}],
        "record 1, message 1: 'weight' is 1, and the role is user",
    ),
    "all weights 0": ([{"messages": [user("a"), answer("b", weight=0)]}], "record 1: every answer has weight 0"),
    "no assistant": (
        [{"messages": [user("a"), {"role": "bot", "content": "b"}]}],
        "record 1: no message has the role assistant, found user, bot",
    ),
    "two system prompts": (
        [{"system": "t", "messages": [{"role": "system", "content": "s"}, user("a"), answer("b")]}],
        "record 1: 'system' and the first message are two",
    ),
    "null content": ([{"messages": [user("a"), answer(None)]}], "record 1, message 2: a message's content is NoneType"),
    "an image": (
        [{"messages": [user([{"type": "image_url"}]), answer("b")]}],
        "record 1, message 1: a part of a message's content is 'image_url'",
    ),  # type: ignore[arg-type]
    "tool_calls as an object": (
        [{"messages": [user("a"), answer(None, tool_calls=CALL)]}],
        "record 1, message 2: 'tool_calls' is dict; expected a list",
    ),
    "a call without a name": (
        [{"messages": [user("a"), answer(None, tool_calls=[{"function": {}}])]}],
        "record 1, message 2, call 1: has no function with a 'name'",
    ),
    "arguments that are not JSON": (
        [{"messages": [user("a"), answer(None, tool_calls=[{"function": {"name": "f", "arguments": "{"}}])]}],
        "record 1, message 2, call 1: 'arguments': not JSON",
    ),
    "arguments as a list": (
        [{"messages": [user("a"), answer(None, tool_calls=[{"function": {"name": "f", "arguments": [1]}}])]}],
        "record 1, message 2, call 1: 'arguments' is list",
    ),
    "tools as one object": (
        [{"messages": [user("a"), answer("b")], "tools": TOOL}],
        "record 1: 'tools' is dict; expected a list of objects",
    ),
    "tools as broken text": ([{"messages": [user("a"), answer("b")], "tools": "["}], "record 1: 'tools': not JSON"),
    "an unknown speaker": (
        [{"conversations": [turn("humna", "a"), turn("gpt", "b")]}],
        "record 1, message 1: 'from' is 'humna'; did you mean human",
    ),
    "no value": (
        [{"conversations": [{"from": "human", "text": "a"}]}],
        "record 1, message 1: no field 'value', found 'from', 'text'",
    ),
    "only questions": (
        [{"conversations": [turn("human", "a")]}],
        "record 1: no message has the role assistant, found user",
    ),
    "an empty answer": (
        [{"conversations": [turn("human", "a"), turn("gpt", " ")]}],
        "record 1, message 2: 'content' is empty",
    ),
    "a value that is no text": (
        [{"conversations": [turn("human", 7), turn("gpt", "b")]}],
        "record 1, message 1: a message's content is int",
    ),
    "a call that is not JSON": (
        [{"conversations": [turn("human", "a"), turn("function_call", "f()")]}],
        "record 1, message 2: 'value': not JSON",
    ),
    "a list and a text": (
        [{"prompt": [user("a")], "completion": "b"}],
        "record 1: 'completion' is str; expected a list",
    ),
    "a completion that asks": (
        [{"prompt": [user("a")], "completion": [user("b")]}],
        "record 1: no message has the role assistant, found user",
    ),
    "preferences": ([{"prompt": "a", "chosen": "b", "rejected": "c"}], r"record 1: preferences \(chosen, rejected\)"),
    "history as text": ([{"instruction": "a", "output": "b", "history": "q"}], "record 1: 'history' is str"),
    "history without answers": ([{"instruction": "a", "output": "b", "history": [["q"]]}], "record 1: 'history' 1 is "),
    "system as a number": (
        [{"instruction": "a", "output": "b", "system": 7}],
        "record 1: 'system' is int; expected text",
    ),
    "lists in lists": ([{"messages": [[user("a"), answer("b")]]}], "record 1, message 1: list; expected an object"),
    "another kind later": (
        [{"question": "a", "answer": "b"}, {"prompt": "a", "response": "b"}],
        "record 2: no field 'question', found 'prompt', 'response'",
    ),
    "answers as an object": (
        [{"question": "a", "answer": {"text": ["b"]}}],
        "record 1: 'answer' is dict; expected text",
    ),
}
