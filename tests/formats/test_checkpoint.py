"""What is found again, what is refused and what is kept; faults in the middle of a save have files of their own."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fathom.errors import FathomError
from fathom.formats import checkpoint
from tests.formats.saving import check, contents, files, good, prepare


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare(tmp_path / "run" / "checkpoints")


def damage(path: Path) -> None:
    """Change one bit of the model, keeping its size."""
    data = bytearray((path / "model.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "model.bin").write_bytes(data)


def test_what_was_saved_is_found(folder: Path) -> None:
    path = checkpoint.save(folder, 300, files(300))
    assert path == folder / "step-00000300"
    assert checkpoint.latest(folder) == checkpoint.Checkpoint(path, 300, ())
    assert (path / "state.json").read_bytes() == files(300)["state.json"]
    assert set(json.loads((path / "manifest.json").read_text())["files"]) == {"model.bin", "state.json", "config.yaml"}


def test_the_manifest_is_what_sha256sum_says(folder: Path) -> None:
    path = checkpoint.latest(folder).path
    listed = json.loads((path / "manifest.json").read_text())["files"]
    for name, entry in listed.items():
        said = subprocess.run(["sha256sum", path / name], capture_output=True, text=True, check=True).stdout
        assert said.split()[0] == entry["sha256"] and (path / name).stat().st_size == entry["size"]


@pytest.mark.parametrize("keep", [2, 3])
def test_the_newest_are_kept_and_those_protected(folder: Path, keep: int) -> None:
    for step in range(300, 800, 100):
        checkpoint.save(folder, step, files(step), keep, protect=(200, 400))
    assert checkpoint.steps(folder) == sorted({200, 400, *range(700, 700 - 100 * keep, -100)})


def test_steps_are_numbers_and_not_text(tmp_path: Path) -> None:
    for step in (0, 99_999_999, 100_000_000):
        checkpoint.save(tmp_path, step, files(step), keep=3)
    assert checkpoint.latest(tmp_path).step == 100_000_000
    assert checkpoint.steps(tmp_path) == [0, 99_999_999, 100_000_000]


def test_a_damaged_one_is_skipped_and_named(folder: Path) -> None:
    damage(folder / "step-00000200")
    found = checkpoint.latest(folder)
    assert found.step == 100
    ((path, reason),) = found.skipped
    assert path == folder / "step-00000200" and "model.bin is damaged" in reason


def test_a_damaged_one_does_not_count_as_kept(folder: Path) -> None:
    damage(folder / "step-00000200")
    checkpoint.save(folder, 150, files(150))
    assert sorted(good(folder)) == [100, 150]
    checkpoint.save(folder, 200, files(200, "again"))
    assert sorted(good(folder)) == [150, 200] == checkpoint.steps(folder)


def test_the_same_step_again_takes_the_place_of_the_first(folder: Path) -> None:
    checkpoint.save(folder, 200, files(200, "again"))
    assert contents(checkpoint.latest(folder).path)["state.json"] == files(200, "again")["state.json"]
    assert checkpoint.steps(folder) == [100, 200]


def test_one_that_stepped_aside_is_found_where_none_took_its_place(folder: Path) -> None:
    before = good(folder)
    (folder / "step-00000200").rename(folder / "step-00000200.replaced")
    assert checkpoint.latest(folder).step == 200
    check(folder, before, {}, "stepped aside")


def test_a_stale_partial_is_in_nobodys_way(folder: Path) -> None:
    before = good(folder)
    shutil.copytree(folder / "step-00000200", folder / "step-00000300.partial")  # looks whole, was never given its name
    (folder / "step-00000300.partial" / "deeper").mkdir()
    assert checkpoint.latest(folder).step == 200
    path = checkpoint.save(folder, 300, files(300))
    assert {file.name for file in path.iterdir()} == {*files(300), "manifest.json"}
    check(folder, before, {300: contents(path)}, "stale")


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, {"a.bin": bytes(range(40)), "empty": b""})
    for file in path.iterdir():
        data = file.read_bytes()
        for place, bit in ((place, bit) for place in range(len(data)) for bit in (0, 5)):
            changed = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            file.write_bytes(changed)
            if not harmless(file, changed, data):
                with pytest.raises(FathomError, match=path.name):
                    checkpoint.verify(path)
        file.write_bytes(data)
    checkpoint.verify(path)


def harmless(file: Path, changed: bytes, data: bytes) -> bool:
    """White space of another kind says the same."""
    try:
        return file.suffix == ".json" and json.loads(changed) == json.loads(data)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["model.bin", "manifest.json"])
def test_any_cut_is_noticed(folder: Path, name: str) -> None:
    file = folder / "step-00000200" / name
    for size in range(file.stat().st_size - 1, -1, -50):
        os.truncate(file, size)
        with pytest.raises(FathomError, match=name):
            checkpoint.verify(file.parent)


@pytest.mark.parametrize("name", ["model.bin", "state.json", "manifest.json"])
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / "step-00000200" / name).unlink()
    with pytest.raises(FathomError, match=f"{name} is missing"):
        checkpoint.verify(folder / "step-00000200")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["empty", "manifest.json"])
def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path, name: str) -> None:
    file = checkpoint.save(tmp_path, 1, {"empty": b""}) / name  # the size of a pipe is 0 too
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(FathomError, match=f"{name} is missing"):
        checkpoint.verify(file.parent)


DIGEST = "0" * 64
MANIFESTS = [
    *(b"", b"[]", b"{}", b"null", b"\xff", b'{"files": []}', b'{"files": {"a": 1}}', b'{"files": {"a": {"size": 1}}}'),
    *(b"[" * 200_000, b'{"files": {}}' + b" " * (1 << 20) + b"x", b'{"files": ' + b"9" * 10_000 + b"}"),
    *(
        json.dumps({"files": {n: {"size": 0, "sha256": DIGEST}}}).encode()
        for n in ("../x", "/etc/passwd", "", "..", "a\0")
    ),
    *(json.dumps({"files": {n: {"size": 0, "sha256": DIGEST}}}).encode() for n in ("x" * 300, "state.json")),
]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: repr(manifest[:30]))
def test_a_foreign_manifest_is_one_line(folder: Path, manifest: bytes) -> None:
    (folder / "step-00000200" / "manifest.json").write_bytes(manifest)
    with pytest.raises(FathomError) as caught:
        checkpoint.verify(folder / "step-00000200")
    assert "step-00000200" in str(caught.value) and "\n" not in str(caught.value)
    assert checkpoint.latest(folder).step == 100


def test_none_and_none_that_holds_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FathomError, match="no checkpoint in"):
        checkpoint.latest(tmp_path / "nowhere")
    for step in checkpoint.steps(folder):
        damage(folder / f"step-{step:08d}")
    with pytest.raises(FathomError, match=r"none of 2 .*step-00000200/model.bin is damaged"):
        checkpoint.latest(folder)


def lazy(path: Path) -> None:
    """A writer that writes nothing."""


def broken(path: Path) -> None:
    path.write_bytes(b"half")
    raise OSError("the cable is out")


BAD_FILES: dict[str, dict[str, checkpoint.Content]] = {
    "a writer that fails": {"model.bin": b"", "state.json": broken},
    "a writer that writes nothing": {"model.bin": lazy},
    "a name that is a path": {"../model.bin": b""},
    "the name of the manifest": {"manifest.json": b""},
}


@pytest.mark.parametrize("bad", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_save_that_fails_leaves_no_trace(folder: Path, bad: dict[str, checkpoint.Content]) -> None:
    before = good(folder)
    with pytest.raises(FathomError, match=r"no checkpoint of step 300 .* untouched"):
        checkpoint.save(folder, 300, bad)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000100", "step-00000200"]
    check(folder, before, {}, "failed")


def test_a_mistake_in_a_writer_is_not_taken_for_a_full_disk(folder: Path) -> None:
    def mistaken(path: Path) -> None:
        raise KeyError("blocks")

    with pytest.raises(KeyError):
        checkpoint.save(folder, 300, {"model.bin": mistaken})
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000100", "step-00000200"]


def test_keeping_one_is_refused(folder: Path) -> None:
    with pytest.raises(FathomError, match="keep is 1"):
        checkpoint.save(folder, 300, files(300), keep=1)
    assert checkpoint.steps(folder) == [100, 200]


@contextmanager
def no_file_above_4_kib() -> Iterator[None]:
    """Within the block alone: what pytest writes is a file too, where its output goes into one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_real_limit_on_the_size_of_files(folder: Path) -> None:
    before = good(folder)
    with no_file_above_4_kib(), pytest.raises(FathomError, match=r"no checkpoint of step 300 .* too large"):
        checkpoint.save(folder, 300, {**files(300), "large.bin": bytes(8192)})
    check(folder, before, {}, "too large")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here; the limit on file sizes and the injected faults cover it")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    folder = small_disk / "checkpoints"
    checkpoint.save(folder, 1, {"model.bin": b"small"})
    checkpoint.save(folder, 2, {"model.bin": bytes(25_000)})
    before = good(folder)
    for _ in range(2):  # what the first attempt wrote is gone before the second
        with pytest.raises(FathomError, match="No space left"):
            checkpoint.save(folder, 3, {"model.bin": bytes(45_000)})
        assert good(folder) == before and len(list(folder.iterdir())) == 2
    checkpoint.save(folder, 3, {"model.bin": b"small"})
    assert sorted(good(folder)) == [2, 3]
