"""`--nproc`: the same command in several processes, with one voice and one end, whatever happens to one of them."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fathom
from fathom.cli.launch import without_nproc
from fathom.cli.main import main
from fathom.formats import checkpoint
from fathom.training.events import read_metrics
from tests.training.runs import TEXT
from tests.training.tuning import base, records

OPTIONS = ["--model.d-model", "16", "--model.n-layer", "1", "--model.n-head", "2", "--context-length", "8"]
OPTIONS += ["--batch-size", "4", "--device", "cpu", "--train.eval-windows", "16", "--train.warmup-steps", "0"]
MOST = 30  # seconds in which all have ended
posix = pytest.mark.skipif(os.name == "nt", reason="signals and process groups of POSIX")


def start(folder: Path, *words: str, kept: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    """A run in two processes that saves after every four steps and does not end, unless these words say so."""
    (folder / "text.txt").write_text(TEXT)
    command = [sys.executable, "-m", "fathom", "train", "--data", "text.txt", "-o", "run", "--nproc", "2", *OPTIONS]
    command += ["--max-iters", "1000000", "--eval-interval", "4", *words]
    return subprocess.Popen(command, cwd=folder, stdout=kept, stderr=kept, text=True)


def ranks(launcher: int) -> dict[int, int]:
    """The processes that a launcher has started, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "environ").read_bytes().split(b"\0") if parent == launcher else []
        except (OSError, IndexError):
            continue
        found.update({int(word[5:]): int(path.name) for word in words if word.startswith(b"RANK=")})
    return found


def until(path: Path, seconds: float = 300) -> None:
    """Wait for a file or folder."""
    ends = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < ends, f"{path} did not come"
        time.sleep(0.02)


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def lines_of(error: str) -> list[str]:
    """What a run that has ended says of it."""
    return [line for line in error.splitlines() if "fathom: " in line or "Traceback" in line or "Error" in line]


def test_the_processes_get_the_other_words() -> None:
    words = ["train", "--nproc", "2", "demo", "--lr", "0.1", "--nproc=3", "--overwrite"]
    assert without_nproc(words) == ["train", "demo", "--lr", "0.1", "--overwrite"]


WRONG = {
    "--nproc 0": "--nproc is '0'; expected a whole number of at least 1",
    "--nproc two": "--nproc is 'two'",
    "--nproc 1000000": "--nproc is 1000000; expected at most",
    "--parallel ddp": "parallel=ddp needs several processes, and this is one",
    "--nproc 2 --lr fast": "--lr is 'fast'",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_call_starts_no_process(words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    out = str(tmp_path / "run")
    assert main(["train", "--data", str(tmp_path / "text.txt"), "-o", out, *words.split()]) == 2
    error = capfd.readouterr().err
    assert WRONG[words] in error and error.count("\n") == 1 and not Path(out).exists()


def test_torchrun_starts_no_launcher(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "4"}
    for name, value in meeting.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--nproc", "2"]) == 2
    assert "--nproc 2 was given, and torchrun has started 4 processes; leave it out" in capfd.readouterr().err
    monkeypatch.setenv("RANK", "4")
    assert main(["train"]) == 2
    assert "the environment has RANK='4'; expected a whole number from 0 to 3" in capfd.readouterr().err


@posix
def test_two_processes_have_one_voice(tmp_path: Path) -> None:
    """And each step is counted once. The run goes on in one process."""
    extra = ("--max-iters", "8", "--json", "--parallel", "fsdp", "--train.sample-interval", "4", "--dtype", "bf16")
    process = start(tmp_path, *extra)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    result = json.loads(out)
    assert out.count("\n") == 1 and (result["step"], result["tokens"], result["exit_code"]) == (8, 8 * 4 * 8, 0)
    lines = [line for line in error.splitlines() if line.strip() and not line.startswith("    ")]
    assert sorted(set(lines)) == sorted(lines) and "parallel fsdp: 2 processes" in error
    measured = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert measured == [*range(1, 9)]
    assert not list(tmp_path.glob(".run*"))
    resumed = fathom.train(out_dir=tmp_path / "run", mode="resume", max_iters=10)
    assert (resumed.step, resumed.tokens) == (10, 10 * 4 * 8)


@posix
def test_ctrl_c_stops_all_at_one_step(tmp_path: Path) -> None:
    process = start(tmp_path)
    until(tmp_path / "run" / "checkpoints" / "step-00000004")
    children = ranks(process.pid)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error.count("stopped at step") == 1 and not lines_of(error)
    assert "continue: fathom train --nproc 2 --resume --out-dir run" in error
    saved = checkpoint.latest(tmp_path / "run" / "checkpoints").step
    assert f"stopped at step {saved:,} of" in error
    assert not [child for child in children.values() if running(child)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux ends them")
def test_no_process_outlives_its_launcher(tmp_path: Path) -> None:
    """Not even one that is stopped when the launcher is killed."""
    process = start(tmp_path, kept=subprocess.DEVNULL)
    until(tmp_path / "run" / "checkpoints" / "step-00000004")
    children = ranks(process.pid)
    os.kill(children[1], signal.SIGSTOP)
    process.kill()
    process.wait(10)
    ends = time.monotonic() + 10
    while left := [child for child in children.values() if running(child)]:
        assert time.monotonic() < ends, left
        time.sleep(0.05)


def killed(folder: Path, moment: random.Random) -> None:
    """A rank is killed at a random moment; all end, with one line, and the run goes on from a whole checkpoint, or
    begins again where there was none. Nothing is left of what was being written."""
    kind, rank = moment.choice(["ddp", "fsdp"]), moment.randrange(2)
    process = start(folder, "--parallel", kind)
    phase = moment.choice(["start", "prepare", "train", "train", "train"])
    if phase != "start":
        until(folder / {"prepare": ".run.new", "train": "run/checkpoints"}[phase])
    time.sleep(moment.uniform(0, 1.5))
    while rank not in (children := ranks(process.pid)):
        time.sleep(0.01)
    began = time.monotonic()
    os.kill(children[rank], signal.SIGKILL)
    _, error = process.communicate(timeout=2 * MOST)
    passed = time.monotonic() - began
    print(f"{kind}, rank {rank}, {phase}: all ended {passed:.1f} s later")
    assert passed <= MOST and process.returncode == 1, error
    assert len(lines_of(error)) == 1 and f"fathom: rank {rank} was killed by SIGKILL" in error, error
    assert not [child for child in children.values() if running(child)]
    saved = checkpoint.steps(folder / "run" / "checkpoints") if (folder / "run").exists() else []
    if saved:
        assert checkpoint.latest(folder / "run" / "checkpoints").step == saved[-1]
    again = ["train", *(["--resume"] if (folder / "run").exists() else ["--data", str(folder / "text.txt"), *OPTIONS])]
    last = (saved or [0])[-1] + 1
    assert main([*again, "-o", str(folder / "run"), "--max-iters", str(last)]) == 0
    assert checkpoint.steps(folder / "run" / "checkpoints")[-1] == last
    left = [path.name for place in (folder, folder / "run" / "checkpoints") for path in place.iterdir()]
    assert all(name in ("text.txt", "run") or (name.startswith("step-") and "." not in name) for name in left), left


@posix
@pytest.mark.parametrize("seed", [4])
def test_a_killed_rank_ends_the_run(seed: int, tmp_path: Path) -> None:
    killed(tmp_path, random.Random(seed))


@posix
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_a_rank_may_be_killed_at_any_moment(seed: int, tmp_path: Path) -> None:
    killed(tmp_path, random.Random(seed))


@posix
@pytest.mark.slow
def test_torchrun_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    """A new run that has begun is continued; one that was there before is refused, again and again."""
    (tmp_path / "text.txt").write_text(TEXT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "-m", "fathom", "train", "--data", "text.txt", "-o", "run", *OPTIONS]
    command += ["--max-iters", "200", "--eval-interval", "4"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(tmp_path / "run" / "checkpoints" / "step-00000004")
    os.kill(ranks(process.pid)[1], signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0 and re.search(r"resuming run at step \d+", error), error
    assert "fathom: rank 1 (" in error and checkpoint.latest(tmp_path / "run" / "checkpoints").step == 200
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode != 0 and again.stderr.count("fathom: run exists; resume it with --resume") == 2
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").step == 200


@posix
@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_finetune_in_two_processes_is_that_of_one(method: str, tmp_path: Path) -> None:
    """From the command line, under ddp and fsdp: the same losses; one process goes on, writes and exports."""
    model, data = base(tmp_path / "base"), records(tmp_path / "records.jsonl")
    call = ["finetune", str(model), "--data", str(data), "--method", method, "--max-iters", "4", "--batch-size", "4"]
    call += ["--eval-interval", "2", "--device", "cpu", "--dtype", "fp32", "--lr", "0.01"]
    ways = {"one": [], "ddp": ["--nproc", "2", "--parallel", "ddp"], "fsdp": ["--nproc", "2", "--parallel", "fsdp"]}
    losses = {}
    for name, more in ways.items():
        out, resume = str(tmp_path / name), ["finetune", "--resume", "--max-iters", "6", "-o", str(tmp_path / name)]
        for words in ([*call, *more, "-o", out], [*resume, *(["--nproc", "2"] if name == "one" else [])]):
            done = subprocess.run([sys.executable, "-m", "fathom", *words], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
        losses[name] = [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in line]
        assert main(["generate", out, "-p", "1 + 2 = ", "-n", "4", "-t", "0"]) == 0
        assert main(["export", out, "--format", "hf", "-o", f"{out}.hf"]) == 0
    assert len(losses["one"]) == 6 and losses["one"][-1] < losses["one"][0]
    for name in ("ddp", "fsdp"):
        assert losses[name] == pytest.approx(losses["one"], rel=1e-5)
