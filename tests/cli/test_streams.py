"""Narrow encodings and closed streams end in escaped text or in nothing, not in an error; prompts are read as texts."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fathom.cli.generate import read_prompt
from fathom.cli.streams import escape
from fathom.cli.tokenize import read_text
from fathom.tokenizer.load import save
from tests.tokenizer.templates import bpe

RECORD = '{"prompt": "a\\nb", "completion": "c\\nd \U0001f642"}\n'


def call(
    *arguments: str, encoding: str = "utf-8", closed: str = "", folder: Path
) -> subprocess.CompletedProcess[bytes]:
    """`python -m fathom` in a shell that closes the streams in `closed`, such as 0<&-."""
    line = f'"$0" -m fathom "$@" {closed}'
    env = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(["sh", "-c", line, sys.executable, *arguments], env=env, cwd=folder, capture_output=True)


def show(folder: Path) -> tuple[str, ...]:
    (folder / "it.jsonl").write_text(RECORD)
    save(bpe(None), folder / "tokenizer.json")
    return "show-batch", "tokenizer.json", "--data", "it.jsonl"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_what_an_encoding_cannot_hold_is_escaped(tmp_path: Path, encoding: str) -> None:
    done = call(*show(tmp_path), encoding=encoding, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    out = done.stdout.decode("ascii")  # signs of its own are replaced, what the data hold is escaped
    assert "<<" in out and "\\n" in out and "\\U0001f642" in out.replace("\\xf0|\\x9f|\\x99|\\x82", "\\U0001f642")


def test_after_the_first_escape_all_is_ascii() -> None:
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, "cp1252")
    escape(stream)
    print("naïve", file=stream)
    print("\U0001f642 naïve", file=stream, flush=True)
    assert data.getvalue() == b"na\xefve\n\\U0001f642 na\\xefve\n"


def test_errors_are_escaped_too(tmp_path: Path) -> None:
    done = call("info", "日本", encoding="latin-1", folder=tmp_path)
    assert done.returncode == 2 and b"\\u65e5\\u672c" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_bug(tmp_path: Path, closed: str) -> None:
    done = call(*show(tmp_path), closed=closed, folder=tmp_path)
    assert done.returncode == 0 and b"bug" not in done.stderr
    assert bool(done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_what_is_printed_to_a_closed_stdout_goes_into_no_file(tmp_path: Path) -> None:
    (tmp_path / "it.txt").write_text("Hello world\n" * 50)
    done = call("tokenize", "Hello", "byte", closed="<&- >&-", folder=tmp_path)
    assert done.returncode == 0 and (tmp_path / "it.txt").read_text() == "Hello world\n" * 50


def test_prompts_are_read_as_training_reads_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.txt"
    path.write_bytes("\ufefffirst\r\nsecond\rthird\n".encode())
    with path.open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert read_prompt("-") == "first\nsecond\nthird\n"
    with path.open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert read_text("-") == "first\nsecond\nthird\n"
    assert read_prompt(f"FILE:{path}") == "first\nsecond\nthird\n"
    assert read_prompt("a\r\nb") == "a\nb"
