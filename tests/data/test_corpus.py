"""Corpora: names, files and folders as the same documents in the same order, every time."""

import ast
import hashlib
import os
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from fathom.data import corpus
from fathom.data import corpus as corpus_module
from fathom.data.corpus import NAMED, Corpus, resolve
from fathom.errors import FathomError


def whole(corpus: Corpus, max_chars: int = 5) -> str:
    chunks = list(corpus.chunks(max_chars))
    assert all(0 < len(chunk) <= max_chars for chunk in chunks)
    return "".join(chunks)


def test_python_docs_is_every_topic_of_this_python_once() -> None:
    text = whole(resolve("python-docs"), 1000)
    assert all(topic in text for topic in topics.values())
    assert len(text) == sum(map(len, set(topics.values()))) + len(set(topics.values())) - 1
    assert len(text) > 300_000
    assert text == whole(resolve("python-docs"), 77)


def test_python_docs_on_a_python_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(FathomError, match="pass a text file with --data"):
        whole(resolve("python-docs"))


def test_a_file_is_one_document_and_a_folder_many(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.jsonl").write_text('{"text": "third"}\n{"text": "fourth"}')
    (tmp_path / "c" / "z.TXT").write_text("fifth")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "model.safetensors").write_bytes(b"\xff\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "notes.txt").write_text("hidden")
    assert whole(resolve(str(tmp_path / "b.txt"))) == "second"
    assert whole(resolve(str(tmp_path))) == "first\nsecond\nthird\nfourth\nfifth"
    assert resolve(str(tmp_path)).size == len("firstsecondfifth") + len('{"text": "third"}\n{"text": "fourth"}')
    assert ["".join(d) for d in resolve(str(tmp_path / "c")).documents(3)] == ["third", "fourth", "fifth"]


def test_a_file_of_any_name_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("words")
    assert whole(resolve(str(tmp_path / "README"))) == "words"


def test_fingerprint_is_the_sha256_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "unix.txt").write_bytes("naïve\n".encode())
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbf" + "naïve\r\n".encode())
    (tmp_path / "other.txt").write_bytes(b"naive\n")
    prints = [resolve(str(tmp_path / f"{name}.txt")).fingerprint() for name in ("unix", "windows", "other")]
    assert prints[0] == prints[1] == hashlib.sha256("naïve\n".encode()).hexdigest()
    assert prints[2] != prints[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("python-doc", "did you mean python-docs"),
        ("shakespear", "did you mean shakespeare"),
        ("stoires.txt", "did you mean stories.txt"),
        ("nowhere/at/all.txt", "no file, folder or corpus 'nowhere/at/all.txt'; the corpora are python-docs"),
        ("", "empty"),
        ("x" * 300, "cannot be read|no file"),
        ("empty.txt", "is empty"),
        ("mark.txt", "is empty"),
        ("empty.jsonl", "is empty"),
        ("blank.jsonl", "is empty"),
        ("folder", "no texts in this folder"),
        ("binary.bin", "binary"),
        ("latin1.txt", "byte 3 is 0xe9"),
        ("bad.jsonl", "line 1: not JSON"),
        ("pipe", "neither a file nor a folder"),
    ],
)
def test_what_cannot_be_a_corpus_is_one_line(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "stories.txt": b"once",
        "empty.txt": b"",
        "mark.txt": b"\xef\xbb\xbf",
        "empty.jsonl": b"",
        "blank.jsonl": b'\n\n{"text": ""}\n',
        "binary.bin": bytes(range(256)),
        "latin1.txt": b"caf\xe9 au lait",
        "bad.jsonl": b"nothing\n",
    }
    for file, content in files.items():
        Path(file).write_bytes(content)
    Path("folder").mkdir()
    Path("folder", "image.png").write_bytes(b"\x89PNG")
    os.mkfifo("pipe")
    with pytest.raises(FathomError, match=said) as error:
        resolve(name)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_one_may_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "secret.txt").chmod(0)
    with pytest.raises(FathomError, match="cannot be read"):
        resolve(str(tmp_path / "secret.txt"))


def test_a_read_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret.txt").write_text("x")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FathomError, match=r"secret\.txt: cannot be read \(permission denied\)"):
        resolve(str(tmp_path / "secret.txt"))


def test_shakespeare_comes_from_the_cache(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    text = (shared_data / "tinyshakespeare.txt").read_bytes()
    (tmp_path / "shakespeare.txt").write_bytes(text)
    assert whole(resolve("shakespeare"), 1 << 20).encode() == text
    assert resolve("shakespeare").fingerprint() == corpus.SHAKESPEARE.sha256


def test_the_named_corpora_are_these() -> None:
    assert set(NAMED) == {"python-docs", "python-source", "shakespeare"}
    assert set(corpus_module.JSON_LINES) < set(corpus_module.TEXTS)


def test_the_source_of_python_is_at_hand() -> None:
    """Code that parses, in ASCII and without tabs, the same however it is cut."""
    corpus = resolve("python-source")
    documents = ["".join(chunks) for chunks in corpus.documents(1000)]
    assert len(documents) > 50 and all(text.isascii() and "\t" not in text for text in documents)
    assert sum(map(len, documents)) > 1_000_000 and corpus.size > 1_000_000
    ast.parse(documents[0])
    assert "".join(corpus.chunks(777)) == "\n".join(documents)
