"""Runs are watched over HTTP and small ones started, stopped and resumed: by name, within bounds, in one folder."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fathom.formats.run import METRICS
from fathom.glass.texts import described
from fathom.serve import app as routes
from fathom.serve import runs as module
from fathom.serve.shelf import Place, Shelf, shelf
from fathom.training.train import train
from tests.training.runs import recipe

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

HERE = "127.0.0.1:8000"
WAIT = 120  # seconds for a process that shares its cores with other tests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(routes, "page", lambda title, values, connect: json.dumps(values))
    folder.mkdir()
    app = routes.application(Shelf({"one": Place("one")}, folder), frozenset({HERE}))
    with TestClient(app, base_url=f"http://{HERE}") as client:
        client.headers["X-Fathom-Token"] = client.get("/").json()["token"]
        client.starter = app.page.state.starter  # type: ignore[attr-defined]
        yield client
        client.starter.close()  # type: ignore[attr-defined]


def until(done: Callable[[], Any]) -> Any:
    """What `done` returns once it is true."""
    end = time.monotonic() + WAIT
    while not (found := done()):
        assert time.monotonic() < end, "this never came"
        time.sleep(0.05)
    return found


def start(client: TestClient, **changed: Any) -> Any:
    return client.post(
        "/api/runs/start", json={"preset": "rung-bigram", "data": "python-docs", "minutes": 1, **changed}
    )


def run(client: TestClient, name: str) -> dict[str, Any]:
    return next((one for one in client.get("/api/runs").json()["runs"] if one["name"] == name), {})


def test_a_run_is_started_watched_stopped_and_resumed(client: TestClient, folder: Path) -> None:
    name = start(client).json()["name"]
    assert name == "rung-bigram-1" and run(client, name)["state"] == "starting"
    until(lambda: run(client, name).get("step", 0) > 0)
    first = client.get(f"/api/runs/{name}").json()
    later = {"after": first["step"]}
    until(lambda: client.get(f"/api/runs/{name}", params=later).json()["step"] > first["step"])
    more = client.get(f"/api/runs/{name}", params=later).json()
    assert more["rows"][0]["step"] == first["step"] and more["state"] == "training" and more["ours"]
    assert client.post(f"/api/runs/{name}/resume", json={}).json()["error"] == f"{name} is training; stop it first"
    assert client.post(f"/api/runs/{name}/stop", json={}).json() == {"name": name}
    until(lambda: not client.starter.trains(name))
    stopped = run(client, name)
    assert stopped["state"] == "stopped" and stopped["problem"] is None and (folder / name / "checkpoints").is_dir()
    written = [json.loads(line) for line in (folder / name / METRICS).read_text().splitlines()]
    assert client.get(f"/api/runs/{name}").json()["rows"] == written
    assert client.post(f"/api/runs/{name}/resume", json={}).status_code == 200
    until(lambda: run(client, name).get("step", 0) > stopped["step"])
    client.starter.close()
    assert run(client, name)["state"] == "stopped"


@pytest.mark.parametrize(
    "changed, line",
    [
        ({"preset": "gpt2"}, "no preset 'gpt2'"),
        ({"preset": "rung-bigramm"}, "did you mean rung-bigram"),
        ({"data": "/etc/passwd"}, "no text '/etc/passwd'"),
        ({"data": "--out-dir"}, "no text '--out-dir'"),
        ({"minutes": 0}, "minutes"),
        ({"minutes": 1000}, "minutes"),
        ({"out_dir": "/tmp"}, "out_dir"),
    ],
)
def test_what_may_be_started_is_known_by_name_and_small(
    client: TestClient, folder: Path, changed: Any, line: str
) -> None:
    answer = start(client, **changed)
    assert answer.status_code == 400 and line in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert not list(folder.iterdir()) and not client.starter.children


def test_a_process_that_fails_says_why(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = module.Starter.launch
    monkeypatch.setattr(module.Starter, "launch", lambda self, *given: ordinary(self, *given, "--batch-size", "0"))
    name = start(client).json()["name"]
    problem = until(lambda: run(client, name).get("problem"))
    assert "batch_size" in problem


def test_only_a_few_train_at_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    first = start(client).json()["name"]
    assert "train already" in start(client).json()["error"]
    assert list(client.starter.children) == [first]


def test_a_run_that_is_not_there(client: TestClient) -> None:
    for answer in (
        client.get("/api/runs/gone"),
        client.post("/api/runs/gone/stop", json={}),
        client.post("/api/runs/gone/resume", json={}),
        client.get("/api/runs/..%2F..%2Fetc"),
        client.get("/api/ladders/gone"),
        client.get("/api/runs/gone%0A"),
        client.post("/api/runs/a%0Agone/stop", json={}),
    ):
        assert (answer.status_code == 400 and "gone" in answer.json()["error"]) or "etc" in answer.json()["error"]


def test_a_folder_that_vanished_is_said(client: TestClient, folder: Path) -> None:
    folder.rmdir()
    answer = client.get("/api/runs")
    assert answer.status_code == 400 and "is not a folder" in answer.json()["error"]


def test_starting_needs_the_token(client: TestClient) -> None:
    del client.headers["X-Fathom-Token"]
    assert start(client).status_code == 403 and not client.starter.children


def test_without_a_folder_of_runs_the_page_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    app = routes.application(Shelf({"one": Place("one")}), frozenset({HERE}))
    with TestClient(app, base_url=f"http://{HERE}") as client:
        assert (
            client.get("/api/runs").json() == {"runs": None}
            and "fathom serve runs" in described("runs")["notes"]["no folder"]
        )


def test_a_run_that_came_later_can_be_opened(folder: Path) -> None:
    """And one without a checkpoint, as the folder of a ladder is, cannot yet."""
    first = recipe(folder.parent)
    train(first, folder / "one")
    here = shelf([str(folder)], {})
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "config.yaml").write_text("model: {}")
    train(first, folder / "two")
    assert here.names() == ["one", "two"] and here.open("two").name == "two"
