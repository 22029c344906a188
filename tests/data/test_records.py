"""Records are recognised, said in words and checked one by one: file, line and field are named."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from fathom.data.dialogues import Dialogue
from fathom.data.records import Completion, Document, RecordFile
from fathom.errors import FathomError
from fathom.tokenizer.message import Message
from tests.mutants import survive

ASKED = Dialogue((Message("user", "Add.\n\n1 + 1"), Message("assistant", "2")))
CASES: list[tuple[dict[str, Any], str, object]] = [
    ({"text": "a\r\nb"}, "plain texts", Document("a\nb")),
    ({"prompt": "a", "completion": "b"}, "prompts with a completion", Completion("a", "b")),
    ({"prompt": "", "completion": "b"}, "prompts with a completion", Completion("", "b")),
    ({"instruction": "Add.", "input": "1 + 1", "output": "2"}, "instructions", ASKED),
    ({"instruction": "Add.\n\n1 + 1", "output": "2", "other": 7}, "instructions", ASKED),
    ({"instruction": "Add.\n\n1 + 1", "input": None, "output": "2"}, "instructions", ASKED),
    ({"messages": [message.to_json() for message in ASKED.messages], "text": "x"}, "conversations", ASKED),
]


def written(path: Path, records: list[Any]) -> Path:
    """As JSON lines, or as a list where the file's name ends so."""
    lines = "\n".join(map(json.dumps, records))
    path.write_text(json.dumps(records, indent=1) if path.suffix == ".json" else lines)
    return path


@pytest.mark.parametrize("name", ["it.jsonl", "it.json"])
@pytest.mark.parametrize("record, about, expected", CASES, ids=[str(list(case[0]))[:40] for case in CASES])
def test_records_are_recognised(tmp_path: Path, name: str, record: Any, about: str, expected: object) -> None:
    found = RecordFile(written(tmp_path / name, [record, record]))
    assert list(found) == list(found) == [expected, expected] and about in found.kind.description


def test_the_shape_of_a_file_is_seen_in_it_and_not_in_its_name(tmp_path: Path) -> None:
    expected = [Document("a"), Document("b")]
    for text in (
        '{"text": "a"}\n{"text": "b"}',
        '\ufeff\n\n{"text": "a"}\r\n\r\n{"text": "b"}\n',
        '[{"text": "a"}, {"text": "b"}]',
        '\ufeff \n[\n{"text": "a"},\n{"text": "b"}]',
    ):
        for name in ("it.json", "it.jsonl"):
            (tmp_path / name).write_text(text)
            assert list(RecordFile(tmp_path / name)) == expected
    (tmp_path / "it.json").write_text('{\n "text": "a"\n}')
    assert list(RecordFile(tmp_path / "it.json")) == expected[:1]


def test_real_instructions(shared_data: Path) -> None:
    found = RecordFile(shared_data / "instructions.json")
    records = list(found)
    assert len(records) == 1_100 and "instruction, perhaps input, output" in found.kind.description
    assert records[1] == Dialogue(
        (
            Message("user", "Edit the following sentence for grammar.\n\nHe go to the park every day."),
            Message("assistant", "He goes to the park every day."),
        )
    )


OK = {"instruction": "a", "output": "b"}
BAD: list[tuple[list[Any], str]] = [
    (
        [OK, {"instruction": "a", "ouput": "b"}],
        "record 2: no field 'output', found 'instruction', 'ouput'; did you mean ouput",
    ),
    ([OK, {"text": "a"}], "record 2: no field 'instruction', found 'text'; the first record is one of instructions"),
    ([OK, 7], "record 2: int; expected an object"),
    ([OK, {"instruction": "a", "output": " "}], "record 2: 'output' is empty"),
    ([OK, {"instruction": "a", "output": 7}], "record 2: 'output' is int; expected text"),
    ([OK, {"instruction": "a", "output": None}], "record 2: 'output' is NoneType; expected text"),
    ([OK, {"instruction": "a", "output": "\ud800"}], "record 2: half a surrogate pair .* in 'output'"),
    ([OK, {"instruction": "a", "input": 7, "output": "a"}], "record 2: 'input' is int; expected text"),
    ([{"prompt": "a", "completion": ""}], "record 1: 'completion' is empty"),
    ([{"text": ""}], "record 1: 'text' is empty"),
    ([{"a": 1, "b": 2}], r"record 1: the fields are 'a', 'b'; expected one of messages, conversations, "),
    ([{}], "record 1: the fields are none at all"),
    ([{"messages": []}], "record 1: 'messages' is list; expected a list of at least one"),
    ([{"messages": "a"}], "record 1: 'messages' is str"),
    ([{"messages": [{"role": "user", "content": "a"}]}], "record 1: no message has the role assistant"),
    ([{"messages": [{"role": "user"}]}], "record 1, message 1: no field 'content'"),
    ([{"messages": [{"role": "assistant", "content": " "}]}], "record 1, message 1: 'content' is empty"),
    ([{"messages": [{"role": "as sistant", "content": "a"}]}], "record 1, message 1: a message's role is"),
]


@pytest.mark.parametrize("records, line", BAD, ids=[line[:40] for _, line in BAD])
def test_what_is_wrong_with_a_record_names_file_line_and_field(tmp_path: Path, records: list[Any], line: str) -> None:
    for name in ("it.jsonl", "it.json"):
        with pytest.raises(FathomError, match=f"{re.escape(name)}, {line}"):
            list(RecordFile(written(tmp_path / name, records)))


@pytest.mark.parametrize(
    "data, line",
    [
        (b"", "it.jsonl: holds no records"),
        (b"[]", "it.jsonl: holds no records"),
        (b" \n\n", "it.jsonl: holds no records"),
        (b'{"text": "a"}\n{"text": ', "it.jsonl, record 2: not JSON"),
        (b'{"text": "a"}\n{"text": "\xff"}', "it.jsonl, record 2: not UTF-8 at byte 10"),
        (b'[{"text": "a"}, ', "it.jsonl: not JSON"),
        (b"[" * 100_000, "it.jsonl: not JSON"),
        (b"hello", "it.jsonl, record 1: not JSON"),
    ],
)
def test_what_is_no_file_of_records_is_one_line(tmp_path: Path, data: bytes, line: str) -> None:
    (tmp_path / "it.jsonl").write_bytes(data)
    with pytest.raises(FathomError, match=re.escape(line)):
        list(RecordFile(tmp_path / "it.jsonl"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FathomError, match=r"nothing.jsonl: cannot be read"):
        RecordFile(tmp_path / "nothing.jsonl")


def test_json_lines_are_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "it.jsonl"
    path.write_text(json.dumps({"text": "x" * 10_000} | {"more": "y" * 10_000}) + "\n")
    path.write_bytes(path.read_bytes() * 500)  # 10 MB
    tracemalloc.start()
    assert sum(1 for _ in RecordFile(path)) == 500
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["it.jsonl", "it.json"])
def test_damaged_files_end_in_records_or_one_line(tmp_path: Path, name: str) -> None:
    survive(lambda path: list(RecordFile(path)), written(tmp_path / name, [case[0] for case in CASES[3:6]] * 3), 500)
