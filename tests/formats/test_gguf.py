"""GGUF files: read as the common library writes them, written as it reads them, and none of them believed."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fathom.errors import FathomError
from fathom.formats import gguf
from fathom.formats.ggml_blocks import IDS, TYPES
from tests.mutants import survive

F32 = TYPES[IDS["F32"]]
VALUES = {
    "general.architecture": "llama",
    "a.text": "naïve 東京 🙂",
    "a.none": "",
    "a.size": 4_000_000_000,
    "a.number": 1e-5,
    "a.yes": True,
    "a.no": False,
    "a.texts": ["a", "", "東", "x" * 1000],
}
NUMBERS = {
    f"n.{code[1:]}": np.array([1, 0, 5]).astype(code) for code in ("<u1", "<i2", "<u4", "<i4", "<f4", "<u8", "<f8")
}


def outgoing(x: np.ndarray[Any, Any]) -> gguf.Outgoing:
    return gguf.Outgoing(x.shape, F32, lambda: [x.reshape(-1).view(np.uint8)])


def test_the_common_reader_reads_what_we_write(tmp_path: Path) -> None:
    library = pytest.importorskip("gguf", reason="needs the extra `peers`")
    tensors = {"one": np.arange(5, dtype="<f4"), "two": np.arange(24, dtype="<f4").reshape(2, 3, 4)}
    gguf.write(tmp_path / "x.gguf", VALUES | NUMBERS, {name: outgoing(x) for name, x in tensors.items()})
    reader = library.GGUFReader(tmp_path / "x.gguf")
    for key, value in VALUES.items():
        assert reader.fields[key].contents() == (pytest.approx(value) if isinstance(value, float) else value), key
    for key, numbers in NUMBERS.items():
        assert reader.fields[key].contents() == numbers.tolist()
    assert [(x.name, x.data.tolist()) for x in reader.tensors] == [(name, x.tolist()) for name, x in tensors.items()]
    assert (tmp_path / "x.gguf").stat().st_size % 32 == 0


@pytest.mark.parametrize("version", [2, 3])
def test_we_read_what_the_common_writer_writes(tmp_path: Path, version: int) -> None:
    library, path = pytest.importorskip("gguf", reason="needs the extra `peers`"), tmp_path / "x.gguf"
    writer = library.GGUFWriter(path, "llama")
    kinds = {"uint8": 7, "int8": -7, "uint16": 700, "int16": -700, "uint32": 1 << 31, "int32": -9, "uint64": 1 << 60}
    kinds |= {"int64": -(1 << 60), "float32": 0.1, "float64": 0.1, "bool": True, "string": "naïve"}
    for kind, value in kinds.items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    writer.add_array("x.texts", [f"token {i}" for i in range(10_000)])
    writer.add_array("x.numbers", [0.5, -1.0])
    writer.add_array("x.flags", [True, False, True])
    writer.add_custom_alignment(64)
    shapes = {"one": (3,), "two": (4, 32), "three": (2, 3, 5)}
    for name, shape in shapes.items():
        writer.add_tensor(name, np.full(shape, 2.0, "<f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with path.open("r+b") as file:  # version 3 differs from 2 in allowing big-endian files alone
        file.seek(4)
        file.write(struct.pack("<I", version))
    header = gguf.read_header(path)
    assert header.version == version
    assert {key: header.metadata[f"x.{key}"] for key in kinds} == kinds  # 0.1 is 0.1, not 0.10000000149
    assert header.metadata["x.texts"] == [f"token {i}" for i in range(10_000)]
    assert header.metadata["x.numbers"].tolist() == [0.5, -1.0]
    assert [str(flag) for flag in header.metadata["x.flags"]] == ["True", "False", "True"]
    assert {name: x.shape for name, x in header.tensors.items()} == shapes
    data = path.read_bytes()
    for x in header.tensors.values():
        assert x.offset % 64 == 0 and set(np.frombuffer(data[x.offset : x.end], "<f4")) == {2.0}


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word.encode())) + word.encode()


def tensor(name: str = "w", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def value(kind: int, packed: bytes, key: str = "k") -> bytes:
    return text(key) + struct.pack("<I", kind) + packed


def file(*parts: bytes, n_tensors: int = 0, n_values: int = 0, version: int = 3, numbers: int = 128) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_values) + b"".join(parts)
    return head + bytes(-len(head) % 32 + numbers)


GIANT = (1 << 64) - 1
DAMAGED = {
    "another file": (b"PK\3\4" + bytes(60), "does not begin with GGUF"),
    "nothing": (b"", "cut off: 4 more bytes"),
    "version 1": (file(version=1), "a version 1 GGUF file"),
    "big-endian": (file(version=3 << 24), "a big-endian GGUF file"),
    "49 bytes of giant counts": (file(n_tensors=GIANT, n_values=GIANT)[:49], "18,446,744,073,709,551,615 tensors"),
    "many values": (file(n_values=1 << 32), "4,294,967,296 values in "),
    "more values than any file has": (file(n_values=20_000, numbers=300_000), "20,000 values in "),
    "giant key": (file(struct.pack("<Q", GIANT), n_values=1), "a key is 18,446,744,073,709,551,615 bytes"),
    "long key": (file(text("k" * 2000), n_values=1), "a key is 2,000 bytes"),
    "giant text": (file(value(8, struct.pack("<Q", 1 << 40)), n_values=1), "1,099,511,627,776 bytes of text"),
    "giant list": (file(value(9, struct.pack("<IQ", 0, 1 << 40)), n_values=1), "1,099,511,627,776 numbers in "),
    "giant list of texts": (file(value(9, struct.pack("<IQ", 8, 1 << 40)), n_values=1), "1,099,511,627,776 texts"),
    "overflowing list": (file(value(9, struct.pack("<IQ", 12, 1 << 61)), n_values=1), "numbers in "),
    "text in a list": (
        file(value(9, struct.pack("<IQQ", 8, 2, GIANT)), n_values=1),
        "18,446,744,073,709,551,615 more bytes",
    ),
    "list of lists": (file(value(9, struct.pack("<IQIQ", 9, 1, 9, 1)), n_values=1), "a list of lists"),
    "unknown type": (file(value(13, bytes(8)), n_values=1), "a value of type 13; expected types 0 to 12"),
    "not UTF-8": (file(value(8, struct.pack("<Q", 2) + b"\xff\xfe"), n_values=1), "is not UTF-8"),
    "two values": (file(value(7, b"\1") * 2, n_values=2), "two values of 'k'"),
    "alignment 0": (file(value(4, bytes(4), "general.alignment"), n_values=1), "alignment is 0; expected a power"),
    "alignment 48": (
        file(value(4, b"\x30\0\0\0", "general.alignment"), n_values=1),
        "alignment is 48; expected a power",
    ),
    "alignment text": (file(value(8, text("8"), "general.alignment"), n_values=1), "alignment is 8; expected a power"),
    "two tensors": (file(tensor(), tensor(), n_tensors=2, numbers=256), "two tensors 'w'"),
    "no axes": (file(tensor(dims=()), n_tensors=1), "has 0 axes"),
    "five axes": (file(tensor(dims=(1, 1, 1, 1, 32)), n_tensors=1), "has 5 axes; expected 1 to 4"),
    "giant axes": (file(tensor(dims=(GIANT,) * 4), n_tensors=1), "cut off"),
    "empty axis": (file(tensor(dims=(32, 0)), n_tensors=1), r"is \(0, 32\)"),
    "half a block": (file(tensor(dims=(48,), kind=8), n_tensors=1), "Q8_0 has rows of a multiple of 32"),
    "unsupported": (file(tensor(kind=16), n_tensors=1), "'w': its numbers are of type IQ2_XXS; expected one of"),
    "cut off": (file(tensor(), n_tensors=1)[:-1], r"ends at byte 192"),
    "outside": (file(tensor(offset=32), n_tensors=1), "cut off"),
    "overflowing offset": (file(tensor(offset=GIANT - 31), n_tensors=1), "cut off"),
    "not aligned": (file(tensor(offset=8), n_tensors=1, numbers=256), "not aligned to 32"),
    "over another": (
        file(tensor("a"), tensor("b", offset=96), n_tensors=2, numbers=256),
        "tensors 'a' and 'b' overlap",
    ),
}


@pytest.mark.parametrize("data, says", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_told_in_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(FathomError, match=says) as raised:
        gguf.read_header(tmp_path / "x.gguf")
    assert str(raised.value).startswith(f"{tmp_path / 'x.gguf'}: ")


def test_the_same_bytes_undamaged_are_read(tmp_path: Path) -> None:
    """So that the tests above fail for the reason they name."""
    values = value(8, text("x")) + value(9, struct.pack("<IQ", 8, 2) + text("a") + text("b"), "l")
    data = file(values, tensor("a"), tensor("b", (32, 2), 8, 128), n_tensors=2, n_values=2, numbers=128 + 68)
    (tmp_path / "x.gguf").write_bytes(data)
    header = gguf.read_header(tmp_path / "x.gguf")
    assert header.metadata == {"k": "x", "l": ["a", "b"]}
    assert {name: (x.shape, x.kind.name, x.nbytes) for name, x in header.tensors.items()} == {
        "a": ((32,), "F32", 128),
        "b": ((2, 32), "Q8_0", 68),
    }


def test_more_text_than_any_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short texts take many times their bytes in memory: the sum is bounded, not each alone."""
    monkeypatch.setattr(gguf, "TEXT_BUDGET", 100_000)
    data = file(value(9, struct.pack("<IQ", 8, 2000) + text("東京") * 2000), n_values=1)
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(FathomError, match="longer than those of any vocabulary"):
        gguf.read_header(tmp_path / "x.gguf")


def broken_pieces() -> list[np.ndarray[Any, Any]]:
    raise FathomError("the numbers are gone")


@pytest.mark.parametrize(
    "pieces, metadata, says",
    [
        (broken_pieces, {}, "tensor 'w': the numbers are gone"),
        (list, {}, r"'w': it has 0 bytes; \(32,\) of F32 is 128"),
        (list, {"k": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_a_write_that_fails_changes_nothing(
    tmp_path: Path, pieces: Callable[[], Any], metadata: dict[str, Any], says: str
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"before")
    with pytest.raises(FathomError, match=says):
        gguf.write(path, metadata, {"w": gguf.Outgoing((32,), F32, pieces)})
    assert [(x.name, x.read_bytes()) for x in tmp_path.iterdir()] == [("x.gguf", b"before")]


@pytest.mark.parametrize(
    "count", [pytest.param(2000, id="few"), pytest.param(10_000, id="many", marks=pytest.mark.slow)]
)
def test_damaged_headers(tmp_path: Path, count: int) -> None:
    tensors = {name: outgoing(np.ones(shape, "<f4")) for name, shape in {"one": (5,), "two": (2, 3)}.items()}
    gguf.write(tmp_path / "x.gguf", VALUES | NUMBERS, tensors)
    survive(gguf.read_header, tmp_path / "x.gguf", count)
