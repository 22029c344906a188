"""Calls of tools are told apart from text, however an answer is cut into pieces; a forced call is always one."""

import json
import random
from itertools import pairwise
from typing import Any

import pytest

from fathom.generation.constraint import Vocabulary, of_rules
from fathom.serve.calls import HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, Convention, Listener, convention_of, forced
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.protocol import Special
from fathom.tokenizer.template import CHATML, LLAMA2

Heard = tuple[str, list[list[str]]]


def heard(convention: Convention | None, pieces: list[str]) -> Heard:
    """(what is said, [name, arguments] of each call)."""
    listener = Listener(convention)
    deltas = [delta for piece in pieces for delta in listener.feed(piece)] + listener.end()
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["type"] == "function" and len(call["id"]) == 9
                calls[call["index"]] = [call["function"]["name"], ""]
            calls[call["index"]][1] += call["function"]["arguments"]
    assert list(calls) == list(range(len(calls)))
    return "".join(delta.get("content", "") for delta in deltas), list(calls.values())


CASES: list[tuple[Convention | None, str, Heard]] = [
    (
        HERMES,
        'Let me see.\n<tool_call>\n{"name": "f", "arguments": {"a": "}\\"", "b": [1, {"c": 2}]}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
        ("Let me see.\n", [["f", '{"a": "}\\"", "b": [1, {"c": 2}]}'], ["g", "{}"]]),
    ),
    (HERMES, "a <tool_cal b", ("a <tool_cal b", [])),
    (HERMES, 'x<tool_call>{"arguments": {"q":1}, "name": "z"}</tool_call>', ("x", [["z", '{"q": 1}']])),
    (HERMES, 'x<tool_call>\n{"nome": 1}\n</tool_call> y', ('x<tool_call>\n{"nome": 1}\n</tool_call> y', [])),
    (HERMES, 'x<tool_call>\n{"name": "f", "argum', ('x<tool_call>\n{"name": "f", "argum', [])),
    (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": 1', ("", [["f", '{"a": 1']])),
    (
        MISTRAL,
        '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {"y": "]"}}]',
        ("", [["f", '{"x": 1}'], ["g", '{"y": "]"}']]),
    ),
    (
        MISTRAL_NAMED,
        '[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[ARGS]{"y": 2}',
        ("", [["f", '{"x": 1}'], ["g", '{"y": 2}']]),
    ),
    (LLAMA3, '{"name": "f", "parameters": {"x": "1"}}', ("", [["f", '{"x": "1"}']])),
    (
        LLAMA3,
        '<|python_tag|>{"name": "f", "parameters": {"x": "1"}}; {"name": "g", "parameters": {}}',
        ("", [["f", '{"x": "1"}'], ["g", "{}"]]),
    ),
    (LLAMA3, '  {"a": 1} is JSON', ('  {"a": 1} is JSON', [])),
    (LLAMA3, 'Hello {"name": "f"}', ('Hello {"name": "f"}', [])),
    (None, '<tool_call>\n{"name": "f"}', ('<tool_call>\n{"name": "f"}', [])),
]


@pytest.mark.parametrize("convention, text, expected", CASES)
def test_calls_are_heard_however_the_answer_is_cut(convention: Convention | None, text: str, expected: Heard) -> None:
    assert heard(convention, [text]) == expected
    assert heard(convention, list(text)) == expected
    for seed in range(60):
        choose = random.Random(seed)
        cuts = [0, *sorted(choose.sample(range(1, len(text)), choose.randint(0, len(text) - 1))), len(text)]
        assert heard(convention, [text[a:b] for a, b in pairwise(cuts)]) == expected


def test_arguments_come_as_they_are_written() -> None:
    listener, parts = Listener(HERMES), list[str]()
    for letter in '<tool_call>\n{"name": "f", "arguments": {"a": "long"}}':
        for delta in listener.feed(letter):
            parts += [call["function"]["arguments"] for call in delta.get("tool_calls", ())]
    assert parts == ["", *'{"a": "long"}']


FUNCTIONS: list[dict[str, Any]] = [
    {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["place", "days"],
            "additionalProperties": False,
            "$defs": {"place": {"type": "string", "minLength": 1, "maxLength": 6}},
        },
    },
    {"name": "now"},
]


@pytest.mark.parametrize(
    "convention", [HERMES, MISTRAL, MISTRAL_NAMED, LLAMA3], ids=["hermes", "mistral", "named", "llama3"]
)
@pytest.mark.parametrize("several", [False, True])
def test_what_must_be_a_call_is_one(convention: Convention, several: bool) -> None:
    tokenizer = ByteTokenizer()
    tokenizer.special = Special(eos=0xFD, names={"<|im_end|>": 0xFD, "[TOOL_CALLS]": 0xFE})
    rules = forced(convention, FUNCTIONS, tokenizer.special.names, several)
    grammar, choose, names = of_rules(Vocabulary(tokenizer, 256), rules), random.Random(3), set[str]()
    for _ in range(25):
        masks, pieces = grammar.start(), list[str]()
        while True:
            allowed = masks.mask().nonzero()[:, 0].tolist()
            token = 0xFD if 0xFD in allowed else choose.choice(allowed)
            if token == 0xFD:
                break
            masks.accept(token)
            pieces.append("[TOOL_CALLS]" if token == 0xFE else tokenizer.decode_bytes([token]).decode("latin-1"))
        said, calls = heard(convention, pieces)
        assert not said.strip() and (len(calls) == 1 or several)
        for name, given in calls:
            values = json.loads(given.encode("latin-1"))
            assert set(values) == ({"place", "days"} if name == "weather" else set())
            names.add(name)
    assert names == {"weather", "now"}


@pytest.mark.parametrize(
    "template, names, expected",
    [
        (CHATML, (), HERMES),
        (LLAMA2, (), None),
        ("{% if tools %}[TOOL_CALLS]{% endif %}", (), MISTRAL),
        ("{% if tools %}[TOOL_CALLS][ARGS]{% endif %}", (), MISTRAL_NAMED),
        ('{{ tools }} {"name": x, "parameters": y} <|start_header_id|>', (), LLAMA3),
        ("{{ tools }} <tool_call> <function=", (), None),
        ("{{ messages[0].content }}", (), None),
    ],
)
def test_the_convention_is_that_of_the_template(template: str, names: Any, expected: Convention | None) -> None:
    tokenizer = ByteTokenizer()
    tokenizer.special = Special(template=template)
    assert convention_of(tokenizer) == expected
