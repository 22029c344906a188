"""Load: many streams are what each is alone, whoever leaves leaves nothing behind, and who is too many is told at once.

The long forms are those of the acceptance table; each prints its figures (`pytest -m slow -s`).
"""

import asyncio
import os
import re
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.serve.crowd import Tally, ask, crowd, leave, run_alone
from tests.serve.running import process, running, served

pytest.importorskip("fastapi")


def kinds(models: tuple[str, ...], count: int, longest: int) -> list[dict[str, Any]]:
    """Requests of every model, greedy and seeded, with prompts and answers of all lengths."""
    words = ("Once upon a time", "The", "Lily and Ben went to the park", "A dog", "In the morning the sun")
    made = []
    for place in range(count):
        prompt = (words[place % len(words)] + " ") * (1 + place * place % 7) + str(place)
        sampled = {"temperature": 0.9, "top_p": 0.95, "seed": place} if place % 2 else {"temperature": 0}
        tokens = 4 + place * 13 % longest
        made.append({"model": models[place % len(models)], "prompt": prompt, "max_tokens": tokens, "stream": True,
                     "logprobs": 1, **sampled})  # fmt: skip
    return made


def check_streams(port: int, asked: list[dict[str, Any]], streams: int, seconds: float) -> Tally:
    """Each request alone, then the crowd: nothing may differ."""

    async def both() -> Tally:
        expected = [(await ask(port, body)).said for body in asked]
        assert all(expected) and len({str(said) for said in expected}) == len(asked)
        tally = Tally()
        await crowd(port, asked, streams, seconds, expected, tally)
        return tally

    tally = run_alone(both())
    assert not tally.wrong, (len(tally.wrong), tally.wrong[0])
    print(f"{streams} streams for {seconds:.0f} s: {tally.requests:,} requests, {tally.tokens:,} tokens, 0 differ")
    return tally


def test_streams_side_by_side_are_what_they_are_alone() -> None:
    with running(served(adapters=("poet", "clerk"))) as here:
        tally = check_streams(here.port, kinds(("tiny", "poet", "clerk"), 12, 20), 16, 1.0)
    assert tally.requests >= 16


@pytest.mark.slow
def test_64_streams_for_five_minutes_on_real_weights(shared_data: Path, tmp_path: Path) -> None:
    weights = shared_data / "stories260K" / "stories260K.bin"
    names = ("poet", "clerk")
    for place, name in enumerate(names):
        save_adapter(weights, tmp_path / name, place)
    given = [f"--adapter={name}={tmp_path / name}" for name in names]
    with process(str(weights), "--alias", "stories", *given) as (_, port):
        tally = check_streams(port, kinds(("stories", *names), 60, 150), 64, 300)
    assert tally.requests > 1000


def save_adapter(weights: Path, folder: Path, seed: int) -> None:
    """A random adapter that changes every answer, as peft keeps them."""
    import fathom
    from fathom.adapters import lora, peft
    from fathom.adapters.options import LoraOptions

    model, _ = fathom.load(weights)
    lora.add(model, LoraOptions(rank=4), seed=seed)
    torch.manual_seed(seed)
    for part in lora.wrapped(model).values():
        torch.nn.init.normal_(part.adapters["default"].b, std=0.1)
    peft.save(model, folder)


def held(pid: int) -> dict[str, int]:
    """What a process holds: resident memory in KiB, threads, open files."""
    lines = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M))
    return {
        "rss": int(lines["VmRSS"]),
        "threads": int(lines["Threads"]),
        "fds": len([*Path(f"/proc/{pid}/fd").iterdir()]),
    }


async def many(port: int, count: int, at_once: int, model: str) -> int:
    """So many requests, of which three in ten are left before their end; how many were answered whole."""
    gate = asyncio.Semaphore(at_once)

    async def one(place: int) -> bool:
        body = {"model": model, "prompt": f"{place} the cat", "max_tokens": 4 + place % 24, "stream": place % 5 > 0,
                "seed": place}  # fmt: skip
        async with gate:
            if place % 10 < 3:
                await leave(port, {**body, "max_tokens": 200}, place % 7 * 0.004, reset=place % 2 == 0)
                return False
            return (await ask(port, body)).status == 200

    return sum(await asyncio.gather(*(one(place) for place in range(count))))


async def settled(port: int) -> str:
    """The metrics, once nobody is answered any more."""
    for _ in range(200):
        text = (await ask(port, None, "/metrics")).body.decode()
        if all(f"\nfathom_{name} 0.0" in text for name in ("rows", "queue", "pages_used")):
            return text
        await asyncio.sleep(0.05)
    raise AssertionError(text)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_who_leaves_leaves_no_file_no_thread_and_no_page() -> None:
    with running(served()) as here:
        run_alone(many(here.port, 30, 8, "tiny"))
        before = held(os.getpid())
        assert run_alone(many(here.port, 100, 8, "tiny")) == 70
        run_alone(settled(here.port))
        time.sleep(0.05)
        after = held(os.getpid())
    assert after["threads"] <= before["threads"] and after["fds"] <= before["fds"] + 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_10_000_requests_leave_nothing_behind() -> None:
    with process("demo:copycat", "--alias", "cat", "--max-tokens-in-flight", "16384") as (server, port):
        run_alone(many(port, 2000, 32, "cat"))  # pages are written for the first time, and caches fill
        run_alone(settled(port))
        before = held(server.pid)
        began = time.monotonic()
        assert run_alone(many(port, 10_000, 32, "cat")) == 7000
        seconds = time.monotonic() - began
        run_alone(settled(port))
        time.sleep(1)
        after = held(server.pid)
    print(f"10,000 requests in {seconds:.0f} s, 3,000 left: before {before}, after {after}")
    assert after["rss"] < 1.05 * before["rss"] and after["threads"] <= before["threads"]
    assert after["fds"] <= before["fds"]


@pytest.mark.slow
def test_at_ten_times_the_load_the_excess_is_told_at_once_and_health_answers() -> None:
    """Requests come at ten times the rate that the server answers them."""
    body = {"model": "cat", "prompt": "the cat ", "max_tokens": 100, "n": 8}

    async def capacity(port: int) -> float:
        began = time.monotonic()
        await asyncio.gather(*(ask(port, body) for _ in range(24)))
        return 24 / (time.monotonic() - began)

    async def overload(port: int, rate: float, seconds: float) -> tuple[list[Any], list[float]]:
        asked, health = [], []
        until = time.monotonic() + seconds

        async def well() -> None:
            while time.monotonic() < until:
                health.append((await ask(port, None, "/health")).seconds)
                await asyncio.sleep(0.05)

        watch = asyncio.create_task(well())
        while time.monotonic() < until:
            asked.append(asyncio.create_task(ask(port, body)))
            await asyncio.sleep(1 / rate)
        await watch
        return await asyncio.gather(*asked), health

    with process("demo:copycat", "--alias", "cat") as (_, port):
        rate = 10 * run_alone(capacity(port))
        told, health = run_alone(overload(port, rate, 20))
    busy = sorted(one.seconds for one in told if one.status == 429)
    whole = sum(one.status == 200 for one in told)
    assert {one.status for one in told} == {200, 429} and len(busy) > whole
    last = statistics.quantiles(health, n=100)[98]
    print(f"{rate:.0f} requests/s asked: {whole} answered, {len(busy)} refused, the slowest in {busy[-1] * 1e3:.0f} ms"
          f" (median {statistics.median(busy) * 1e3:.0f} ms); health p99 {last * 1e3:.0f} ms")  # fmt: skip
    assert busy[-1] < 0.1 and last < 0.2
