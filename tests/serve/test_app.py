"""The server answers what Python answers, to this machine's own page alone, in one line where it cannot."""

import asyncio
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.glass.panels import PANELS, payload
from fathom.glass.passes import first_pass
from fathom.glass.subject import Subject, open_subject
from fathom.serve import app as routes
from fathom.serve import desk as desks
from fathom.serve.desk import PROMPTS, first_prompt
from fathom.serve.guard import MOST_BODY
from fathom.serve.shelf import Place, Shelf, shelf
from tests.architectures import ARCHITECTURES, LLAMA, model_of
from tests.glass.panels import decoded

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

HERE = "127.0.0.1:8000"


def subject(name: str, seed: int = 0) -> Subject:
    torch.manual_seed(seed)
    return Subject(name, model_of(ARCHITECTURES["llama"]).eval(), None)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A page's view of a server with two models, which have no tokenizer: prompts are ids."""
    monkeypatch.setattr(routes, "page", lambda title, values, connect: json.dumps(values))
    here = Shelf({"one": Place("one"), "other": Place("other")})
    here.opened = {"one": subject("one"), "other": subject("other", 1)}
    with TestClient(routes.application(here, frozenset({HERE})), base_url=f"http://{HERE}") as client:
        client.headers["X-Fathom-Token"] = client.get("/").json()["token"]
        client.shelf = here  # type: ignore[attr-defined]
        yield client


def ask(client: TestClient, **values: Any) -> Any:
    return client.post("/api/pass", json={"model": "one", "prompt": "5 17 3 5", **values})


def test_a_panel_is_the_one_of_python(client: TestClient) -> None:
    made = ask(client).json()
    assert [token["id"] for token in made["sides"]["A"]["tokens"]] == [5, 17, 3, 5]
    answer = client.get("/api/panel/next-token", params={"pass": made["pass"], "side": "A", "top_k": 3})
    expected, _ = payload("next-token", first_pass(client.shelf.opened["one"], "5 17 3 5"), {"top_k": "3"})
    (about, tensors), (ours, numbers) = decoded(answer.content), decoded(expected)
    assert about == ours
    assert all(torch.equal(tensors[name], numbers[name]) for name in numbers)


def test_two_models_beside_each_other(client: TestClient) -> None:
    made = ask(client, beside="other").json()
    a, b = (
        decoded(client.get("/api/panel/next-token", params={"pass": made["pass"], "side": side}).content)[1]
        for side in "AB"
    )
    assert made["sides"]["B"]["model"] == "other" and not torch.equal(a["p"], b["p"])


@pytest.mark.parametrize(
    "values, line",
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "99999"}, "no id below"),
        ({"prompt": "1 " * 60}, "more than the"),
        ({"model": "/etc/passwd"}, "no model is called '/etc/passwd'"),
        ({"model": "onne"}, "did you mean one"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"path": "x"}, "path"),
    ],
)
def test_a_wrong_request_is_one_line(client: TestClient, values: dict[str, Any], line: str) -> None:
    answer = ask(client, **values)
    assert answer.status_code == 400 and line in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_wrong_panels_are_one_line(client: TestClient) -> None:
    made = ask(client).json()
    for path, status, line in (
        (f"/api/panel/nextt?pass={made['pass']}", 400, "did you mean next-token"),
        (f"/api/panel/next-token?pass={made['pass']}&side=B", 400, "no side"),
        (f"/api/panel/next-token?pass={made['pass']}&query=77", 400, "there is no token 77"),
        (f"/api/panel/next-token?pass={made['pass']}&top_q=7", 400, "unknown field 'top_q'"),
        (f"/api/panel/next-token?pass={made['pass']}&top_k=nan", 400, "top_k"),
        ("/api/panel/next-token?pass=nothing", 410, "run the prompt again"),
    ):
        answer = client.get(path)
        assert answer.status_code == status and line in answer.json()["error"], answer.text


def test_generation_is_a_line_a_token_and_stops_when_nobody_listens(client: TestClient) -> None:
    made = ask(client).json()["pass"]
    answer = client.post("/api/generate", json={"pass": made, "max_new_tokens": 5, "temperature": 0})
    *steps, end = map(json.loads, answer.text.splitlines())
    run = first_pass(client.shelf.opened["one"], "5 17 3 5")
    ids = run.ids
    with torch.no_grad():
        for _ in steps:
            ids = torch.cat((ids, run.model(ids)[:, -1:].argmax(-1)), 1)
    assert [step["id"] for step in steps] == ids[0, 4:].tolist() and len(steps) == 5
    assert all(check["ok"] for check in end["checks"])
    faulty = client.post("/api/generate", json={"pass": made, "max_new_tokens": 5, "fault": "offset"}).text
    assert not all(check["ok"] for check in json.loads(faulty.splitlines()[-1])["checks"])
    for values, line in (
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"fault": "offsett"}, "fault"),
        ({"x": 1}, "'x'"),
    ):
        answer = client.post("/api/generate", json={"pass": made, **values})
        assert answer.status_code == 400 and line in answer.json()["error"]


def test_a_stream_that_is_left_is_closed_within_a_step() -> None:
    left: list[str] = []

    def endless() -> Iterator[int]:
        try:
            n = 0
            while True:
                yield (n := n + 1)
        finally:
            left.append("closed")

    async def listen() -> list[int]:
        heard, items = [], desks.Desk(Shelf({})).steps(endless())
        async for item in items:
            heard.append(item)
            if item == 3:
                break
        await items.aclose()  # type: ignore[attr-defined]
        return heard

    with ThreadPoolExecutor(1) as own:  # the browser's tests leave an event loop running in theirs
        assert own.submit(asyncio.run, listen()).result() == [1, 2, 3]
    assert left == ["closed"]


def test_old_passes_are_forgotten_and_said(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "MOST_PASSES", 2)
    ids = [ask(client, prompt=f"5 {n}").json()["pass"] for n in range(3)]
    answers = [client.get("/api/panel/next-token", params={"pass": id}).status_code for id in ids]
    assert answers == [410, 200, 200]


def test_only_this_machine_and_its_own_page_may_ask(client: TestClient) -> None:
    body = {"model": "one", "prompt": "5 17"}
    for host in ("example.com", "127.0.0.1:8001", "127.0.0.1", "localhost.example.com:8000", "0.0.0.0:8000"):
        assert client.get("/", headers={"Host": host}).status_code == 400, host
    for headers in ({"X-Fathom-Token": "no"}, {"Origin": "http://example.com"}, {"Origin": "null"}):
        assert client.post("/api/pass", json=body, headers=headers).status_code == 403, headers
    plain = client.post("/api/pass", content=json.dumps(body), headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    assert client.post("/api/pass", json=body, headers={"Origin": f"http://{HERE}"}).status_code == 200
    assert "access-control-allow-origin" not in client.get("/", headers={"Origin": f"http://{HERE}"}).headers


def test_a_request_that_is_too_long_is_413(client: TestClient) -> None:
    assert ask(client, prompt="1 " * 60_000).status_code == 413
    huge = b"{" + b" " * (MOST_BODY + 1) + b"}"
    kind = {"Content-Type": "application/json"}
    assert client.post("/api/pass", content=huge, headers=kind).status_code == 413
    pieces = (b" " * 65536 for _ in range(MOST_BODY // 65536 + 2))  # no Content-Length
    assert client.post("/api/pass", content=pieces, headers=kind).status_code == 413


def test_the_first_prompt_is_one_that_the_model_can_read() -> None:
    """That of demos, whose characters are few, and of models without a tokenizer too."""
    models = {
        "demo": open_subject("demo:copycat"),
        "ids": Subject("ids", model_of(LLAMA), None),
        "small": Subject("small", model_of(replace(LLAMA, vocab_size=3)), None),
    }
    assert [first_prompt(models.__getitem__, name) for name in models] == [PROMPTS[1], PROMPTS[2], ""]


def test_the_shelf(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "runs" / name / "checkpoints" / "step-1").mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("model: {}\n")
    held = shelf([str(tmp_path / "runs"), "other.gguf"], {"poet": "adapters/poet"}, "int4")
    assert held.names() == ["a int4", "b int4", "other int4", "poet"] and held.runs == tmp_path / "runs"
    with pytest.raises(Exception, match="two models are called other"):
        shelf(["x/other.gguf", "y/other.gguf"], {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match="no run"):
        shelf([], {})


def a_desk(*names: str) -> desks.Desk:
    here = Shelf({name: Place(name) for name in names})
    here.opened = {name: subject(name) for name in names}
    return desks.Desk(here)


def test_panels_of_a_small_pass_are_filled_while_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "AHEAD", math.inf)

    async def ask() -> None:
        desk = a_desk("one")
        shown = await desk.show("one", None, "5 17 3 9", 0)
        assert desk.ahead is not None and not desk.made
        await desk.ahead
        assert {key[2] for key in desk.made} == {*PANELS} - {*desks.MOVING}
        id = shown["pass"]
        for name in ("next-token", "heads", "lens"):
            assert desk.panel(name, id, "A", {}) == payload(name, desk.passes[id]["A"], {})[0]
        assert desk.panel("heads", id, "A", {"layer": "1"}) != desk.made[id, "A", "heads"]

    with ThreadPoolExecutor(1) as own:  # the browser's tests leave an event loop running in theirs
        own.submit(asyncio.run, ask()).result()


def test_a_new_pass_takes_the_place_of_the_one_that_is_worked_ahead_for() -> None:
    async def ask() -> None:
        desk = a_desk("one")
        await desk.show("one", None, "5 17 3 9", 0)
        first = desk.ahead
        await desk.show("one", None, "5 17 3 8", 0)
        assert first is not None and desk.ahead is not None
        await asyncio.wait([first])
        assert first.cancelled() and len({key[0] for key in desk.made}) <= 1
        desk.ahead.cancel()

    with ThreadPoolExecutor(1) as own:  # the browser's tests leave an event loop running in theirs
        own.submit(asyncio.run, ask()).result()


def test_nothing_is_filled_ahead_for_a_large_pass() -> None:
    async def ask() -> None:
        desk = a_desk("one")
        desk.most_ahead = 1.0
        await desk.show("one", None, "5 17 3 9", 0)
        assert desk.ahead is None

    with ThreadPoolExecutor(1) as own:  # the browser's tests leave an event loop running in theirs
        own.submit(asyncio.run, ask()).result()


def test_what_was_filled_goes_with_its_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = a_desk("one")
    ids = [desk.run("one", None, text, 0)["pass"] for text in ("5 17", "5 18")]
    for id in ids:
        desk.make("groups", id, "A")
    monkeypatch.setattr(desks, "MOST_PASSES", 1)
    desk.forget()
    assert {key[0] for key in desk.made} == {ids[1]}
