"""Parts of files hold each document once, wherever a file is divided; stretches of a text are those of the whole."""

import gzip
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fathom.data import parts
from fathom.data.corpus import resolve
from fathom.data.order import Shuffle, deal
from fathom.data.parts import STRETCH, Part, divided, passages
from fathom.data.record_files import parquet_about
from fathom.data.records import Document, RecordFile
from fathom.data.shard_worker import Sink, Worker
from fathom.errors import FathomError
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.protocol import TokenArray
from tests.data.prepared import TEXTS, as_gzip, as_lines, as_parquet, as_zstandard

LONG = "\n\n".join(TEXTS * 2)
ODD = {
    "lines": LONG,
    "windows": LONG.replace("\n", "\r\n"),
    "no line ends": LONG.replace("\n", " "),
    "letters of three bytes": LONG.replace("e", "東"),
    "blank lines alone": "a" * STRETCH + "\n" * 3 * STRETCH + "b",
    "ends at a stretch": ("a" * (STRETCH - 1) + "\n") * 3,
    "a byte order mark": "\ufeff" + "a\n" * 3 * STRETCH,
    "short": "one line",
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_stretches_of_all_parts_are_the_text(kind: str, size: int, tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_bytes(ODD[kind].encode())
    text = "".join(resolve(str(path)).chunks())
    found = [list(passages(part, "text")) for part, _ in divided(path, size * STRETCH)]
    joined = [passage for part in found for passage in part]
    assert "".join(passage.text for passage in joined) == text
    assert [passage.ends for passage in joined] == [False] * (len(joined) - 1) + [True]
    assert joined == list(passages(Part(path), "text"))  # however the file is divided
    assert len(found) > 1 or len(text) < 3 * size * STRETCH


def test_a_compressed_text_has_the_same_stretches(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.txt").write_text(LONG)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(LONG.encode()))
    assert list(passages(Part(tmp_path / "a.txt"), "text")) == list(passages(Part(tmp_path / "b.txt.gz"), "text"))


@pytest.mark.parametrize("size", [1, 17, 1000, 40_000, 10**9])
def test_each_line_is_in_one_part(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "STRETCH", 1)  # parts of any size
    path = as_lines(tmp_path / "a.jsonl", TEXTS[:30])
    pieces = divided(path, max(size, path.stat().st_size // 200))
    found = [passage.text for part, _ in pieces for passage in passages(part, "text")]
    assert found == TEXTS[:30]
    assert sum(n_bytes for _, n_bytes in pieces) == path.stat().st_size


def test_a_line_that_begins_with_its_part_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "STRETCH", 1)
    texts = [f"{number:03}" for number in range(100, 200)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    n_bytes = path.stat().st_size // 100
    pieces = divided(path, n_bytes)
    assert [[passage.text for passage in passages(part, "text")] for part, _ in pieces] == [[text] for text in texts]


@pytest.mark.parametrize("write", [as_gzip, as_zstandard, as_parquet, as_lines])
def test_every_format_holds_the_same_documents(write: object, tmp_path: Path) -> None:
    name = {as_gzip: "a.jsonl.gz", as_zstandard: "a.jsonl.zst", as_parquet: "a.parquet", as_lines: "a.jsonl"}[write]
    path = write(tmp_path / name, TEXTS)  # type: ignore[operator]
    pieces = divided(path, 50_000)
    assert [passage.text for part, _ in pieces for passage in passages(part, "text")] == TEXTS
    assert (len(pieces) > 1) == (write in (as_parquet, as_lines))


class Kept:
    """In the place of a token file: what would be in it."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def append(self, ids: TokenArray) -> None:
        self.ids += ids.tolist()


@pytest.mark.parametrize("kind", ["lines", "no line ends", "blank lines alone"])
def test_divided_texts_have_stretches_taken_out_as_whole_ones_have(kind: str, tmp_path: Path) -> None:
    """And an end where a stretch was taken out, also where that is the first of the next part."""
    path, tokenizer = tmp_path / "a.txt", ByteTokenizer()
    path.write_text(ODD[kind] * 2)
    worker = Worker.__new__(Worker)
    worker.plan = {"val_fraction": 0.5, "field": "text"}
    found = []
    for size in (1 << 30, STRETCH, 3 * STRETCH):
        sinks = [Sink(Kept(), tokenizer) for _ in range(2)]  # type: ignore[arg-type]
        for part, _ in divided(path, size):
            worker.split(part, *sinks)
        found.append([(sink.writer.ids, sink.n_documents) for sink in sinks])  # type: ignore[attr-defined]
    assert found[0] == found[1] == found[2] and min(n for _, n in found[0]) > 1


@pytest.mark.parametrize("kind", ["text", "lines", "records"])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_flipped_bit_of_compressed_data_is_called_damage(kind: str, suffix: str, tmp_path: Path) -> None:
    """Also where what becomes of it is no UTF-8 or no JSON, which is noticed before the checksum is read."""
    zstandard = pytest.importorskip("zstandard", reason="needs the extra `data`")
    random, path = Random(1), tmp_path / f"a{'.txt' if kind == 'text' else '.jsonl'}{suffix}"
    texts = ["".join(random.choices("abcdefghij é", k=200)) for _ in range(20)]
    plain = "\n".join(texts if kind == "text" else [json.dumps({"text": text}, ensure_ascii=False) for text in texts])
    write = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor(write_checksum=True).compress
    whole, read = write(plain.encode()), 0
    for place in random.sample(range(8 * len(whole)), 200):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            if kind == "records":
                found = [record.text for record in RecordFile(path) if isinstance(record, Document)]
            else:
                found = [passage.text for passage in passages(Part(path), "text")]
        except FathomError as problem:
            assert str(problem).startswith(f"{path}: its compressed data are damaged"), problem
            continue
        read += 1
        assert found == (["\n".join(texts)] if kind == "text" else texts)
    assert read < 10  # bits of a header that mean nothing here


def test_groups_of_rows_are_divided(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "a.parquet", TEXTS, group=3)
    n_groups = len(parquet_about(path).sizes)
    assert [(part.start, part.stop) for part, _ in divided(path, 1)] == [(i, i + 1) for i in range(n_groups)]
    assert [(part.start, part.stop) for part, _ in divided(path, 10**9)] == [(0, n_groups)]


@pytest.mark.parametrize("line", [20, 40])
def test_an_error_in_a_later_part_names_the_line(line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "STRETCH", 1)
    path = as_lines(tmp_path / "a.jsonl", TEXTS[:50])
    lines = path.read_text().splitlines()
    lines[line - 1] = '{"txt": ""}'
    lines[10] = ""  # a blank line counts
    path.write_text("\n".join(lines))
    with pytest.raises(FathomError, match=f"a.jsonl, line {line}: no field 'text', found 'txt'; did you mean"):
        [list(passages(part, "text")) for part, _ in divided(path, 5_000)]


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 1000, 5003])
def test_a_shuffle_is_a_permutation(n: int) -> None:
    keys = np.random.default_rng(n).integers(1 << 62, size=6).tolist()
    shuffle = Shuffle(n, keys)
    assert sorted(shuffle[place] for place in range(n)) == list(range(n))
    assert [Shuffle(n, keys, 5, 3)[place] for place in range(n)] == [5 + 3 * shuffle[place] for place in range(n)]


def test_a_shuffle_scatters() -> None:
    """Against a random permutation: how far neighbours land from each other, and where an item is for many keys."""
    n, random = 4000, np.random.default_rng(0)
    first = np.array([Shuffle(n, random.integers(1 << 62, size=6).tolist())[0] for _ in range(n)])
    counts = np.bincount(first * 16 // n, minlength=16)
    assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 45  # chi-squared with 15 degrees of freedom: p = 1e-4
    shuffle = Shuffle(n, random.integers(1 << 62, size=6).tolist())
    places = np.array([shuffle[place] for place in range(n)])
    assert abs(np.corrcoef(np.arange(n), places)[0, 1]) < 0.07
    assert abs(np.abs(np.diff(places)).mean() - n / 3) < n / 30  # the mean distance of two random places


@pytest.mark.parametrize("shares", [[0.7, 0.3], [0.5, 0.5], [0.999, 0.001], [0.2, 0.3, 0.1, 0.4], [1 / 3] * 3])
def test_windows_are_dealt_by_shares(shares: list[float]) -> None:
    dealt = deal(shares, 0, 5000)
    assert [one for start in range(0, 5000, 37) for one in deal(shares, start, 37)][:5000] == dealt
    counts = np.zeros(len(shares))
    for place, (text, visit) in enumerate(dealt, 1):
        assert visit == counts[text]  # each text is visited in its own order
        counts[text] += 1
        assert (abs(counts - np.array(shares) * place) <= len(shares)).all()
    far = deal(shares, 10**10, 1000)
    assert len(far) == 1000 and len({*far}) == 1000
