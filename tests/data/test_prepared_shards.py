"""Shards hang on the call alone: not on how many processes there are, nor on when they were killed."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fathom
from fathom.cli.main import main
from fathom.data import batches, inputs
from fathom.data.batches import Batches
from fathom.data.shard_worker import held_out
from fathom.data.shards import Joined, TokenFile, open_shards
from fathom.data.token_file import write_tokens
from fathom.errors import FathomError
from tests.data.prepared import TEXTS, as_gzip, as_lines, as_parquet, as_zstandard

PROGRAM = """
import sys
import fathom
from fathom.cli.main import main
from fathom.data import inputs
inputs.SMALLEST = 40_000
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind."""
    folder = tmp_path_factory.mktemp("texts")
    as_parquet(folder / "a.parquet", TEXTS[:20])
    as_lines(folder / "b.jsonl", TEXTS[20:50])
    as_zstandard(folder / "c.jsonl.zst", TEXTS[50:60])
    as_gzip(folder / "d.jsonl.gz", TEXTS[60:])
    (folder / "e.txt").write_text("\n\n".join(TEXTS[:30]))
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "SMALLEST", 40_000)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def started(texts: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    """`fathom prepare` in a process group of its own."""
    command = [sys.executable, "-c", PROGRAM, "prepare", str(texts), "--tokenizer", "bpe:400", "-o", str(out), *more]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokens as one process makes them."""
    out = tmp_path_factory.mktemp("whole") / "tokens"
    process = started(texts, out, "--workers", "1", "--val-fraction", "0.2")
    assert process.wait(timeout=120) == 0, process.communicate()
    return out


def test_any_number_of_processes_makes_the_same_bytes(texts: Path, whole: Path, tmp_path: Path) -> None:
    for workers in (2, 3):
        out = tmp_path / f"by-{workers}"
        fathom.prepare(str(texts), "bpe:400", out, workers=workers, val_fraction=0.2)
        assert content(out) == content(whole)
    names = {name.partition("-")[0] for name in content(whole)}
    assert names == {"manifest.json", "plan.json", "tokenizer.json", "train", "val"}
    assert len(open_shards(whole).about.shards) == 10


def test_every_document_is_there_once_with_its_end(texts: Path, whole: Path) -> None:
    """Against the library itself, on whole documents; a text's stretches but for the ends where one was taken out."""
    shards = open_shards(whole)
    hf = shards.tokenizer().hf  # type: ignore[attr-defined]
    end = shards.tokenizer().eos
    found = {part: Counter(tuple(ids) for ids in divided_at(shards.tokens(part)[:], end)) for part in ("train", "val")}
    expected = Counter(tuple(hf.encode(text, add_special_tokens=False).ids) for text in TEXTS)
    everything = found["train"] + found["val"]
    assert all(everything[ids] >= count for ids, count in expected.items())
    held = Counter(tuple(hf.encode(text).ids) for text in TEXTS if held_out(text, 0.2))
    assert held and all(found["val"][ids] == count and not found["train"][ids] for ids, count in held.items())
    rest = everything - expected
    assert sum(map(len, rest.elements())) == pytest.approx(len(hf.encode("\n\n".join(TEXTS[:30])).ids), rel=1e-3)


def divided_at(ids: "np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]", end: int | None) -> list[list[int]]:  # type: ignore[type-arg]
    places = np.flatnonzero(ids == end)
    assert places[-1] == len(ids) - 1
    return [part[:-1].tolist() for part in np.split(ids, places + 1)[:-1]]


def test_copies_are_held_out_together(tmp_path: Path) -> None:
    """Whatever the order, the file and the number of processes."""
    lines = [f"text {n}\n" * 50 for n in range(200)]
    for name, order in (("a", lines), ("b", lines[::-1]), ("c", lines * 2)):
        as_lines(tmp_path / f"{name}.jsonl", order)
        fathom.prepare(str(tmp_path / f"{name}.jsonl"), "byte", tmp_path / name, val_fraction=0.25, workers=1)
    parts = {}
    for name in "abc":
        shards = open_shards(tmp_path / name)
        val = bytes(shards.tokens("val")[:].tolist()).decode()
        parts[name] = {line for line in val.split("\n") if line}
        train = bytes(shards.tokens("train")[:].tolist()).decode().split("\n")
        assert not parts[name] & {*train} and 25 <= len(parts[name]) <= 75
    assert parts["a"] == parts["b"] == parts["c"]


def killed_and_run_again(texts: Path, out: Path, whole: Path, times: int) -> int:
    """Kill all processes at random moments, from before the first shard to after the last; the same bytes in the end.

    Returns how often shards were left unfinished.
    """
    choose, left = random.Random(times), 0
    process, begin = started(texts, out, "--workers", "2", "--val-fraction", "0.2"), time.monotonic()
    while not (out / "plan.json").exists():
        assert process.poll() is None
    first = time.monotonic() - begin
    process.communicate(timeout=120)
    duration = time.monotonic() - begin
    for number in range(times):
        if (out / "manifest.json").is_file():
            shutil.rmtree(out)
        earliest = first if not out.exists() else first / 2
        process = started(texts, out, "--workers", str(1 + number % 3), "--val-fraction", "0.2")
        time.sleep(choose.uniform(earliest, duration))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            left += (out / "plan.json").is_file() and not (out / "manifest.json").is_file()
        process.communicate()
        if number % 3 == 2 or (out / "manifest.json").is_file():
            process = started(texts, out, "--workers", "2", "--val-fraction", "0.2")
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert content(out) == content(whole), number
    return left


def test_killed_and_run_again_gives_the_same_bytes(texts: Path, whole: Path, tmp_path: Path) -> None:
    killed_and_run_again(texts, tmp_path / "tokens", whole, times=3)


@pytest.mark.slow
def test_killed_at_fifty_moments_and_run_again(texts: Path, whole: Path, tmp_path: Path) -> None:
    assert killed_and_run_again(texts, tmp_path / "tokens", whole, times=50) >= 10


@pytest.mark.parametrize("finished", [0, 1, 5])
def test_finished_shards_are_kept(finished: int, texts: Path, whole: Path, tmp_path: Path) -> None:
    """As after a kill: without the manifest, and of the others no description."""
    out = shutil.copytree(whole, tmp_path / "tokens")
    about = json.loads((out / "manifest.json").read_text())["shards"]
    (out / "manifest.json").unlink()
    for number, shard in enumerate(about):
        if number < finished:
            (out / f"shard-{number:05}.json").write_text(json.dumps(shard))
        elif number % 2:
            (out / shard["train"]["name"]).unlink()
    (out / ".train-00009.npy.0123abcd.partial").write_bytes(b"left by a kill")
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("train-*")}
    fathom.prepare(str(texts), "bpe:400", out, val_fraction=0.2)
    assert content(out) == content(whole)
    for number in range(finished):
        assert (out / f"train-{number:05}.npy").stat().st_mtime_ns == kept[f"train-{number:05}.npy"]


def worker_of(pid: int) -> int | None:
    """A process that this one has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_worker_that_is_killed_alone_is_named(texts: Path, whole: Path, tmp_path: Path) -> None:
    process = started(texts, tmp_path / "tokens", "--workers", "1", "--val-fraction", "0.2")
    while (worker := worker_of(process.pid)) is None:
        assert process.poll() is None
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    line = err.splitlines()[-1]
    assert process.returncode == 2 and f"worker 1 (process {worker}) was ended by SIGKILL while it tokenised " in line
    again = started(texts, tmp_path / "tokens", "--workers", "2", "--val-fraction", "0.2")
    assert again.wait(timeout=120) == 0 and content(tmp_path / "tokens") == content(whole)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_workers_end_with_the_process_that_started_them(texts: Path, tmp_path: Path) -> None:
    process = started(texts, tmp_path / "tokens", "--workers", "1")
    while (worker := worker_of(process.pid)) is None:
        assert process.poll() is None
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_that_waits_ends_with_its_input(whole: Path) -> None:
    command = [sys.executable, "-m", "fathom.data.shard_worker", str(whole)]
    assert subprocess.run(command, input="", text=True, timeout=60).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_it_goes_on(number: signal.Signals, texts: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    process = started(texts, out, "--workers", "1", "--val-fraction", "0.2")
    while not list(out.glob("shard-*")):
        assert process.poll() is None
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        return  # it was faster
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == f"stopped; run the same command again to go on in {out}"
    assert not list(out.glob(".*"))
    assert started(texts, out, "--workers", "2", "--val-fraction", "0.2").wait(timeout=120) == 0
    assert content(out) == content(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_is_one_line_and_it_goes_on(texts: Path, whole: Path, tmp_path: Path) -> None:
    out, limit = tmp_path / "tokens", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, limit[1]))  # a file of more bytes cannot be written
    try:
        process = started(texts, out, "--workers", "1", "--val-fraction", "0.2")
        _, err = process.communicate(timeout=60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert process.returncode == 2 and "cannot be written (file too large)" in err.splitlines()[-1]
    assert not out.exists() or not [*out.glob(".*"), *out.glob("manifest*")]
    assert started(texts, out, "--workers", "2", "--val-fraction", "0.2").wait(timeout=120) == 0
    assert content(out) == content(whole)


def test_a_file_that_was_corrected_is_read_again_and_the_others_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(4):
        as_lines(folder / f"{number}.jsonl", TEXTS[20 * number : 20 * number + (20 if number < 3 else 2)])
    good = (folder / "3.jsonl").read_text()
    (folder / "3.jsonl").write_text(good.replace('"text"', '"txt"'))
    with pytest.raises(FathomError, match=r"3.jsonl, line \d+: no field 'text'.* shards are finished: run the same"):
        fathom.prepare(str(folder), "byte", tmp_path / "tokens", workers=1)
    before = (tmp_path / "tokens" / "train-00000.npy").stat().st_mtime_ns
    (folder / "3.jsonl").write_text(good)
    with (folder / "1.jsonl").open("a") as file:  # whose shard is finished
        file.write('{"text": "a line more"}\n')
    fathom.prepare(str(folder), "byte", tmp_path / "tokens", workers=1)
    fathom.prepare(str(folder), "byte", tmp_path / "fresh", workers=1)
    assert content(tmp_path / "tokens") == content(tmp_path / "fresh")
    assert (tmp_path / "tokens" / "train-00000.npy").stat().st_mtime_ns == before
    (folder / "3.jsonl").write_text(good + "\n")
    with pytest.raises(FathomError, match="is finished, and files of its data have changed since"):
        fathom.prepare(str(folder), "byte", tmp_path / "tokens", workers=1)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A file of 64 MB in one part needs no more memory than one of 1 MB, but for a little."""
    import gzip

    peaks = []
    for size in (1, 64):
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a line of text\n" * (size * 66_667), 1))
        command = [sys.executable, "-c", PROGRAM, "prepare", f"{tmp_path}/a.txt.gz", "--tokenizer", "byte"]
        done = subprocess.run(
            ["python3", "-c", "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)",
             *command, "-o", f"{tmp_path}/{size}", "--workers", "1"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]))
        assert open_shards(tmp_path / str(size)).count("train")[0] > 0.9e6 * size
    assert peaks[1] - peaks[0] < 20_000  # KiB


def test_joined_files_are_as_one(tmp_path: Path) -> None:
    random_ids = np.random.default_rng(0).integers(300, size=1000).astype(np.uint16)
    cuts = [0, 1, 1, 400, 407, 1000]
    files = []
    for number, (start, stop) in enumerate(pairwise(cuts)):
        write_tokens(tmp_path / f"{number}.npy", [random_ids[start:stop]], np.dtype(np.uint16))
        files.append(TokenFile(f"{number}.npy", stop - start, 1, ""))
    joined = Joined(tmp_path, files, np.dtype(np.uint16))
    assert len(joined) == 1000 and joined.max() == random_ids.max()
    for start in (0, 1, 5, 399, 400, 406, 407, 999, 1000, -3):
        for stop in (0, 1, 2, 400, 401, 410, 1000, 2000, -1):
            assert (joined[start:stop] == random_ids[start:stop]).all() and joined[start:stop].dtype == np.uint16
    for one, other in ((Batches(joined, 8, 16, 3), Batches(random_ids, 8, 16, 3)),):
        assert all((one.at(step) == other.at(step)).all() for step in range(40))


def test_very_many_windows_are_visited_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.arange(5000, dtype=np.uint16)
    kept = [Batches(ids, 4, 10, 7).at(step).tolist() for step in range(3)]
    monkeypatch.setattr(batches, "LARGE", 100)
    large = Batches(ids, 4, 10, 7)
    n = large.n_windows
    starts = [int(row[0]) for step in range(0, n // 10 * 2) for row in large.at(step)]
    for epoch in (starts[:n], starts[n : 2 * n]):
        assert len({*epoch}) == len(epoch) and {start % 4 for start in epoch} == {epoch[0] % 4}
    assert starts[:n] != starts[n : 2 * n] and large.at(5).tolist() == Batches(ids, 4, 10, 7).at(5).tolist()
    assert kept != [large.at(step).tolist() for step in range(3)]


def test_help_and_workers_do_not_load_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from fathom.cli.main import main; import fathom.data.shard_worker; main(['prepare', '-h']);"
        " print('loaded', *({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded", done.stderr


def test_the_command_line_says_what_was_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    as_lines(tmp_path / "a.jsonl", TEXTS)
    call = ["prepare", f"{tmp_path}/a.jsonl=1", "--tokenizer", "byte", "-o", f"{tmp_path}/tokens", "--json"]
    assert main(call) == main(call) == 0
    first, second = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert (
        first == second and first["finished"] and first["train"]["documents"] + first["val"]["documents"] == len(TEXTS)
    )
