"""Files of records whose bytes, shapes or order are odd: read right, or one line with file, record and field."""

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from fathom.data.dialogues import Dialogue
from fathom.data.encoding import encode_file
from fathom.data.records import Completion, Document, RecordFile
from fathom.errors import FathomError
from fathom.tokenizer.message import Message
from tests.data.odd_records import CALL, CALLING, CALLS, QA, A, Q, answer, turn, user
from tests.tokenizer.templates import bpe

TALK = {"messages": [user("a"), answer("b")]}
LINE = json.dumps(TALK).encode()
PAIR = b'{"prompt": "a", "completion": "b"}\n'
AB = Completion("a", "b")


def line(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def talk(*messages: Any, **more: Any) -> bytes:
    return line({"messages": [*messages], **more})


RIGHT: dict[str, tuple[bytes, list[Any]]] = {
    "bom.jsonl": (b"\xef\xbb\xbf" + LINE, [QA]),
    "a bom in each line.jsonl": (b"\xef\xbb\xbf" + LINE + b"\n\xef\xbb\xbf" + LINE, [QA, QA]),
    "crlf.jsonl": (LINE + b"\r\n" + LINE + b"\r\n", [QA, QA]),
    "blank lines.jsonl": (b"\n\n  \n" + LINE + b"\n\r\n\t\n" + LINE, [QA, QA]),
    "spaces at the end.jsonl": (LINE + b"   \t\n", [QA]),
    "a list in lines.jsonl": (json.dumps([TALK, TALK], indent=1).encode(), [QA, QA]),
    "lines.json": (LINE + b"\n" + LINE, [QA, QA]),
    "one object.json": (json.dumps(TALK, indent=2).encode(), [QA]),
    "nan beside it.jsonl": (b'{"prompt": "a", "completion": "b", "score": NaN}', [AB]),
    "two members.jsonl.gz": (gzip.compress(PAIR) + gzip.compress(PAIR), [AB, AB]),
    "a bom in a field.jsonl": (line({"prompt": "\ufeffa", "completion": "\ufeffb"}), [AB]),
    "a long line.jsonl": (line({"prompt": "x" * 3_000_000, "completion": "b"}), [Completion("x" * 3_000_000, "b")]),
    "weight true.jsonl": (talk(user("a"), answer("b", weight=True)), [QA]),
    "weight 1.0.jsonl": (talk(user("a"), answer("b", weight=1.0)), [QA]),
    "weight 0.0.jsonl": (
        talk(user("a"), answer("b", weight=0.0), user("a"), answer("b")),
        [Dialogue((Q, A, Q, A), frozenset({1}))],
    ),
    "arguments null.jsonl": (
        talk(user("a"), answer(None, tool_calls=[{"function": {"name": "forecast", "arguments": None}}])),
        [Dialogue((Q, Message("assistant", None, {"tool_calls": [
            {"type": "function", "function": {"name": "forecast", "arguments": None}}]})))],
    ),
    "arguments empty.jsonl": (
        talk(user("a"), answer(None, tool_calls=[{"function": {"name": "forecast", "arguments": ""}}])),
        [Dialogue((Q, Message("assistant", None, {"tool_calls": [
            {"type": "function", "function": {"name": "forecast", "arguments": {}}}]})))],
    ),
    "a call in ShareGPT as a list.jsonl": (
        line({"conversations": [turn("human", "a"), turn("function_call", json.dumps([CALL["function"]]))]}),
        [Dialogue((Q, CALLING))],
    ),
    "a first word of the assistant.jsonl": (talk(answer("b"), user("a"), answer("b")), [Dialogue((A, Q, A))]),
    "two questions.jsonl": (talk(user("a"), user("a"), answer("b")), [Dialogue((Q, Q, A))]),
    "two answers.jsonl": (talk(user("a"), answer("b"), answer("b")), [Dialogue((Q, A, A))]),
    "no answer at the end.jsonl": (talk(user("a"), answer("b"), user("a")), [Dialogue((Q, A, Q))]),
    "a system prompt in the middle.jsonl": (
        talk(user("a"), {"role": "system", "content": "s"}, answer("b")),
        [Dialogue((Q, Message("system", "s"), A))],
    ),
    "an empty question.jsonl": (talk(user(""), answer("b")), [Dialogue((Message("user", ""), A))]),
    "text beside messages.jsonl": (talk(user("a"), answer("b"), text="a b"), [QA]),
    "prompt beside messages.jsonl": (talk(user("a"), answer("b"), prompt="a", prompt_id="7"), [QA]),
    "ShareGPT in capitals.jsonl": (line({"conversations": [turn("Human", "a"), turn("GPT", "b")]}), [QA]),
    "a null prompt.jsonl": (line({"prompt": None, "completion": "b"}), [Completion("", "b")]),
}  # fmt: skip

WRONG: dict[str, tuple[bytes, str]] = {
    "a field twice.jsonl": (
        PAIR + b'{"prompt": "a", "completion": "b", "completion": "c"}',
        "record 2: not JSON (the field 'completion' is there twice)",
    ),
    "content twice.jsonl": (
        b'{"messages": [{"role": "user", "content": "a", "content": "b"}, {"role": "assistant", "content": "c"}]}',
        "record 1: not JSON (the field 'content' is there twice)",
    ),
    "a comma after each.jsonl": (PAIR.rstrip() + b",\n" + PAIR, "record 1: not JSON (Extra data"),
    "a comma within.jsonl": (PAIR + b'{"prompt": "a", "completion": "b",}', "record 2: not JSON"),
    "no quotes.jsonl": (b"prompt,completion\na,b\n", "record 1: not JSON"),
    "a comment.jsonl": (b"// of ours\n" + PAIR, "record 1: not JSON"),
    "objects over lines.jsonl": (
        (json.dumps(TALK, indent=1) + "\n" + json.dumps(TALK, indent=1)).encode(),
        "record 1: not JSON",
    ),
    "single quotes.jsonl": (PAIR + b"{'prompt': 'a'}", "record 2: not JSON"),
    "nan as text.jsonl": (b'{"prompt": "a", "completion": NaN}', "record 1: 'completion' is float; expected text"),
    "half a pair.jsonl": (b'{"prompt": "a", "completion": "\\ud83d"}', "record 1: half a surrogate pair"),
    "latin.jsonl": (PAIR + '{"prompt": "é"}'.encode("latin-1"), "record 2: not UTF-8 at byte 12"),
    "utf16.jsonl": (LINE.decode().encode("utf-16"), ": not UTF-8 at byte 0; it looks like UTF-16: convert it"),
    "utf16.json": (json.dumps([TALK]).encode("utf-16"), ": not UTF-8 at byte 0; it looks like UTF-16: convert it"),
    "one null.json": (json.dumps([TALK, None, TALK]).encode(), "record 2: null; expected an object"),
    "one null in data.json": (json.dumps({"data": [TALK, None]}).encode(), "record 2: null; expected an object"),
    "a null line.jsonl": (LINE + b"\nnull\n", "record 2: null; expected an object"),
    "a deep line.jsonl": (b'{"messages": ' + b"[" * 9000 + b"]" * 9000 + b"}", "record 1: not JSON"),
    "a cut member.jsonl.gz": (gzip.compress(PAIR) + gzip.compress(PAIR)[:-3], ": its compressed data are damaged"),
    "of another kind.jsonl.zst": (gzip.compress(PAIR), ": its compressed data are damaged"),
    "weight as a list.jsonl": (talk(user("a"), answer("b", weight=[1])), "record 1, message 2: 'weight' is [1]"),
    "weight 2.jsonl": (talk(user("a"), answer("b", weight=2)), "record 1, message 2: 'weight' is 2; expected 0 or 1"),
    "an empty answer first.jsonl": (
        talk(user("a"), answer(""), user("a"), answer("b")),
        "record 1, message 2: 'content' is empty",
    ),
    "no messages.jsonl": (line({"messages": []}), "record 1: 'messages' is list; expected a list of at least one"),
    "messages as text.jsonl": (line({"messages": json.dumps(TALK["messages"])}), "record 1: 'messages' is str"),
    "a null role.jsonl": (talk({"role": None, "content": "a"}, answer("b")), "record 1, message 1: a message's role"),
    "roles in capitals.jsonl": (
        talk({"role": "User", "content": "a"}, {"role": "Assistant", "content": "b"}),
        "record 1: no message has the role assistant, found User, Assistant",
    ),
    "another shape later.jsonl": (
        LINE + b"\n" + PAIR,
        "record 2: no field 'messages', found 'prompt', 'completion'; the first record is one of conversations",
    ),
    "tokens.jsonl": (line({"input_ids": [1, 2], "labels": [1, 2]}), "record 1: the fields are 'input_ids', 'labels'"),
    "splits.json": (json.dumps({"train": [TALK]}).encode(), "record 1: the fields are 'train'"),
    "a number.jsonl": (line({"question": "2 + 2", "answer": 4}), "record 1: 'answer' is int; expected text"),
    "an unknown part.jsonl": (
        talk(user([{"type": "input_audio", "data": "x"}]), answer("b")),  # type: ignore[arg-type]
        "record 1, message 1: a part of a message's content is 'input_audio'",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_odd_files_are_read_right(tmp_path: Path, name: str) -> None:
    data, expected = RIGHT[name]
    (tmp_path / name).write_bytes(data)
    assert list(RecordFile(tmp_path / name)) == expected


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str) -> None:
    if name.endswith(".zst") and importlib.util.find_spec("zstandard") is None:
        pytest.skip("needs the extra `data`")
    data, words = WRONG[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FathomError) as caught:
        list(RecordFile(tmp_path / name))
    place = f"{tmp_path / name}{'' if words.startswith(':') else ', '}"
    assert str(caught.value).startswith(f"{place}{words}") and "\n" not in str(caught.value)


TABLES: dict[str, tuple[dict[str, list[Any]], list[Any] | str]] = {
    "lists in lists": ({"instruction": ["a"], "output": ["b"], "history": [[["a", "b"]]]}, [Dialogue((Q, A, Q, A))]),
    "an object of lists beside it": ({"text": ["a b"], "meta": [{"scores": [[1, 2], [3]]}]}, [Document("a b")]),
    "calls in some rows": (
        {"messages": [[user("a"), answer(None, tool_calls=[CALL])], [user("a"), answer("b", tool_calls=None)]]},
        [Dialogue((Q, Message("assistant", None, {"tool_calls": [CALL]}))), QA],
    ),
    "a row without an answer": (
        {"prompt": ["a", "a"], "completion": ["b", None]},
        "record 2: no field 'completion', found 'prompt'; the first record",
    ),
    "lists of texts": ({"messages": [["a", "b"]]}, "record 1, message 1: str; expected an object with 'role'"),
    "bytes": ({"text": [b"a b"]}, "record 1: 'text' is bytes; expected text"),
}


@pytest.mark.parametrize("name", TABLES)
def test_odd_tables(tmp_path: Path, name: str) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the extra `data`")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `data`")
    columns, expected = TABLES[name]
    parquet.write_table(arrow.table(columns), tmp_path / "it.parquet", row_group_size=1)
    if isinstance(expected, list):
        assert list(RecordFile(tmp_path / "it.parquet")) == expected
        return
    with pytest.raises(FathomError) as caught:
        list(RecordFile(tmp_path / "it.parquet"))
    assert str(caught.value).startswith(f"{tmp_path / 'it.parquet'}, {expected}")


def test_a_field_is_counted_once_for_a_record(tmp_path: Path) -> None:
    both = {"id": 7, "messages": [user("a", id=1), answer("b", id=2)]}
    (tmp_path / "it.jsonl").write_bytes(line(both, {"messages": [user("a", id=1), answer("b")]}, TALK))
    (note,) = encode_file([tmp_path / "it.jsonl"], bpe(CALLS), 99, train_all=False).notes
    assert note == "fields that are not used: 'id' (2 of 3 records)"


def test_a_damaged_first_line_is_a_record_that_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "it.jsonl").write_bytes(b"// of ours\n" + PAIR * 30)
    found = encode_file([tmp_path / "it.jsonl"], bpe(CALLS), 99, train_all=False, on_bad="skip")
    assert len(found.examples) == 30 and found.n_skipped == 1
