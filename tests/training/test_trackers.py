"""Trackers get the numbers of metrics.jsonl under the same names and steps, once, over resumes; one that fails is left
out, one that is not installed is refused, and a run folder of an older version opens as before."""

import contextlib
import csv
import json
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

import fathom
from fathom.errors import FathomError
from fathom.fields import build
from fathom.training import trackers
from fathom.training.events import Event, Note, read_metrics
from fathom.training.options import TrainOptions
from tests.extras import extra
from tests.training.runs import recipe
from tests.training.tuning import base, records

ALL = ("wandb", "trackio", "csv")


class Service:
    """What stands for a tracker's package: keeps what it is given, by the run's id."""

    def __init__(self) -> None:
        self.begun = list[dict[str, Any]]()
        self.rows = dict[str, list[tuple[int, dict[str, float]]]]()
        self.finished = 0
        self.fails_at: int | None = None
        self.broken = ""

    def init(self, **given: Any) -> Any:
        if self.broken:
            raise ConnectionError(self.broken)
        self.begun.append(given)
        id = str(given.get("id") or given["name"])
        return SimpleNamespace(
            url="https://example.com/run", log=lambda values, step: self.log(id, values, step), finish=self.finish
        )

    def log(self, id: str, values: dict[str, float], step: int) -> None:
        if self.fails_at is not None and step >= self.fails_at:
            raise RuntimeError("connection reset\nby peer")
        self.rows.setdefault(id, []).append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[str, Service]:
    """Modules called wandb and trackio, each in the place of the package."""
    found = {}
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("wandb", "trackio"):
        found[name], module = Service(), ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, origin="here")
        module.init = found[name].init  # type: ignore[attr-defined]
        module.Settings = lambda **given: SimpleNamespace(api_key=None, **given)  # type: ignore[attr-defined]
        module.api = SimpleNamespace(api_key=None)  # type: ignore[attr-defined]
        module.finish = found[name].finish  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return found


def train(place: Path, mode: str = "new", report: Callable[[Event], None] = lambda event: None, **said: Any) -> None:
    fathom.train(recipe(place), place / "run", mode=mode, report=report, options=said)


def expected(run: Path) -> dict[int, dict[str, float]]:
    """What a tracker must have, by step, as metrics.jsonl says."""
    found: dict[int, dict[str, float]] = {}
    for line in read_metrics(run / "metrics.jsonl"):
        values = {trackers.NAMES[k]: v for k, v in line.items() if k in trackers.NAMES and v is not None}
        if values:
            found[line["step"]] = {**found.get(line["step"], {}), **values}
    return found


def merged(rows: list[tuple[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    """The rows of a tracker by step. No number may come twice."""
    found: dict[int, dict[str, float]] = {}
    for step, values in rows:
        assert not (values.keys() - {"seconds"}) & found.setdefault(step, {}).keys(), step
        found[step] |= values
    return found


def table(run: Path) -> dict[int, dict[str, float]]:
    """metrics.csv as Python's own reader has it."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps))
    return {int(row.pop("step")): {k: float(v) for k, v in row.items() if v != ""} for row in rows}


def without_time(rows: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    return {step: {k: v for k, v in values.items() if k != "seconds"} for step, values in rows.items()}


def test_all_have_the_numbers_of_the_run(tmp_path: Path, services: dict[str, Service]) -> None:
    notes = list[str]()
    train(tmp_path, report=lambda e: notes.append(e.text) if isinstance(e, Note) else None, log=ALL)
    run = expected(tmp_path / "run")
    assert sorted(run) == list(range(1, 13)) and "loss/val" in run[4] and "loss/val" not in run[5]
    assert without_time(table(tmp_path / "run")) == without_time(run)
    for name, service in services.items():
        (rows,) = service.rows.values()
        assert without_time(merged(rows)) == without_time(run), name
        (begun,) = service.begun
        settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
        assert json.loads(json.dumps(begun["config"])) == settings and begun["project"] == "fathom"
        assert service.finished == 1
    assert any("wandb: offline, in" in note and "wandb sync" in note for note in notes)
    assert any(note.startswith("trackio: see it with trackio show") for note in notes)


class Lost(Exception):
    """The process ends here."""


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path, services: dict[str, Service]) -> None:
    def killed(event: Event) -> None:
        if getattr(event, "step", 0) == 7:
            raise Lost

    with pytest.raises(Lost):
        train(tmp_path, report=killed, log=ALL)
    assert max(step for step, _ in next(iter(services["wandb"].rows.values()))) == 7  # 5 to 7 are lost
    train(tmp_path, "resume")
    run = expected(tmp_path / "run")
    assert sorted(run) == list(range(1, 13))
    assert without_time(table(tmp_path / "run")) == without_time(run)
    for service in services.values():
        (rows,) = service.rows.values()  # one run, not two
        assert without_time(merged(rows)) == without_time(run)


def test_a_tracker_that_comes_later_gets_what_was_before(tmp_path: Path, services: dict[str, Service]) -> None:
    train(tmp_path, max_iters=8)
    assert not (tmp_path / "run" / "metrics.csv").exists()
    train(tmp_path, "resume", max_iters=12, log=ALL)
    (rows,) = services["trackio"].rows.values()
    assert merged(rows) == table(tmp_path / "run") == expected(tmp_path / "run")
    train(tmp_path, "resume", max_iters=14, log=None)
    assert max(table(tmp_path / "run")) == 12 and len(services["wandb"].begun) == 1


@pytest.mark.parametrize("when", ["start", "middle"])
def test_one_that_fails_says_so_once_and_the_run_goes_on(
    when: str, tmp_path: Path, services: dict[str, Service]
) -> None:
    warnings = list[str]()
    if when == "start":
        services["wandb"].broken = "no network"
    else:
        services["wandb"].fails_at = 3
    train(tmp_path, report=lambda e: warnings.append(e.text) if isinstance(e, Note) and e.warning else None, log=ALL)
    (line,) = [text for text in warnings if "wandb" in text]
    assert line.startswith("wandb failed (") and line.endswith("the run goes on without it") and "\n" not in line
    assert max(expected(tmp_path / "run")) == 12
    assert table(tmp_path / "run") == expected(tmp_path / "run")
    (rows,) = services["trackio"].rows.values()
    assert merged(rows) == expected(tmp_path / "run")


def test_without_a_login_wandb_does_not_ask(
    tmp_path: Path, services: dict[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    warnings = list[str]()
    train(
        tmp_path, report=lambda e: warnings.append(e.text) if isinstance(e, Note) and e.warning else None, log="wandb"
    )
    assert (
        "wandb failed (not logged in; run wandb login, or set WANDB_MODE=offline); the run goes on without it"
        in warnings
    )
    assert services["wandb"].begun == [] and max(expected(tmp_path / "run")) == 12


@pytest.mark.parametrize("verb", ["train", "finetune", "resume"])
def test_a_missing_package_is_refused_before_anything_is_written(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio").mkdir()  # a folder of that name is no package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    find = trackers.find_spec
    kept = [place for place in sys.path if not (Path(place) / "trackio" / "__init__.py").exists()]
    monkeypatch.setattr(sys, "path", kept)
    monkeypatch.setattr(trackers, "find_spec", find)
    model, data = base(tmp_path / "base"), records(tmp_path / "some.jsonl")
    if verb == "resume":
        train(tmp_path, max_iters=2)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        FathomError, match=r"trackio is not installed; pip install 'fathom-lm\[trackio\]', or log to csv"
    ):
        if verb == "finetune":
            fathom.finetune(model, data, tmp_path / "run", log="csv,trackio")
        else:
            train(tmp_path, "resume" if verb == "resume" else "new", log="csv,trackio")
    written = set(tmp_path.rglob("*")) - {*before, tmp_path / "text.txt"}
    assert not written


def test_finetune_logs_too(tmp_path: Path) -> None:
    model, data = base(tmp_path / "base"), records(tmp_path / "some.jsonl")
    fathom.finetune(model, data, tmp_path / "run", max_iters=3, eval_interval=2, device="cpu", log="csv")
    assert table(tmp_path / "run") == expected(tmp_path / "run") and [*expected(tmp_path / "run")] == [0, 1, 2, 3]


def test_the_older_spelling_is_read(tmp_path: Path) -> None:
    assert build(TrainOptions, {"tensorboard": True}, "train").log == ("tensorboard",)
    assert build(TrainOptions, {"tensorboard": True, "log": "csv"}, "train").log == ("csv",)
    assert build(TrainOptions, {"tensorboard": False}, "train").log is None
    train(tmp_path, max_iters=2)
    config = tmp_path / "run" / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values["train"] = {**{k: v for k, v in values["train"].items() if k != "log"}, "tensorboard": True}
    config.write_text(yaml.safe_dump(values))
    train(tmp_path, "resume", max_iters=4)
    assert yaml.safe_load(config.read_text())["train"]["log"] == ["tensorboard"]
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_tensorboard_has_the_same(tmp_path: Path) -> None:
    extra("tensorboard", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, log="tensorboard")
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    found: dict[int, dict[str, float]] = {}
    for name in read.Tags()["scalars"]:
        for scalar in read.Scalars(name):
            found.setdefault(scalar.step, {})[name] = scalar.value
    for step, values in expected(tmp_path / "run").items():
        assert found[step] == pytest.approx(values, rel=1e-5)
    assert "settings/text_summary" in read.Tags()["tensors"]


def logged(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format, after a header of seven bytes."""
    at, whole = 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # all of a record, or its last part
            yield whole
            whole = b""


def test_the_real_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra("wandb", "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path, log="wandb", max_iters=4)
    train(tmp_path, "resume", max_iters=6)
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # one id
    wanted = without_time(expected(tmp_path / "run"))
    until = time.monotonic() + 60  # wandb's own process closes its files after finish() has returned
    while without_time(found := wandb_history(files)) != wanted and time.monotonic() < until:
        time.sleep(0.1)
    assert without_time(found) == wanted


def wandb_history(files: Sequence[Path]) -> dict[int, dict[str, float]]:
    """The numbers of each step that have reached the files so far; a record that is half there ends its file."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    found: dict[int, dict[str, float]] = {}
    for file in files:
        with contextlib.suppress(DecodeError, struct.error):
            for data in logged(file.read_bytes()):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(data)
                items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                if items:
                    found.setdefault(items["_step"], {}).update({k: v for k, v in items.items() if k[0] != "_"})
    return found


def test_the_real_trackio_keeps_a_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra("trackio", "trackio")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    project = f"test-{tmp_path.name}"
    monkeypatch.setenv("TRACKIO_PROJECT", project)
    try:
        train(tmp_path, log="trackio", max_iters=4)
        train(tmp_path, "resume", max_iters=6)
        (name,) = SQLiteStorage.get_runs(project)
        rows = [
            (row["step"], {k: v for k, v in row.items() if k in trackers.NAMES.values()})
            for row in SQLiteStorage.get_logs(project, name)
        ]
        assert without_time(merged(rows)) == without_time(expected(tmp_path / "run"))
    finally:
        trackio.delete_project(project, force=True)
    shutil.rmtree(tmp_path / "run")
