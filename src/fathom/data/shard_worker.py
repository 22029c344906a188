"""A process that turns pieces of text into shards: `python -m fathom.data.shard_worker FOLDER`.

The plan and the tokenizer are in the folder; numbers of pieces come in on stdin, one a line, and for each a line of
JSON goes out. A shard's description is written after its two token files: without it the shard does not count.
"""

import hashlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fathom.data.hub_dataset import fetched
from fathom.data.parts import Part, Passage, following, passages
from fathom.data.shards import PLAN, Shard, TokenFile
from fathom.data.token_file import TokenWriter, end_of_document, token_writer
from fathom.errors import FathomError, OutsideVocabulary
from fathom.files import replacing
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import Tokenizer, id_array, id_dtype

FETCHED = ".fetched"  # a folder for the file of a data set while it is read


class Sink:
    """The tokens of one part of a shard, a mark at the end of each document."""

    def __init__(self, writer: TokenWriter, tokenizer: Tokenizer) -> None:
        self.writer, self.tokenizer, self.n_documents = writer, tokenizer, 0
        self.end = id_array([end_of_document(tokenizer)], tokenizer.vocab_size)

    def add(self, text: str) -> None:
        self.writer.append(self.tokenizer.encode_array(text))

    def close(self) -> None:
        self.writer.append(self.end)
        self.n_documents += 1

    def about(self) -> TokenFile:
        writer = self.writer
        return TokenFile(writer.path.name, writer.count, self.n_documents, writer.digest.hexdigest())


def held_out(text: str, fraction: float) -> bool:
    """Whether a document is for validation: by its text alone, so that a copy of it is too."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


class Worker:
    """What a process keeps from piece to piece."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: Mapping[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        self.tokenizer = tokenizers.load(folder / tokenizers.FILE)

    def write(self, number: int) -> None:
        """Write a shard and its description. FathomError: its text cannot be read, or the disk is full."""
        source, parts = self.plan["pieces"][number]
        dtype, names = id_dtype(self.tokenizer.vocab_size), [f"{part}-{number:05}.npy" for part in ("train", "val")]
        with ExitStack() as stack:
            writers = [stack.enter_context(token_writer(self.folder / name, dtype)) for name in names]
            train, val = (Sink(writer, self.tokenizer) for writer in writers)
            for place, start, stop in parts:
                with self.opened(place) as path:
                    self.split(Part(path, start, stop), train, val)
        with replacing(self.folder / f"shard-{number:05}.json") as file:
            file.write(json.dumps(asdict(Shard(source, train.about(), val.about()))).encode())

    def split(self, part: Part, train: Sink, val: Sink) -> None:
        """The documents of a part, to where they belong. A text from which a stretch is taken becomes two documents."""
        fraction, field = self.plan["val_fraction"], self.plan["field"]

        def sink(passage: Passage) -> Sink:
            return val if held_out(passage.text, fraction) else train

        unfinished: Sink | None = None
        for passage in passages(part, field):
            if not passage.text:
                continue
            here = sink(passage)
            if unfinished not in (None, here):
                unfinished.close()
            try:
                here.add(passage.text)
            except OutsideVocabulary as problem:
                raise FathomError(f"{part.path}: {problem}") from None
            if passage.ends:
                here.close()
            unfinished = None if passage.ends else here
        if unfinished is not None:
            more = following(part)
            if more is None or sink(more) is not unfinished:
                unfinished.close()

    @contextmanager
    def opened(self, place: int) -> Iterator[Path]:
        """A file of the plan, on this disk and as it was when the plan was made."""
        name, size, changed, dataset = self.plan["files"][place]
        if dataset:
            with fetched(dataset, name, self.folder / FETCHED / str(os.getpid()), self.plan["keep"]) as path:
                yield path
            return
        path = Path(name)
        if changed and ((stat := path.stat()).st_size, stat.st_mtime_ns) != (size, changed):
            raise FathomError(f"{path}: has changed since this began; run the same command again")
        yield path


def main(folder: Path) -> None:
    """Read numbers from stdin until it ends. Where the other end is gone, so is this process, whatever it does."""
    out, numbers = os.fdopen(os.dup(1), "w", encoding="utf-8"), queue.Queue[int]()
    os.dup2(2, 1)  # what a library prints is no answer

    def listen() -> None:
        for line in sys.stdin:
            numbers.put(int(line))
        os._exit(0)

    def answer(**values: Any) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    threading.Thread(target=listen, daemon=True).start()
    try:
        worker = Worker(folder)
        while True:
            number = numbers.get()
            worker.write(number)
            answer(done=number)
    except FathomError as problem:
        answer(problem=str(problem))
    except MemoryError:
        answer(problem="not enough memory; use fewer --workers")
    except OSError as problem:
        answer(problem=f"{problem.filename or folder}: {(problem.strerror or str(problem)).lower()}")
    except Exception as problem:
        answer(problem=f"{type(problem).__name__}: {problem} (this is a bug)")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach all; the process that started this one ends it
        signal.signal(number, signal.SIG_IGN)
    main(Path(sys.argv[1]))
