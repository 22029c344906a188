"""`fathom.prepare`: text of any size as tokens on disk, once, for any number of runs. Does not import torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.data.inputs import alternating, read_sources
from fathom.data.prepare import Plan, begin, fill
from fathom.data.shards import Shards, open_shards
from fathom.errors import FathomError
from fathom.fields import build
from fathom.formats.tokenizer import load_tokenizer
from fathom.tokenizer.load import is_learned, make
from fathom.tokenizer.protocol import Tokenizer
from fathom.training.events import Note, Prepared, Report
from fathom.training.shown import shown
from fathom.training.signals import stop_on_signal
from fathom.words import counted

ADVICE = "fathom train validates on some; prepare into another folder with a larger --val-fraction"


@dataclass(frozen=True, repr=False)
class PreparedTokens:
    """A folder of prepared tokens. Printed, it is what `fathom prepare` and `fathom info` show."""

    folder: Path
    shards: Shards | None  # None: it was stopped, and the same call goes on
    exit_code: int = 0

    def plain(self) -> dict[str, object]:
        """JSON values."""
        values: dict[str, object] = {"folder": str(self.folder), "finished": self.shards is not None}
        if self.shards is not None:
            about = self.shards.about
            counts = {part: dict(zip(("tokens", "documents"), self.shards.count(part))) for part in ("train", "val")}
            values |= {"tokenizer": about.tokenizer, "vocab_size": about.vocab_size, **counts}
            values |= {"shards": len(about.shards), "sources": [vars(source) for source in about.sources]}
        return values

    def __repr__(self) -> str:
        if self.shards is None:
            return f"stopped; run the same command again to go on in {self.folder}"
        about, (n_train, n_texts), (n_val, n_held) = (
            self.shards.about, self.shards.count("train"), self.shards.count("val")
        )  # fmt: skip
        size = self.shards.dtype.itemsize
        lines = [
            f"{self.folder}: {n_train:,} tokens of {counted(n_texts, 'document')} to learn from,"
            f" {n_val:,} of {counted(n_held, 'document')} to validate on",
            f"tokenizer:  {about.tokenizer}, {about.vocab_size:,} tokens",
            f"on disk:    {counted(len(about.shards), 'shard')}, {counted(size, 'byte')} for each token",
        ]
        total = sum(source.weight or 0.0 for source in about.sources)
        for number, source in enumerate(about.sources):
            own = sum(file.n_tokens for file in self.shards.files("train", number))
            share = "" if source.weight is None else f", {source.weight / total:.1%} of what is trained on"
            lines.append(f"source:     {source.name}: {counted(source.n_files, 'file')}, {own:,} tokens{share}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What `fathom prepare` has beside the data, the tokenizer and the folder."""

    workers: int | None = None  # processes; None: one a core
    val_fraction: float = 0.01  # of the documents, held out by a hash of their text
    field: str = "text"  # which one of records or columns holds the text
    keep: bool = False  # files of the hub stay in its cache

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise FathomError(f"workers is {self.workers}; expected at least 1 process")
        if not 0 <= self.val_fraction < 1:
            raise FathomError(
                f"val_fraction is {self.val_fraction}; expected a fraction from 0 to below 1, such as 0.01"
            )


def prepare(
    data: str | Sequence[str], tokenizer: str, out: str | Path, *, report: Report | None = None, **options: Any
) -> PreparedTokens:
    """Turn text of any size into tokens on disk, which runs read where they are.

        >>> fathom.prepare(["books", "web.jsonl.zst"], "bpe:32000", "tokens")
        >>> fathom.train("gpt2", "runs/mine", data="tokens")

    data: files (.txt, .jsonl, .parquet; .gz and .zst), folders of them, or data sets of the hub (org/name); with
    weights, as in "books=0.7", they are shares of what is trained on. tokenizer: a file or a model; byte; or char and
    bpe:SIZE, learned from the text. out: a new folder, or one in which an earlier call was stopped. report: called with
    each event; default: shown in a notebook. options: workers (processes, default one a core), val_fraction (of the
    documents, held out by a hash of their text, default 0.01), field (of records that holds the text), keep (files of
    the hub stay in its cache).

    Returns the counts. FathomError, with the finished shards kept: a text cannot be read, or the disk is full.
    """
    names, out = [data] if isinstance(data, str) else list(data), Path(out)
    chosen = build(PrepareOptions, options, "prepare")
    sources = read_sources(names, chosen.field)
    if out.is_file():
        raise FathomError(f"{out} is a file; give -o a new folder")
    shelf, new = begin(
        out,
        Plan(tuple(sources), tokenizer, chosen.val_fraction, chosen.field, chosen.keep),
        lambda: named_tokenizer(tokenizer, alternating(sources, chosen.field) if is_learned(tokenizer) else ()),
    )

    with shown(report, out) as listener, stop_on_signal() as stop:
        finished = fill(
            shelf,
            new,
            chosen.workers or cores(),
            lambda done, total: listener(Prepared("bytes tokenised", done, total)),
            stop.is_requested,
        )
        if not finished:
            return PreparedTokens(out, None, exit_code=128 + stop.requested if stop.requested else 0)
        shards = open_shards(out)
        if chosen.val_fraction and not shards.count("val")[1]:
            documents = counted(shards.count("train")[1], "document")
            listener(Note(f"none of {documents} was held out: {ADVICE}", warning=True))
    return PreparedTokens(out, shards)


def named_tokenizer(name: str, chunks: Iterable[str]) -> Tokenizer:
    """The tokenizer of a model, in a file or folder, or learned from the text."""
    if name != "byte" and not is_learned(name) and Path(name).exists():
        return load_tokenizer(name)
    return make(name, chunks)


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
