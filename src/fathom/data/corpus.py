"""A corpus is a stream of documents: a named one, a file, or a folder of files.

It may have any size: no more than `max_chars` of it are held at a time. A text from the network is fetched once over
https, its sha256 checked, and kept in a cache.
"""

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

from fathom.data.splits import files_in, splits, to_learn
from fathom.data.text import JSON_LINES, JSONLines, TextFile, is_json_lines
from fathom.errors import FathomError, near
from fathom.files import replacing
from fathom.tokenizer.protocol import READ_CHUNK, slices

TEXTS = (".txt", ".text", ".md", *JSON_LINES)  # what is read from a folder
MANIFEST = "manifest.json"  # of a folder of prepared tokens
Opener = Callable[..., AbstractContextManager[Any]]


@dataclass(frozen=True)
class Remote:
    """A file on the network and the size and digest it must have."""

    name: str
    url: str
    size: int  # bytes
    sha256: str


SHAKESPEARE = Remote(
    name="shakespeare",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    size=1_115_394,
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


def fetch(remote: Remote, cache: Path | None = None, opener: Opener = urllib.request.urlopen) -> Path:
    """The path of the file in the cache, downloaded where it is missing or damaged there."""
    path = (cache or cache_folder()) / f"{remote.name}.txt"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == remote.sha256:
        return path
    content = _download(remote, path, opener)
    if (digest := hashlib.sha256(content).hexdigest()) != remote.sha256:
        raise FathomError(
            f"{remote.name}: {remote.url} gave {len(content)} bytes with sha256 {digest[:16]}…; expected {remote.size}"
            f" bytes with {remote.sha256[:16]}…; nothing was kept; try again or pass a text file with --data FILE"
        )
    with replacing(path) as file:
        file.write(content)
    return path


def _download(remote: Remote, path: Path, opener: Opener) -> bytes:
    try:
        with opener(remote.url, timeout=30) as response:
            return bytes(response.read(remote.size + 1))
    except (OSError, HTTPException) as problem:  # URLError and time-outs are OSErrors
        reason = getattr(problem, "reason", None) or problem
        raise FathomError(
            f"{remote.name}: could not be downloaded from {remote.url} ({reason}); without a network, pass a text"
            f" file with --data FILE, or put the file at {path}"
        ) from None


def cache_folder() -> Path:
    """$FATHOM_CACHE, or the folder in which this platform keeps caches."""
    if folder := os.environ.get("FATHOM_CACHE"):
        return Path(folder)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fathom"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "fathom" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fathom"


class Source(Protocol):
    """Where documents come from; each is an iterator over its chunks, to be exhausted before the next document."""

    @property
    def size(self) -> int: ...

    def documents(self, max_chars: int) -> Iterator[Iterator[str]]: ...


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order."""

    name: str
    sources: tuple[Source, ...]

    @property
    def size(self) -> int:
        """Bytes to read, for progress."""
        return sum(source.size for source in self.sources)

    def documents(self, max_chars: int = READ_CHUNK) -> Iterator[Iterator[str]]:
        """Each document as an iterator over its chunks of at most `max_chars`."""
        for source in self.sources:
            yield from source.documents(max_chars)

    def chunks(self, max_chars: int = READ_CHUNK) -> Iterator[str]:
        """The text in chunks of at most `max_chars`, a newline between documents."""
        for number, document in enumerate(self.documents(max_chars)):
            if number:
                yield "\n"
            yield from document

    def fingerprint(self) -> str:
        """The sha256 of the text, as hex."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk.encode("utf-8"))
        return digest.hexdigest()


@dataclass(frozen=True)
class PythonDocs:
    """The language reference that comes with every CPython (`help('if')`): text that needs no download."""

    def texts(self) -> list[str]:
        """One text per topic in the order of their names; a text with two names occurs once."""
        try:
            from pydoc_data.topics import topics  # here: 0.5 MB that only this corpus needs
        except ImportError:
            raise FathomError(
                "python-docs: this Python comes without pydoc_data; pass a text file with --data FILE"
            ) from None
        return list(dict.fromkeys(topics[name] for name in sorted(topics)))

    @property
    def size(self) -> int:
        return sum(len(text.encode("utf-8")) for text in self.texts())

    def documents(self, max_chars: int) -> Iterator[Iterator[str]]:
        for text in self.texts():
            yield slices(text, max_chars)


@dataclass(frozen=True)
class PythonSource:
    """The modules of the standard library, as every Python has them: code whose shape a model learns in a minute.

    Only files in ASCII: one rare character more would be a token more.
    """

    def files(self) -> list[Path]:
        """The modules that are one file, by name."""
        folder = Path(os.__file__).parent
        files = [path for path in sorted(folder.glob("*.py")) if path.read_bytes().isascii()]
        if not files:
            raise FathomError("python-source: this Python comes without its source; pass a text file with --data FILE")
        return files

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files())

    def documents(self, max_chars: int) -> Iterator[Iterator[str]]:
        for path in self.files():
            yield slices(path.read_text(encoding="ascii").expandtabs(4), max_chars)


NAMED: dict[str, Callable[[], Source]] = {
    "python-docs": PythonDocs,
    "python-source": PythonSource,
    "shakespeare": lambda: TextFile(fetch(SHAKESPEARE)),
}


def resolve(name_or_path: str) -> Corpus:
    """The corpus of a name in NAMED, of a .txt or .jsonl file, or of a folder: its training part, else all texts."""
    if name_or_path in NAMED:
        return Corpus(name_or_path, (NAMED[name_or_path](),))
    corpus = Corpus(name_or_path, tuple(map(_source, files_of(name_or_path, TEXTS))))
    if next(corpus.chunks(), None) is None:
        raise FathomError(f"{name_or_path}: is empty; expected text to learn from")
    return corpus


def files_of(name: str, suffixes: Sequence[str]) -> list[Path]:
    """The file of that name, or those of a folder whose names end so: its part for training, where one is named so."""
    if not name:
        raise FathomError(f"the name of the data is empty; expected a file, a folder or one of {', '.join(NAMED)}")
    if "://" in name:
        raise FathomError(
            f"{name} is a URL; expected a file, a folder or one of {', '.join(NAMED)}: download it first"
            f" (curl -LO {name}) and give the file"
        )
    path = Path(name)
    try:
        return _files(path, suffixes)
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror or problem})") from problem


def part_of(name_or_path: str, split: str) -> Corpus | None:
    """The texts that a folder names validation or test; None: it has none, or is no folder."""
    path = Path(name_or_path)
    files = splits(path, TEXTS).get(split) if name_or_path not in NAMED and path.is_dir() else None
    return Corpus(f"{name_or_path} ({split})", tuple(map(_source, files))) if files else None


def _source(path: Path) -> Source:
    return JSONLines(path) if is_json_lines(path) else TextFile(path)


def _files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    if path.is_dir():
        if all((path / name).exists() for name in ("config.yaml", "metrics.jsonl")):
            raise FathomError(f"{path}: is a run, not a text; expected a file of text or a folder of them")
        if (path / MANIFEST).is_file():
            raise FathomError(f"{path}: holds tokens and no text; fathom train, finetune and show-batch read them")
        if not (files := to_learn(path, suffixes) or files_in(path, suffixes)):
            raise FathomError(f"{path}: no texts in this folder; expected files ending in {', '.join(suffixes)}")
        return files
    if path.is_file():
        return [path]
    if path.exists():
        raise FathomError(f"{path}: neither a file nor a folder; expected text to read")
    siblings = [f.name for f in path.parent.iterdir()] if path.parent.is_dir() else []
    raise FathomError(
        f"no file, folder or corpus {str(path)!r}; the corpora are {', '.join(NAMED)}"
        f"{near(path.name, [*siblings, *NAMED])}"
    )
