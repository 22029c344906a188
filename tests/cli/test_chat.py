"""A conversation through a pipe and at a terminal: answers on stdout, all else on stderr, Ctrl-C ends an answer."""

import builtins
import io
import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from fathom.cli.chat import Reasoning, reply
from fathom.cli.main import main
from fathom.generation.chat import Conversation
from fathom.generation.options import GenerateOptions
from fathom.generation.text import Piece
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.message import Message
from fathom.tokenizer.template import LLAMA3, Extras
from tests.cli.models import model_folder
from tests.generation.models import random_model
from tests.tokenizer.templates import PUBLISHED, bpe

GREEDY = ["-t", "0", "-n", "12", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("chat") / "model", bpe(PUBLISHED["chatml"]))


def answers(*questions: str, template: str = PUBLISHED["chatml"], system: str | None = None) -> list[str]:
    """What the same model answers when it is asked from Python."""
    tokenizer = bpe(template)
    network = random_model("llama", tokenizer.vocab_size, 400)
    said = Conversation(network, tokenizer, GenerateOptions(temperature=0, max_new_tokens=12), system)
    return ["".join(piece.text for piece in said.say(question)).lstrip() for question in questions]


def piped(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


Streams = pytest.CaptureFixture[str]


def test_a_pipe_of_questions_gives_their_answers_alone(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams
) -> None:
    piped(monkeypatch, "Hello\n\n  \r\nworld 日本\n")
    assert main(["chat", str(model), *GREEDY]) == 0
    out, err = capfd.readouterr()
    assert out == "".join(f"{answer}\n" for answer in answers("Hello", "world 日本"))
    assert "chat template: the model's own" in err and "> " not in err and "tokens/s" not in err


def test_commands(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams) -> None:
    file = tmp_path / "talk.json"
    lines = [
        "/system Be.",
        "Hello",
        f"/save {file}",
        "/help",
        "/reset",
        "Hello",
        f"/load {file}",
        "//so?",
        "/quit",
        "no",
    ]
    piped(monkeypatch, "\n".join(lines))
    assert main(["chat", str(model), *GREEDY]) == 0
    out, err = capfd.readouterr()
    first, second = answers("Hello", "/so?", system="Be.")
    assert out == f"{first}\n{first}\n{second}\n"
    assert "/reset" in err and f"saved 3 messages: {file}" in err and "loaded 3 messages" in err


def test_json_is_the_conversation_on_one_line(model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams) -> None:
    piped(monkeypatch, "Hello")
    assert main(["chat", str(model), "--system", "Be.", "--json", *GREEDY]) == 0
    out, err = capfd.readouterr()
    (answer,) = answers("Hello", system="Be.")
    assert out.count("\n") == 1 and [(m["role"], m["content"]) for m in json.loads(out)["messages"]] == [
        ("system", "Be."),
        ("user", "Hello"),
        ("assistant", answer.strip()),
    ]
    assert answer in err


def test_verbose_tells_speed_and_a_cut_is_told(model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams) -> None:
    piped(monkeypatch, "Hello")
    assert main(["chat", str(model), *GREEDY, "-v"]) == 0
    err = capfd.readouterr().err
    assert "temperature 0 -> draw; prompt" in err and "tokens/s" in err and "stopped at the" in err


def test_what_is_dropped_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams) -> None:
    folder = model_folder(tmp_path / "small", bpe(PUBLISHED["chatml"]), context_length=80)
    piped(monkeypatch, "Hello world, how are you?\n" * 4)
    assert main(["chat", str(folder), *GREEDY]) == 0
    err = capfd.readouterr().err
    assert "the context of 80 tokens is full: the oldest 2 messages were dropped" in err


@pytest.mark.parametrize("tokenizer, words", [(bpe(None), "LLaMA 3's"), (ByteTokenizer(), "a plain transcript")])
def test_a_model_without_a_template_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams, tokenizer: ByteTokenizer, words: str
) -> None:
    folder = model_folder(tmp_path / "model", tokenizer)
    piped(monkeypatch, "Hello")
    assert main(["chat", str(folder), *GREEDY]) == 0
    out, err = capfd.readouterr()
    assert f"chat template: {words}" in err and "the model has none of its own" in err
    assert out == f"{answers('Hello', template=LLAMA3)[0]}\n" or words != "LLaMA 3's"


@pytest.mark.parametrize(
    "text, line",
    [
        ("Hello\n/sav x\n", "no command '/sav'; did you mean /save"),
        ("/save\n", "/save needs a file"),
        ("/load nothing.json\n", "nothing.json: cannot be read"),
        (b"Hello\nab\xff\n", "stdin, line 2: not UTF-8 at byte 2"),
        ("x " * 2000, "the message is"),
    ],
)
def test_a_mistake_in_a_pipe_ends_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams, text: str | bytes, line: str
) -> None:
    piped(monkeypatch, text)
    assert main(["chat", str(model), *GREEDY]) == 2
    assert line in capfd.readouterr().err.splitlines()[-1]


def test_an_answer_begins_with_its_first_letter(capfd: Streams) -> None:
    """What LLaMA 2 writes first is the space after the question."""

    class Scripted:
        left_out = 0

        def say(self, text: str) -> Any:
            pieces = [Piece(0, 7, piece, 0.0) for piece in ("", " ", "\n He", " is", "\n")]
            return (piece for piece in pieces)

    out = io.StringIO()
    reply(cast(Conversation, Scripted()), "x", out, verbose=False)
    assert out.getvalue() == "He is\n\n"


# At a terminal.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | BaseException) -> None:
    """What a person types; an exception is a key such as Ctrl-C."""
    waiting = iter(lines)

    def read(prompt: str = "") -> str:
        line = next(waiting)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(builtins, "input", read)


@pytest.mark.parametrize("key", [EOFError(), KeyboardInterrupt()], ids=["Ctrl-D", "Ctrl-C"])
def test_the_prompt_ends_with_a_key(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams, key: BaseException
) -> None:
    typed(monkeypatch, "Hello", key)
    assert main(["chat", str(model), *GREEDY]) == 0
    assert capfd.readouterr().out == f"{answers('Hello')[0]}\n"


def test_at_a_terminal_one_may_go_on_after_a_mistake(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams
) -> None:
    typed(monkeypatch, "/foo", "x " * 2000, "\ud800", "Hello", EOFError())
    assert main(["chat", str(model), *GREEDY]) == 0
    out, err = capfd.readouterr()
    assert out == f"{answers('Hello')[0]}\n"
    assert err.count("fathom: ") == 3


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams
) -> None:
    written: list[str] = []

    class Impatient(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            if len(written) == 3:
                raise KeyboardInterrupt
            return len(text)

    typed(monkeypatch, "Hello", f"/save {tmp_path / 'talk.json'}", EOFError())
    monkeypatch.setattr(sys, "stdout", Impatient())
    assert main(["chat", str(model), *GREEDY]) == 0
    assert "(stopped)" in capfd.readouterr().err
    kept = json.loads((tmp_path / "talk.json").read_text())["messages"][1]["content"]
    assert kept == "".join(written[:3]).strip() and answers("Hello")[0].startswith(kept)


# With something that guesses.


def test_answers_are_the_same_with_drafts_and_what_was_kept_is_told(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams
) -> None:
    for given in (["--speculate", "lookup"], ["--draft", str(model)]):
        piped(monkeypatch, "Hello\nworld 日本\n")
        assert main(["chat", str(model), *GREEDY, "-v", *given]) == 0
        out, err = capfd.readouterr()
        assert out == "".join(f"{answer}\n" for answer in answers("Hello", "world 日本"))
        assert "draft tokens accepted" in err and (given[0] != "--draft" or f"draft {model}" in err)


@pytest.mark.parametrize("verb", ["chat", "generate"])
@pytest.mark.parametrize(
    "given, line",
    [
        (["--draft", "bytes"], "fathom: the draft model has another vocabulary: token 9 is '\\t' there and '!'"),
        (["--draft", "model", "--speculate", "lookup"], "fathom: speculate is 'lookup' and there is a draft model"),
        (["--speculate", "loopup"], "fathom: --speculate is 'loopup'; did you mean lookup?"),
    ],
)
def test_what_cannot_guess_is_one_line_before_anything_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams, verb: str, given: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model)
    model_folder(tmp_path / "bytes", ByteTokenizer())
    typed(monkeypatch, EOFError())
    assert main([verb, str(model), *GREEDY, *given]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.splitlines()[-1].startswith(line)


def test_tools_and_further_names_reach_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Streams
) -> None:
    """What the model reads is the template with them: an answer other than without."""
    template = "{% for t in tools %}{{ t.name }};{% endfor %}{{ style }}{{ deep is false }}" + PUBLISHED["chatml"]
    folder = model_folder(tmp_path / "model", bpe(template))
    (tmp_path / "tools.json").write_text(json.dumps({"tools": [{"name": "weather"}, {"name": "time"}]}))
    piped(monkeypatch, "Hello\n")
    named = ["--template-arg", "style=brief", "--template-arg", "deep=false"]
    assert main(["chat", str(folder), *GREEDY, "--tools", str(tmp_path / "tools.json"), *named]) == 0
    tokenizer = bpe(template)
    network = random_model("llama", tokenizer.vocab_size, 400)
    extras = Extras([{"name": "weather"}, {"name": "time"}], arguments={"style": "brief", "deep": False})
    talk = Conversation(network, tokenizer, GenerateOptions(temperature=0, max_new_tokens=12), extras=extras)
    assert tokenizer.decode(talk.prompt(Message("user", "Hello"))).startswith("weather;time;briefTrue")
    assert capfd.readouterr().out.strip() == talk.ask("Hello")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is no file; give a JSON file"),
        ("{", "is not JSON"),
        ('{"tool": []}', "holds NoneType; expected a list of objects"),
        ('["weather"]', "holds list; expected a list of objects"),
    ],
)
def test_bad_tools_are_one_line(model: Path, tmp_path: Path, content: str | None, says: str, capfd: Streams) -> None:
    if content is not None:
        (tmp_path / "tools.json").write_text(content)
    assert main(["chat", str(model), "--tools", str(tmp_path / "tools.json")]) == 2
    err = capfd.readouterr().err
    assert says in err and len(err.strip().splitlines()) == 1


def test_a_template_argument_needs_a_name(model: Path, capfd: Streams) -> None:
    assert main(["chat", str(model), "--template-arg", "thinking"]) == 2
    assert "--template-arg 'thinking' is not NAME=VALUE" in capfd.readouterr().err


def test_reasoning_is_dimmed_as_it_comes() -> None:
    pieces = ["<thi", "nk>Hm", "m.</th", "ink>Yes", " <think>"]
    shown = Reasoning(styled=True)
    dim = [shown.show(piece) for piece in pieces]
    assert dim[1].startswith("\x1b[2m") and dim[2].startswith("\x1b[2m") and dim[4] == " <think>"
    assert dim[3].startswith("\x1b[2mink>\x1b[0m") and dim[3].endswith("Yes")
    plain = Reasoning(styled=False)
    assert [plain.show(piece) for piece in pieces] == pieces
    other = Reasoning(styled=True)
    assert [other.show(piece) for piece in ("Yes", "<think>")] == ["Yes", "<think>"]
