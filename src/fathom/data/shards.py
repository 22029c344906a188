"""A folder of prepared tokens: token files, one after another; their tokenizer; and a manifest, which is written last.

    manifest.json  tokenizer.json  plan.json  train-00000.npy  val-00000.npy  train-00001.npy  ...

They are read where they are, through memory maps. The manifest says how many ids each file holds, with their sha256.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fathom.data.corpus import MANIFEST, resolve
from fathom.data.token_file import BLOCK, Tokens, read_blocks, write_header
from fathom.errors import FathomError
from fathom.fields import build
from fathom.files import read_bytes
from fathom.json_file import parse_object
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import TokenArray, Tokenizer, id_dtype

FORMAT = "fathom tokens 1"
PLAN = "plan.json"  # what was begun
OPEN = 128  # token files that are open at a time
LIMIT = 1 << 28  # bytes of a manifest
IDS_HANG_ON = ("template", "settings", "generation", "names", "flags", "ends", "bos", "prefix")  # not on these


@dataclass(frozen=True)
class TokenFile:
    """The ids of one part of one shard."""

    name: str
    n_tokens: int
    n_documents: int
    sha256: str  # of the ids


@dataclass(frozen=True)
class Shard:
    """Tokens of one source."""

    source: int
    train: TokenFile
    val: TokenFile

    def part(self, name: str) -> TokenFile:
        return self.train if name == "train" else self.val


@dataclass(frozen=True)
class SourceAbout:
    """Where tokens come from. weight: the share of training's windows; None: as many as there are."""

    name: str
    weight: float | None
    n_files: int
    n_bytes: int


class Joined:
    """(n,) the ids of several token files, one after another, each mapped when it is first read."""

    def __init__(self, folder: Path, files: Sequence[TokenFile], dtype: np.dtype[Any]) -> None:
        self.folder, self.dtype = folder, dtype
        self.files = [file for file in files if file.n_tokens]
        self.ends = np.cumsum([0, *(file.n_tokens for file in self.files)], dtype=np.int64)
        self._map = lru_cache(maxsize=OPEN)(self._open)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, places: slice) -> TokenArray:
        """The ids of a slice without a step, copied where it crosses files."""
        start, stop, _ = places.indices(len(self))
        first = int(np.searchsorted(self.ends, start, "right")) - 1
        found = []
        while start < stop:
            begin, end = int(self.ends[first]), int(self.ends[first + 1])
            found.append(self._map(first)[start - begin : stop - begin])
            start, first = min(stop, end), first + 1
        return found[0] if len(found) == 1 else np.concatenate([np.zeros(0, self.dtype), *found])

    def max(self) -> int:
        """The largest id; every one of them is read."""
        return max(
            (int(block.max()) for file in self.files for block in read_blocks(self.folder / file.name)), default=0
        )

    def _open(self, place: int) -> TokenArray:
        file = self.files[place]
        path, start = _intact(self.folder, file, self.dtype), len(header(file.n_tokens, self.dtype))
        return np.memmap(path, self.dtype, "r", start, (file.n_tokens,))


@dataclass(frozen=True)
class Manifest:
    """What manifest.json holds."""

    format: str
    tokenizer: str  # as it was named
    vocab_size: int
    tokenizer_sha256: str  # its `identity`
    val_fraction: float
    sources: tuple[SourceAbout, ...]
    shards: tuple[Shard, ...]

    def to_json(self) -> bytes:
        """A line for each shard."""
        values = asdict(self)
        lines = ",\n".join(f"  {json.dumps(shard)}" for shard in values.pop("shards"))
        return (json.dumps(values, indent=1)[:-2] + f',\n "shards": [\n{lines}\n ]\n}}\n').encode()


@dataclass(frozen=True)
class Shards:
    """The prepared tokens in a folder."""

    folder: Path
    about: Manifest
    sha256: str  # of the manifest

    @property
    def dtype(self) -> "np.dtype[Any]":
        return id_dtype(self.about.vocab_size)

    def files(self, part: str, source: int | None = None) -> list[TokenFile]:
        return [shard.part(part) for shard in self.about.shards if source in (None, shard.source)]

    def tokens(self, part: str) -> Joined:
        """The ids of "train" or "val"."""
        return Joined(self.folder, self.files(part), self.dtype)

    def streams(self) -> list[tuple[Tokens, float]]:
        """What training reads, and which share of its windows comes from each: one, or one for each source."""
        if self.about.sources[0].weight is None:
            return [(self.tokens("train"), 1.0)]
        total = sum(source.weight or 0.0 for source in self.about.sources)
        joined = [
            Joined(self.folder, self.files("train", number), self.dtype) for number in range(len(self.about.sources))
        ]
        return [(tokens, (source.weight or 0.0) / total) for tokens, source in zip(joined, self.about.sources)]

    def count(self, part: str) -> tuple[int, int]:
        """(tokens, documents) of "train" or "val"."""
        files = self.files(part)
        return sum(file.n_tokens for file in files), sum(file.n_documents for file in files)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made them. FathomError: it is missing, or another."""
        tokenizer = tokenizers.load(self.folder / tokenizers.FILE)
        if identity(tokenizer) != self.about.tokenizer_sha256:
            raise FathomError(
                f"{self.folder / tokenizers.FILE} is not the tokenizer that the tokens were made with; prepare the data"
                " again"
            )
        return tokenizer

    def require(self, tokenizer: Tokenizer, name: str) -> None:
        """FathomError: these tokens were made with another tokenizer."""
        if identity(tokenizer) != self.about.tokenizer_sha256:
            made = f"{self.about.tokenizer}, {self.about.vocab_size:,} tokens"
            raise FathomError(
                f"{self.folder}: its tokens were made with another tokenizer ({made}) than {name}; prepare the data"
                f" again with --tokenizer {name}"
            )

    def verify(self) -> None:
        """FathomError: a token file is missing, or does not hold what was written; all of them are read."""
        for shard in self.about.shards:
            for file in (shard.train, shard.val):
                path, digest = _intact(self.folder, file, self.dtype), hashlib.sha256()
                with path.open("rb") as opened:
                    head = opened.read(len(header(file.n_tokens, self.dtype)))
                    while block := opened.read(BLOCK):
                        digest.update(block)
                if head != header(file.n_tokens, self.dtype) or digest.hexdigest() != file.sha256:
                    raise FathomError(f"{path}: damaged: it does not hold what was written; prepare the data again")


def is_prepared(path: str | Path) -> bool:
    """Whether this is a folder of prepared tokens, or of some that are not finished."""
    return (Path(path) / MANIFEST).is_file() or (Path(path) / PLAN).is_file()


def open_shards(path: str | Path) -> Shards:
    """The tokens in a folder, each file there and of the right size. FathomError: they are not, or not finished."""
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise FathomError(
            f"{folder}: {MANIFEST} is missing: its tokens are not finished; run the same fathom prepare again to go on"
        )
    data = read_bytes(folder / MANIFEST, LIMIT, "a manifest of tokens")
    where = str(folder / MANIFEST)
    values = parse_object(data, where)
    if values.get("format") != FORMAT:
        raise FathomError(
            f"{where}: the format is {values.get('format')!r}; expected {FORMAT!r}: prepare the data again"
        )
    about = build(Manifest, values, where)
    if not about.sources or not about.shards or len(about.sources) <= max(shard.source for shard in about.shards):
        raise FathomError(f"{where}: sources and shards do not fit together; prepare the data again")
    shards = Shards(folder, about, hashlib.sha256(data).hexdigest())
    for shard in about.shards:
        for file in (shard.train, shard.val):
            _intact(folder, file, shards.dtype)
    return shards


def about_tokens(data: str, bytes_a_token: int) -> float:
    """About how many tokens the data are; of prepared ones exactly."""
    if is_prepared(data):
        shards = open_shards(data)
        return shards.count("train")[0] + shards.count("val")[0]
    return resolve(data).size / bytes_a_token


def identity(tokenizer: Tokenizer) -> str:
    """The sha256 of everything in a tokenizer that the ids of a text hang on."""
    values = {name: value for name, value in tokenizer.to_json().items() if name not in IDS_HANG_ON}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _intact(folder: Path, file: TokenFile, dtype: "np.dtype[Any]") -> Path:
    """The path of a token file that is there and of the right size. FathomError otherwise."""
    path = folder / Path(file.name).name
    try:
        size = path.stat().st_size
    except OSError as problem:
        raise FathomError(
            f"{path}: cannot be read ({problem.strerror or problem}), and the manifest lists it; put it back, or"
            " prepare the data again"
        ) from None
    if size != (expected := len(header(file.n_tokens, dtype)) + file.n_tokens * dtype.itemsize):
        raise FathomError(f"{path}: damaged: {size:,} bytes, expected {expected:,}; prepare the data again")
    return path


def header(n_tokens: int, dtype: "np.dtype[Any]") -> bytes:
    """What a token file begins with."""
    buffer = io.BytesIO()
    write_header(buffer, dtype, n_tokens)
    return buffer.getvalue()
