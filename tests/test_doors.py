"""A text comes in through many doors, and each makes the same of it: no byte order mark, newlines as line ends.

What a model is asked must be what it was taught: training drops both. Where ids are compared with another library's
the text stays as it is.
"""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fathom
from fathom.cli.main import main
from fathom.data.corpus import resolve
from fathom.data.examples import to_example
from fathom.data.records import RecordFile
from fathom.generation.chat import Conversation
from fathom.tokenizer import turns
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.message import Message
from fathom.tokenizer.protocol import TokenArray
from fathom.tokenizer.template import render
from tests.cli.models import model_folder
from tests.training.tuning import FAST, base, records

MESSY, PLAIN = "\ufeffan\r\nold\rtext", "an\nold\ntext"
SHORT = {"temperature": 0, "max_new_tokens": 2}
WORDS = ["-t", "0", "-n", "2", "--device", "cpu"]
Door = Callable[[Path, str], object]


def stdin(text: str) -> None:
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()))


def call(verb: str, model: Path, *words: str, typed: str = "") -> None:
    stdin(typed)
    assert main([verb, str(model), *words, *WORDS]) == 0


def file(model: Path, text: str, name: str = "text.txt") -> Path:
    (path := model.parent / name).write_bytes(text.encode())
    return path


def learned(model: Path, record: dict[str, Any]) -> None:
    path = file(model, json.dumps(record), "it.jsonl")
    for one in RecordFile(path):
        to_example(one, ByteTokenizer())


def conversation(model: Path, system: str | None = None) -> Conversation:
    return fathom.chat(*fathom.load(model, device="cpu"), system, **SHORT)


def loaded(model: Path, text: str) -> None:
    talk, message = conversation(model), {"role": "user", "content": text}
    talk.load(file(model, "\ufeff" + json.dumps({"messages": [message]}), "talk.json"))
    talk.ask("Hello")


def tuned(model: Path, text: str, **options: Any) -> None:
    data = records(model.parent / "records.jsonl")
    fathom.finetune(base(model.parent / "base"), data, model.parent / "run", train=FAST | {"max_iters": 1}, **options)


def turn(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


ANSWER = {"role": "assistant", "content": "b"}
DOORS: dict[str, Door] = {
    "a text to learn": lambda model, text: ByteTokenizer().encode("".join(resolve(str(file(model, text))).chunks())),
    "JSON lines of texts": lambda model, text: ByteTokenizer().encode(
        "".join(resolve(str(file(model, json.dumps({"text": text}), "it.jsonl"))).chunks())
    ),
    "a record's message": lambda model, text: learned(model, {"messages": [turn(text), ANSWER]}),
    "a record's answer": lambda model, text: learned(model, {"messages": [turn("a"), {**ANSWER, "content": text}]}),
    "a record's parts": lambda model, text: learned(
        model, {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}, ANSWER]}
    ),
    "ShareGPT": lambda model, text: learned(
        model, {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "b"}]}
    ),
    "a record's system prompt": lambda model, text: learned(model, {"system": text, "messages": [turn("a"), ANSWER]}),
    "a record's history": lambda model, text: learned(
        model, {"instruction": "a", "output": "b", "history": [["a", text]]}
    ),
    "prompt and completion": lambda model, text: learned(model, {"prompt": text, "completion": "b"}),
    "question and answer": lambda model, text: learned(model, {"question": "a", "answer": text}),
    "generate -p": lambda model, text: call("generate", model, "-p", text),
    "generate --chat": lambda model, text: call("generate", model, "--chat", "-p", text),
    "generate -p FILE:": lambda model, text: call("generate", model, "-p", f"FILE:{file(model, text)}"),
    "generate -p -": lambda model, text: call("generate", model, "-p", "-", typed=text),
    "chat": lambda model, text: call("chat", model, typed=f"first\n{text.splitlines()[0]}\r\nan\nold\ntext"),
    "chat --system": lambda model, text: call("chat", model, "--system", text, typed="Hello"),
    "/system": lambda model, text: call("chat", model, typed=f"/system \ufeffan old\r\n{text}"),
    "tokenize TEXT": lambda model, text: main(["tokenize", text, str(model)]),
    "tokenize -": lambda model, text: (stdin(text), main(["tokenize", "-", str(model)])),
    "fathom.generate": lambda model, text: fathom.generate(model, text, **SHORT),
    "fathom.stream": lambda model, text: list(fathom.stream(*fathom.load(model), [text], **SHORT)),
    "Conversation.ask": lambda model, text: conversation(model).ask(text),
    "Conversation(system)": lambda model, text: conversation(model, text).ask("Hello"),
    "Conversation.load": loaded,
    "finetune --ask": lambda model, text: tuned(model, text, ask=text),
    "finetune --sample-prompt": lambda model, text: tuned(model, text, sample_prompt=text),
    "eval": lambda model, text: fathom.evaluate(model, str(file(model, text)), device="cpu"),
}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is encoded."""
    texts, encode = list[str](), ByteTokenizer.encode_array

    def watched(self: ByteTokenizer, text: str) -> TokenArray:
        texts.append(text)
        return encode(self, text)

    monkeypatch.setattr(ByteTokenizer, "encode_array", watched)
    monkeypatch.setattr(sys, "stdin", sys.stdin)
    return texts


@pytest.mark.parametrize("door", DOORS)
def test_every_door_makes_the_same_of_a_text(tmp_path: Path, seen: list[str], door: str) -> None:
    DOORS[door](model_folder(tmp_path / "model", ByteTokenizer()), MESSY)
    texts = "|".join(seen)
    assert "\r" not in texts and "\ufeff" not in texts
    assert PLAIN in texts or (door in ("chat", "/system") and "an" in texts and "text" in texts)


def test_a_prompt_is_shown_as_it_was_read(tmp_path: Path) -> None:
    (written,) = fathom.generate(model_folder(tmp_path / "model", ByteTokenizer()), MESSY, **SHORT)
    assert written.prompt == PLAIN


def test_a_template_in_a_file_begins_without_a_mark(tmp_path: Path) -> None:
    (path := tmp_path / "it.jinja").write_bytes(b"\xef\xbb\xbf{% for m in messages %}\r\n{{ m.content }}{% endfor %}")
    assert turns.find_template(str(path)).startswith("{% for m in messages %}\n")


def test_what_is_compared_with_other_libraries_stays_as_it_is(tmp_path: Path) -> None:
    tokenizer = ByteTokenizer()
    exact = [*MESSY.encode()]
    assert tokenizer.encode(MESSY) == exact == np.asarray(tokenizer.encode_array(MESSY)).tolist()
    tokenizer.special = replace(tokenizer.special, template="{{ messages[0].content }}")
    assert render(tokenizer, [Message("user", MESSY)], reply=False).ids == exact
    (written,) = fathom.generate(model_folder(tmp_path / "model", ByteTokenizer()), [exact], **SHORT)
    assert written.prompt == MESSY  # ids are used as they are
