"""One thread owns the engine: whoever leaves frees the slots, a fault is one request's, too many are refused, and the
end is an end for every stream."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx
import pytest

from fathom.serve.api import Api
from fathom.serve.server import House
from fathom.serve.worker import InTurn
from tests.serve.running import Running, running, served

pytest.importorskip("fastapi")
LONG = {"model": "tiny", "prompt": "Once", "max_tokens": 400, "seed": 1, "logit_bias": {"253": -100}}
TEXT = "/v1/completions"
JSON = {"Content-Type": "application/json"}


def open_stream(here: Running, **values: Any) -> socket.socket:
    """A stream that was asked for over a socket of our own, and has begun."""
    body = json.dumps({**LONG, "stream": True, **values}).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nHost: 127.0.0.1:{here.port}\r\nContent-Type: application/json\r\n"
    made = socket.create_connection(("127.0.0.1", here.port))
    made.settimeout(30)
    made.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return made


def drop(connection: socket.socket, reset: bool) -> None:
    """Close with RST or with FIN."""
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def slow(made: House, seconds: float = 0.01) -> None:
    """Make every step take time, so that tests can do something meanwhile."""
    assert made.worker is not None
    step = made.worker.engine.step

    def slowly() -> Any:
        time.sleep(seconds)
        return step()

    made.worker.engine.step = slowly  # type: ignore[method-assign]


STATES = ("queued", "prefill", "decoding")


def state_of(here: Running, seed: int) -> str:
    """Where the continuation with this seed is; "gone": nowhere."""
    while True:
        with suppress(RuntimeError):  # the queue changed while it was read
            waiting, live = [*here.engine.queue], [*here.engine.live]
            break
    if any(slot.seed == seed for slot in waiting):
        return "queued"
    return next(("prefill" if slot.unread > 1 else "decoding" for slot in live if slot.seed == seed), "gone")


def drop_in(here: Running, wanted: str, place: int) -> tuple[str, float]:
    """A client that leaves in a state, with RST or FIN: the state, and seconds until its slot is free."""
    seed, before = 1000 + place, ("gone", *STATES[: STATES.index(wanted)])
    here.engine.rows = 0 if wanted == "queued" else 64
    connection = open_stream(here, seed=seed, prompt=f"{place} " + "x" * (1600 if wanted == "prefill" else 4))
    until(lambda: state_of(here, seed) not in before)
    state = state_of(here, seed)
    drop(connection, reset=place % 2 == 0)
    began = time.monotonic()
    until(lambda: state_of(here, seed) == "gone", 5)
    return state, time.monotonic() - began


@pytest.mark.parametrize("count", [9, pytest.param(500, marks=pytest.mark.slow)])
def test_dropped_clients_free_their_slots_and_change_no_neighbour(count: int) -> None:
    ask, over, texts = {**LONG, "max_tokens": 60}, threading.Event(), list[str]()
    with running(served(context=2048), before=lambda made: slow(made, 0.002)) as here:

        def neighbour() -> None:
            with httpx.Client(base_url=here.url, timeout=120) as client:
                while not over.is_set() or len(texts) < 2:
                    texts.append(client.post(TEXT, json=ask).json()["choices"][0]["text"])

        other = threading.Thread(target=neighbour)
        other.start()
        dropped = [drop_in(here, STATES[place % 3], place) for place in range(count)]
        here.engine.rows = 64
        over.set()
        other.join()
        until(lambda: here.engine.idle and not here.house.worker.jobs)  # type: ignore[union-attr]
        assert here.engine.figures.pages_used == 0
    longest, met = max(seconds for _, seconds in dropped), Counter(state for state, _ in dropped)
    print(f"{count} clients dropped, {dict(met)}: the slowest slot free after {longest * 1e3:.0f} ms")
    assert longest < 0.5 and set(met) == set(STATES) and len(set(texts)) == 1


def test_a_client_that_leaves_before_the_answer_is_whole_frees_its_slot() -> None:
    with running(before=slow) as here:
        connection = open_stream(here, stream=False)
        until(lambda: not here.engine.idle)
        drop(connection, reset=False)
        until(lambda: here.engine.idle, 5)
        assert here.lines and "not to its end" in here.lines[-1]


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_fault_of_the_engine_is_one_answer_and_the_server_goes_on(times: int) -> None:
    with running() as here, httpx.Client(base_url=here.url, timeout=60) as client:
        expected = client.post(TEXT, json={**LONG, "max_tokens": 5}).json()["choices"]
        step, faults = here.engine.step, []

        def faulty() -> Any:
            if faults:
                raise faults.pop()
            return step()

        here.engine.step = faulty
        for _ in range(times):
            faults.append(RuntimeError("a secret of the engine"))
            answer = client.post(TEXT, json=LONG)
            assert answer.status_code == 500 and answer.json()["error"]["code"] == "engine_error"
            assert "secret" not in answer.text
            assert client.post(TEXT, json={**LONG, "max_tokens": 5}).json()["choices"] == expected


def test_logits_that_are_no_numbers_are_a_clear_error_and_others_are_answered() -> None:
    model = served()
    with running(model) as here, httpx.Client(base_url=here.url, timeout=60) as client:
        weight = model.model.unembed.weight
        kept = weight.data[65].clone()
        weight.data[65] = float("nan")
        answer = client.post(TEXT, json=LONG)
        assert answer.status_code == 500 and "not finite" in answer.json()["error"]["message"]
        assert client.get("/health").status_code == 200
        weight.data[65] = kept
        assert client.post(TEXT, json={**LONG, "max_tokens": 3}).status_code == 200


def test_more_than_may_wait_are_refused_at_once() -> None:
    def few(made: House) -> None:
        slow(made, 0.02)
        made.worker.most = 4  # type: ignore[union-attr]

    async def crowd(url: str) -> tuple[list[httpx.Response], list[float]]:
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:

            async def one() -> tuple[httpx.Response, float]:
                began = time.monotonic()
                answer = await client.post(TEXT, json={**LONG, "max_tokens": 30})
                return answer, time.monotonic() - began

            done = await asyncio.gather(*(one() for _ in range(40)))
            assert (await client.get("/health")).status_code == 200
            return [answer for answer, _ in done], [seconds for _, seconds in done]

    with running(before=few) as here:
        answers: list[Any] = []
        own = threading.Thread(target=lambda: answers.extend(asyncio.run(crowd(here.url))))
        own.start()
        own.join()
        responses, seconds = answers
        statuses = [answer.status_code for answer in responses]
        assert statuses.count(200) == 4 and statuses.count(429) == 36
        busy = next(answer for answer in responses if answer.status_code == 429)
        assert busy.headers["retry-after"] == "1" and busy.json()["error"]["type"] == "rate_limit_error"
        quick = [took for answer, took in zip(responses, seconds) if answer.status_code == 429]
        assert max(quick) < min(took for answer, took in zip(responses, seconds) if answer.status_code == 200)


def test_who_is_too_many_is_told_before_their_request_is_read() -> None:
    """A prompt of a megabyte or a grammar takes longer to read than an answer may take while many wait."""

    def full(made: House) -> None:
        made.worker.most = 2  # type: ignore[union-attr]

    with running(before=full) as here, httpx.Client(base_url=here.url, timeout=60) as client:
        wrong = {**LONG, "max_tokens": 2, "grammar": 'root ::= "a" b'}
        many = [{"n": 3}, {"prompt": ["a", "b", "c"]}, {"prompt": [[1], [2]], "n": 2}]
        for more, status in [*((given, 429) for given in many), ({"n": 2}, 400), ({"prompt": [1, 2, 3]}, 400)]:
            assert client.post(TEXT, json={**wrong, **more}).status_code == status, more


def test_a_place_is_kept_while_a_prompt_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else those who come meanwhile are let in too, and are told only once their own prompt is read."""
    reading, go, prepare = threading.Event(), threading.Event(), Api.prepare

    def slowly(*given: Any) -> Any:
        reading.set()
        assert go.wait(20)
        return prepare(*given)

    def one_place(made: House) -> None:
        made.worker.most = 1  # type: ignore[union-attr]

    monkeypatch.setattr(Api, "prepare", slowly)
    ask = {**LONG, "max_tokens": 2}
    with running(before=one_place) as here, httpx.Client(base_url=here.url, timeout=20) as client:
        with ThreadPoolExecutor(1) as own:
            first = own.submit(httpx.post, here.url + TEXT, json=ask, timeout=20)
            assert reading.wait(20)
            assert [client.post(TEXT, content=b"{", headers=JSON).status_code for _ in range(3)] == [429] * 3
            assert client.post("/detokenize", json={"tokens": [65]}).status_code == 200
            go.set()
            assert first.result().status_code == 200
        assert client.post(TEXT, json={**ask, "max_tokens": -1}).status_code == 400
        assert client.post(TEXT, json={**ask, "prompt": [-1]}).status_code == 400  # its place is given back
        assert client.post(TEXT, json=ask).status_code == 200


@pytest.mark.parametrize("grace, whole", [(30, True), (0.2, False)])
def test_at_the_end_every_stream_has_a_last_event(grace: float, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.serve.server.GRACE", grace)
    with running(before=lambda made: slow(made, 0.005)) as here:
        streams = [open_stream(here, max_tokens=60 if whole else 400, seed=seed) for seed in range(6)]
        texts = [stream.recv(200) for stream in streams]
        here.server.should_exit = True
        until(lambda: here.house.worker.stopping)  # type: ignore[union-attr]
        if whole:  # else the socket may be closed already
            refused = httpx.post(here.url + TEXT, json=LONG)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "stopping"
        for stream, begun in zip(streams, texts):
            while more := stream.recv(65536):
                begun += more
            assert b"data: [DONE]\n\n" in begun and begun.endswith(b"0\r\n\r\n")
            assert (b'"finish_reason": "length"' in begun) == whole
            assert (b'"code": "stopping"' in begun) != whole
            stream.close()


def test_turns_go_to_whoever_asked_first() -> None:
    turn, order = InTurn(), list[str]()

    def takes(name: str) -> None:
        for _ in range(20):
            with turn:
                order.append(name)
                time.sleep(0.001)

    threads = [threading.Thread(target=takes, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one != other for one, other in pairwise(order)) > 20
