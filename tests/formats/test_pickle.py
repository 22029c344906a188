"""Files of torch.save: every tensor as torch itself loads it, and of what is no tensor, nothing at all."""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fathom.errors import FathomError
from fathom.formats.torch_file import open_pickle
from tests.formats.torch_files import Call, pickled, storage, tensor, write
from tests.mutants import survive

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def same(path: Path, inner: str | None = None) -> dict[str, Tensor]:
    """What we read, once it is seen to be what torch reads."""
    theirs = torch.load(path, weights_only=False)  # it knows no more than protocol 3 otherwise
    theirs = theirs if inner is None else theirs[inner]
    ours = {name: stored.read() for name, stored in open_pickle(path).items()}
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype and ours[name].stride() == expected.stride()
        assert torch.equal(ours[name], expected)
    return ours


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_tensor_is_what_torch_loads(tmp_path: Path, protocol: int) -> None:
    state: dict[str, Any] = {str(dtype): torch.randn(3, 5).mul(9).to(dtype) for dtype in DTYPES}
    base = torch.randn(7, 6)
    state |= {"scalar": torch.tensor(2.5), "turned": torch.randn(4, 3, 2).permute(2, 0, 1), "T": base.T, "again": base}
    state |= {"rows": base[2:5], "learned": nn.Parameter(torch.randn(2, 2)), "one row": base[:, None, :]}
    torch.save(OrderedDict(state), tmp_path / "x.pth", pickle_protocol=protocol)
    same(tmp_path / "x.pth")


def test_a_modules_state_and_one_dict_among_other_things(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    torch.save(state, tmp_path / "a.pth")
    same(tmp_path / "a.pth")
    torch.save({"epoch": 3, "lr": 0.1, "done": [1, None], "model": state}, tmp_path / "b.pth")
    same(tmp_path / "b.pth", "model")


def test_two_names_of_the_same_numbers_are_one(tmp_path: Path) -> None:
    table = torch.randn(5, 4)
    torch.save({"a": table, "b": table.detach(), "c": table[1:], "d": table.clone()}, tmp_path / "x.pth")
    found = open_pickle(tmp_path / "x.pth")
    assert found["a"] is found["b"]
    assert len({id(stored) for stored in found.values()}) == 3


def test_shapes_and_sizes_are_known_unread(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3, 5, dtype=torch.bfloat16)}, tmp_path / "x.pth")
    stored = open_pickle(tmp_path / "x.pth")["a"]
    assert (stored.shape, stored.kind, stored.nbytes) == ((3, 5), "BF16", 30)


def test_numbers_are_mapped_and_the_file_never_changes(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pth")
    before = (tmp_path / "x.pth").read_bytes()
    read = open_pickle(tmp_path / "x.pth")["a"].read()
    assert str(tmp_path / "x.pth") in Path("/proc/self/maps").read_text()
    read.add_(1)
    assert read.sum() == 1000 and (tmp_path / "x.pth").read_bytes() == before


@pytest.mark.parametrize("limit", [None, 20], ids=["32 bits", "64 bits"])
def test_zips_of_other_writers(tmp_path: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers begin anywhere; with a limit of 20 bytes, sizes and offsets are in 64 bits, as in files over 4 GiB."""
    if limit is not None:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    numbers = torch.randn(3, 4)
    for length in range(1, 5):
        pickle = pickled({"a" * length: tensor()})
        path = write(tmp_path / f"{length}.pth", pickle, {"data/0": numbers.numpy().tobytes()})
        assert (b"PK\6\6" in path.read_bytes()) == (limit is not None)
        read = open_pickle(path)["a" * length].read()
        assert torch.equal(read, numbers) and read.data_ptr() % 4 == 0


def test_what_a_crash_left_out_is_told_when_it_is_read(tmp_path: Path) -> None:
    """Sizes are checked at once, numbers by their CRC before the first of them is used."""
    torch.save({"a": torch.ones(3), "b": torch.full((5,), 7.0)}, tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(data.replace(struct.pack("<f", 7.0), struct.pack("<f", 8.0), 1))
    found = open_pickle(tmp_path / "x.pth")
    assert found["a"].read().sum() == 3
    with pytest.raises(FathomError, match="'x/data/1' is damaged: its CRC"):
        found["b"].read()


def run_me(*_: Any) -> None:
    raise AssertionError("the pickle was run")


class Anything:
    """Not a tensor."""


NO_TENSOR = "expected only tensors"
HOSTILE: list[tuple[Any, str]] = [
    ({"a": Call(os.system, ("true",))}, r"asks for '(posix|nt).system'; expected only tensors; do not trust it"),
    ({"a": Call(run_me, ())}, "asks for '.*run_me'"),
    ({"a": Anything()}, "asks for '.*Anything'"),
    ({"a": Call(OrderedDict, ([("a", 1)],))}, "calls 'collections OrderedDict' with arguments"),
    ({"a": Call(torch._utils._rebuild_parameter, (1, 2, 3))}, "calls 'torch._utils _rebuild_parameter'"),
    ({"a": Call(torch.FloatStorage, (1 << 40,))}, "calls 'torch FloatStorage'"),
    ({"a": {1, 2}}, "asks for 'builtins.set'|'__builtin__.set'"),
    ({"a": 1 << 3000}, "has a step LONG4"),
    ({"a": b"bytes"}, "asks for '_codecs.encode'"),
    ({("a",): 1}, "not a dict with text as keys"),
    ({"a": storage()}, "holds no dict of tensors"),
    ({"a": tensor(), "b": 3}, "'b' is int; expected a tensor"),
    ({"a": tensor(), "b": {"c": tensor()}}, "'b' is dict; expected a tensor"),
    ({"a": {"c": tensor()}, "b": {"c": tensor()}}, "2 dicts of tensors"),
    ({1: tensor()}, "has the name '1'"),
    ({"a" * 300: tensor()}, "has the name 'a+'"),
    ({}, "no dict of tensors"),
    (tensor(), "no dict of tensors"),
    ([tensor()], "no dict of tensors"),
    ({"a": tensor(source=storage(word="module"))}, "not a storage of numbers"),
    ({"a": tensor(source=storage(numel=-1))}, "not a storage of numbers"),
    ({"a": tensor(source=storage(numel=1.5))}, "not a storage of numbers"),
    ({"a": tensor(source=storage(key=0.5))}, "not a storage of numbers"),
    ({"a": tensor(source=storage(kind=OrderedDict))}, "not a storage of numbers"),
    ({"a": tensor(source=storage(key="../../etc/passwd"))}, "storage '../../etc/passwd' is missing"),
    ({"a": tensor(source=storage(numel=13))}, "has 48 bytes; expected 13 numbers of 4 bytes"),
    ({"a": tensor(source=storage(kind=torch.HalfStorage))}, "has 48 bytes; expected 12 numbers of 2 bytes"),
    ({"a": tensor(offset=1)}, "needs 12 numbers from 1 on; its storage has 12"),
    ({"a": tensor(offset=1 << 62)}, "needs 12 numbers from"),
    ({"a": tensor(offset=-1)}, "calls 'torch._utils _rebuild_tensor_v2' with"),
    ({"a": tensor(offset=1 << 64)}, "calls 'torch._utils _rebuild_tensor_v2' with"),
    ({"a": tensor(offset=True)}, "calls 'torch._utils _rebuild_tensor_v2' with"),
    ({"a": tensor(shape=(3, -4))}, "calls 'torch._utils _rebuild_tensor_v2' with"),
    ({"a": tensor(shape=(3, 4), stride=(1,))}, "calls 'torch._utils _rebuild_tensor_v2' with"),
    ({"a": tensor(shape=(1,) * 9, stride=(1,) * 9)}, "calls 'torch._utils _rebuild_tensor_v2' with"),
    ({"a": tensor(shape=(1 << 20, 1 << 20), stride=(0, 0))}, "in steps of .0, 0.; expected every number once"),
    ({"a": tensor(shape=(1 << 62, 1 << 62), stride=(1 << 62, 1))}, "needs .* numbers"),
    ({"a": tensor(shape=(11, 2), stride=(1, 1))}, "expected every number once"),
    ({"a": tensor(shape=(2, 3), stride=(4, 1))}, "expected every number once"),
    ({"a": tensor(shape=(0, 4), stride=(4, 1))}, "expected every number once"),
]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("value, says", HOSTILE, ids=lambda x: x[:40] if isinstance(x, str) else "")
def test_a_pickle_with_anything_but_tensors(tmp_path: Path, value: Any, says: str, protocol: int) -> None:
    path = write(tmp_path / "x.pth", pickled(value, protocol))
    if protocol == 4:
        says = says.replace("has a step LONG4", "LONG4").replace("asks for 'builtins.set'", "has a step EMPTY_SET")
        says = says.replace("asks for '_codecs.encode'", "has a step SHORT_BINBYTES")
    with pytest.raises(FathomError, match=says) as raised:
        open_pickle(path)
    assert str(raised.value).startswith(str(path)) and len(str(raised.value)) < 600


def test_torch_itself_writes_what_seems_4_tb(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 2000
    with pytest.raises(FathomError, match="expected every number once"):
        open_pickle(tmp_path / "x.pth")


STEPS = "expected at most 262144 steps"
PROGRAMS: dict[str, tuple[bytes, str]] = {
    "nested": (b"\x80\x02" + b")" + b"\x85" * 200_000 + b".", "no dict of tensors"),
    "nested as a key": (b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.", "not a dict with text as keys"),
    "lists in lists": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "no dict of tensors"),
    "holds itself": (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "no dict of tensors"),
    "each twice the last": (b"\x80\x02)" + b"q\x00h\x00\x86" * 50_000 + b".", "no dict of tensors"),
    "marks": (b"\x80\x02" + b"(" * 1_000_000 + b".", STEPS),
    "dicts": (b"\x80\x02" + b"}" * 1_000_000 + b".", STEPS),
    "a memo of many": (b"\x80\x04" + b"}\x94" * 500_000 + b".", STEPS),
    "8 MiB and more": (
        b"\x80\x02" + b"\x95" + bytes(8) + b"X" + struct.pack("<I", 1 << 23) + bytes(1 << 23),
        "at most 8388608",
    ),
    "a text of 4 GB": (b"\x80\x02X\xff\xff\xff\xffabc.", "is damaged at or after byte 0"),
    "a text of 16 EB": (b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.", "is damaged at or after byte 0"),
    "a place that is empty": (b"\x80\x02h\x07.", "is damaged at or after byte 2"),
    "nothing to take": (b"\x80\x02}\x86.", "is damaged at or after byte 3"),
    "nothing": (b"", "is damaged"),
    "no stop": (b"\x80\x02}", "is damaged"),
    "two values": (b"\x80\x02}}.", "is damaged"),
    "no such step": (b"\x80\x02\xff.", "is damaged"),
    "a number of 4000 digits": (b"L" + b"9" * 4000 + b"L\n.", "has a step LONG at byte 0"),
    "no letters": (b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", "is damaged"),
    "a long name": (b"\x80\x02cos\n" + b"x" * 100_000 + b"\n.", "asks for 'os.xxx"),
    "attributes of a number": (b"\x80\x02K\x01}b.", "attributes of something that is not a dict"),
    "appended to a number": (b"\x80\x02K\x01K\x01a.", "something that is not a list"),
}


@pytest.mark.parametrize("program, says", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_that_go_wrong_or_take_too_much(tmp_path: Path, program: bytes, says: str) -> None:
    with pytest.raises(FathomError, match=says) as raised:
        open_pickle(write(tmp_path / "x.pth", program))
    assert len(str(raised.value)) < 600


def no_zip(data: bytes) -> bytes:
    return b"not a zip at all"


def old_format(data: bytes) -> bytes:
    return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + data


DAMAGED: list[tuple[Any, str]] = [
    (lambda data: data[: len(data) // 2], "cut short"),
    (lambda data: data[:-1], "cut short"),
    (lambda data: b"", "begins with b''"),
    (lambda data: data[:30], "cut short"),
    (no_zip, "begins with b'not '"),
    (old_format, "x.pth: the pickle has a step PERSID"),
    (lambda data: data[:-2] + b"\1\0", "cut short"),
    (
        lambda data: data[:-66] + struct.pack("<Q", 99) + data[-58:],
        r"lists 7 members, the last at byte \d+; expected 99",
    ),
    (lambda data: data[:-58] + struct.pack("<Q", 1 << 60) + data[-50:], "zip directory of 1152921504606846976 bytes"),
    (lambda data: data.replace(b"PK\3\4", b"PK\3\5", 2).replace(b"PK\3\5", b"PK\3\4", 1), "begins no zip member"),
    (lambda data: data.replace(b"/data/0", b"/data/1", 1), "begins no zip member 'x/data/0'"),
    (lambda data: data.replace(b"PK\1\2", b"PK\1\3", 1), "byte 0 of the zip directory begins no entry"),
]


@pytest.mark.parametrize("damage, says", DAMAGED)
def test_damaged_zips(tmp_path: Path, damage: Any, says: str) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(3)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FathomError, match=says):
        open_pickle(path)


FLOATS = {"data/0": bytes(48)}


def test_compressed_members(tmp_path: Path) -> None:
    """20 KB that would be 20 MB."""
    zeros = {"data/0": bytes(20 << 20)}
    path = write(tmp_path / "x.pth", pickled({"a": tensor()}), zeros, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 30_000
    with pytest.raises(FathomError, match="is compressed or encrypted"):
        open_pickle(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", pickled({"a": tensor()}), FLOATS)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x/data/0", bytes(48))
    with pytest.raises(FathomError, match="two zip members have the name 'x/data/0'"):
        open_pickle(path)


def test_two_entries_for_the_same_bytes(tmp_path: Path) -> None:
    """Many of them would make a small file seem large."""
    path = write(tmp_path / "x.pth", pickled({"a": tensor()}), FLOATS)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x/data/1", bytes(48))
        file.getinfo("x/data/1").header_offset = file.getinfo("x/data/0").header_offset
    with pytest.raises(FathomError, match="'x/data/0' overlaps the next"):
        open_pickle(path)


def test_an_entry_beyond_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)
    path = write(tmp_path / "x.pth", pickled({"a": tensor()}), FLOATS)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x/data/1", bytes(48))
        file.getinfo("x/data/1").header_offset = (1 << 63) + 5
    with pytest.raises(FathomError, match="3 members, the last at byte 9223372036854775813; expected 3 before byte"):
        open_pickle(path)


def test_a_member_longer_than_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", pickled({"a": tensor(source=storage(numel=1 << 20))}), FLOATS)
    data = path.read_bytes()
    at = data.rindex(b"PK\1\2")
    size = struct.pack("<II", 4 << 20, 4 << 20)
    path.write_bytes(data[: at + 20] + size + data[at + 28 :])
    with pytest.raises(FathomError, match="'x/data/0' overlaps the next at byte"):
        open_pickle(path)


@pytest.mark.parametrize(
    "members, says",
    [
        ({"data/0": bytes(48), "byteorder": b"big"}, "byteorder is not 'little'"),
        ({"data/0": bytes(48), "byteorder": bytes(99)}, "'x/byteorder' is 99 bytes; expected at most 16"),
        ({}, "storage '0' is missing"),
        ({"data/0": bytes(48), "y/data.pkl": b""}, "2 files data.pkl"),
    ],
    ids=["big-endian", "byteorder", "no storage", "two"],
)
def test_other_members(tmp_path: Path, members: dict[str, bytes], says: str) -> None:
    with pytest.raises(FathomError, match=says):
        open_pickle(write(tmp_path / "x.pth", pickled({"a": tensor()}), members))


def test_a_directory_of_great_length(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", pickled({"a": tensor()}), FLOATS)
    with zipfile.ZipFile(path, "a") as file:
        for number in range(40):
            member = zipfile.ZipInfo(f"x/data/{number + 1}")
            member.comment = bytes(60_000)
            file.writestr(member, b"")
    with pytest.raises(FathomError, match="zip directory of 24"):
        open_pickle(path)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(FathomError, match="cannot be read"):
            open_pickle(path)


def read_all(path: Path) -> None:
    for stored in open_pickle(path).values():
        stored.read().sum()


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutants(tmp_path: Path, count: int) -> None:
    state = {"a.weight": torch.randn(3, 4), "b.weight": torch.randn(5).half(), "c.weight": torch.randn(4, 3).T}
    torch.save(OrderedDict(state), tmp_path / "x.pth")
    survive(read_all, tmp_path / "x.pth", count)


@pytest.mark.parametrize("count", [500, pytest.param(5_000, marks=pytest.mark.slow)])
def test_mutants_of_the_pickle_alone(tmp_path: Path, count: int) -> None:
    """With a CRC that holds, so that the damage gets as far as the machine."""
    torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as file:
        program = next(file.read(name) for name in file.namelist() if name.endswith("data.pkl"))
    (tmp_path / "data.pkl").write_bytes(program)
    members = {"data/0": bytes(48), "data/1": bytes(16)}
    survive(lambda path: read_all(write(tmp_path / "x.pth", path.read_bytes(), members)), tmp_path / "data.pkl", count)
