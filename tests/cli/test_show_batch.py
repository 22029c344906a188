"""The tokens shown are the tokens that are learned, and what is shown cannot harm a terminal."""

import json
from pathlib import Path

import pytest

from fathom.cli.main import main
from fathom.cli.show_batch import legend, shown_roles, spelled, styled, visible
from fathom.data.examples import Example, to_example
from fathom.data.records import RecordFile
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.load import load, save
from fathom.tokenizer.template import LLAMA3
from tests.tokenizer.templates import bpe

Streams = pytest.CaptureFixture[str]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    save(bpe(LLAMA3), tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


def records(folder: Path) -> Path:
    path = folder / "it.jsonl"
    asked = [{"instruction": f"Hello {n}", "output": "world\n🙂"} for n in range(5)]
    path.write_text("\n".join(map(json.dumps, asked)))
    return path


def test_examples_are_those_that_are_learned(tokenizer: Path, tmp_path: Path, capfd: Streams) -> None:
    data = records(tmp_path)
    assert main(["show-batch", str(tokenizer), "--data", str(data), "--count", "2", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    expected = [to_example(record, bpe(LLAMA3)) for record in RecordFile(data)][:2]
    assert [(e["ids"], e["roles"], e["trained"]) for e in found["examples"]] == [
        (list(e.ids), list(e.roles), list(e.trained)) for e in expected
    ]
    assert "instructions with an answer" in found["data"] and "LLaMA 3's" in found["data"]
    assert "<|eot_id|>" in found["examples"][0]["tokens"]


def test_shown_without_colours(tokenizer: Path, tmp_path: Path, capfd: Streams) -> None:
    assert main(["show-batch", str(tokenizer), "--data", str(records(tmp_path)), "--count", "1"]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out and out.count("\nrecord ") == 1
    assert "«wor|ld|⏎\n|" in out and "<|eot_id|>»" in out and "learned" in out


def test_ids_and_cuts(tokenizer: Path, tmp_path: Path, capfd: Streams) -> None:
    call = ["show-batch", str(tokenizer), "--data", str(records(tmp_path)), "--ids", "--context-length", "3"]
    assert main(call) == 0
    out = capfd.readouterr().out
    hf = bpe(LLAMA3).special.names
    assert f"<|start_header_id|>:{hf['<|start_header_id|>']}|" in out
    assert "3 tokens, 0 of them learned; cut from " in out and out.count("\nrecord ") == 3


def test_text_is_shown_as_train_reads_it(tokenizer: Path, tmp_path: Path, capfd: Streams) -> None:
    (tmp_path / "it.txt").write_text("Hello world\n" * 20)
    call = ["show-batch", str(tokenizer), "--data", str(tmp_path / "it.txt"), "--context-length", "7", "--json"]
    assert main(call) == 0
    examples = json.loads(capfd.readouterr().out)["examples"]
    assert [len(e["ids"]) for e in examples] == [7, 7, 7] and all(all(e["trained"]) for e in examples)
    assert [id for e in examples for id in e["ids"]] == bpe(LLAMA3).encode("Hello world\n" * 20)[:21]


def test_each_token_is_spelled_even_where_it_is_half_a_character(shared_data: Path) -> None:
    assert spelled([0xE2, 0x82, 0xAC, 65], ByteTokenizer()) == ["\\xe2", "\\x82", "\\xac", "A"]
    llama = load(shared_data / "llama2_tokenizer.model")
    assert spelled([1, *llama.encode("Hello world")], llama) == ["<s>", "Hello", " world"]


def test_nothing_that_moves_a_terminal_is_shown() -> None:
    assert visible("a\x1b[31m\r\u202eb\tc\nd") == "a\\x1b[31m\\r\\u202eb\\tc⏎\nd"
    example = Example((1, 2), ("user", "assistant"), (False, True))
    shown = styled(example, example.roles, ["\x1b[2J", "x"], False, colours=True)
    assert shown.plain == "\\x1b[2J|x"
    assert [str(span.style) for span in shown.spans] == ["cyan", "bright_black", "green underline"]
    assert "underlined" in legend(True).plain and "«" in legend(False).plain


@pytest.mark.parametrize(
    "content, line",
    [
        ('{"a": 1}', "it.jsonl, record 1: the fields are 'a'"),
        ("", "holds no records"),
        ('{"text": ""}', "'text' is empty"),
    ],
)
def test_mistakes_are_one_line(tokenizer: Path, tmp_path: Path, capfd: Streams, content: str, line: str) -> None:
    (tmp_path / "it.jsonl").write_text(content)
    assert main(["show-batch", str(tokenizer), "--data", str(tmp_path / "it.jsonl")]) == 2
    assert line in capfd.readouterr().err and main(["show-batch", str(tokenizer), "--data", "nothing.txt"]) == 2
    assert main(["show-batch", "nothing", "--data", str(tmp_path / "it.jsonl")]) == 2


def test_reasoning_and_calls_that_a_text_marks_are_seen() -> None:
    texts = ["<tool_call>", "<", "think>", "a", "</think>", "b", "<tool_call>c", "</tool_call>", "d", "<think>"]
    roles = ["system", *["assistant"] * 4, "frame", *["assistant"] * 3, "user"]
    assert shown_roles(roles, texts) == [
        "system",
        *["reasoning"] * 4,
        "frame",
        *["tool call"] * 2,
        "assistant",
        "user",
    ]
    assert shown_roles(["system", "frame"], ["", "<tool_call></tool_call>"]) == ["system", "frame"]


def test_tools_weights_and_fields_that_are_not_used_are_shown(tmp_path: Path, capfd: Streams) -> None:
    template = (
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.reasoning_content %}{{ m.reasoning_content }}{% endif %}{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    save(bpe(template), tmp_path / "tokenizer.json")
    call = {"type": "function", "function": {"name": "forecast", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "assistant", "content": None, "reasoning_content": "how", "tool_calls": [call]},
        {"role": "tool", "content": "world", "tool_call_id": "1"},
        {"role": "assistant", "content": "x"},
    ]
    record = {"messages": messages, "tools": [{"name": "forecast"}], "id": 7}
    (tmp_path / "it.jsonl").write_text("7\n" + json.dumps(record))
    shown = ["show-batch", str(tmp_path / "tokenizer.json"), "--data", str(tmp_path / "it.jsonl")]
    assert main([*shown, "--on-bad-record", "skip", "--json"]) == 0
    streams = capfd.readouterr()
    found = json.loads(streams.out)
    (example,) = found["examples"]
    parts: dict[str, str] = {}
    for role, token, trained in zip(example["roles"], example["tokens"], example["trained"]):
        parts[role] = parts.get(role, "") + token
        assert not trained or role in ("assistant", "reasoning", "tool call", "frame")
    assert parts["tools"] == '{"name": "forecast"}' and parts["reasoning"] == "how" and parts["tool"] == "world"
    assert json.loads(parts["tool call"])["function"] == {"name": "forecast", "arguments": {}}
    learned = "".join(token for token, trained in zip(example["tokens"], example["trained"]) if trained)
    assert "wrong" not in learned and "forecast" in learned and learned.endswith("x<|im_end|>")
    assert "record 2: " in streams.err and "record 1: int; expected an object" in found["notes"][0]
    assert found["notes"][1] == "fields that are not used: 'id' (1 of 2 records), 'tool_call_id' (1 of 2 records)"
