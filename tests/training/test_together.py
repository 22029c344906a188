"""How several processes begin a run: what differs is named, and a launch knows what it has created."""

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from fathom.errors import FathomError
from fathom.processes import Process
from fathom.training import together, voice, world
from fathom.training.events import silent
from fathom.training.run import created, open_run
from fathom.training.together import (
    CODE,
    DATA,
    LAUNCH,
    TORCH,
    created_by_first,
    of_run,
    plain_values,
    require_same,
    sources,
    was_created_before,
)
from fathom.training.world import World
from tests.training.runs import recipe
from tests.training.together import new_session


@dataclass(frozen=True)
class Others(World):
    """A world whose other processes have said something already."""

    said: tuple[dict[str, Any], ...] = ()

    def gather(self, value: Any = None) -> list[Any]:
        return [value, *({"host": f"host{i}"} | {**other} for i, other in enumerate(self.said, 1))]


class Restarted(World):
    """A world with a process of another machine, where torchrun has started it again."""

    def gather(self, value: Any = None) -> list[Any]:
        return [value, ["another launch", 1]]


OTHERS = {
    "rank 2 (host2) was started with learning_rate=0.2 and rank 0 with learning_rate=0.1": {"learning_rate": 0.2},
    "rank 2 (host2) was started with no data and rank 0 with data=a.txt": {"data": None},
    "rank 2 (host2) was started with seed=3 and rank 0 with no seed": {"seed": 3},
    "rank 2 (host2) has torch 2.9 and rank 0 2.10": {TORCH: "2.9"},
    "rank 2 (host2) has other source files of fathom than rank 0": {CODE: "other"},
}


@pytest.mark.parametrize("line", OTHERS)
def test_the_process_that_differs_is_named(line: str) -> None:
    facts = {CODE: "one", TORCH: "2.10", "learning_rate": 0.1, "data": "a.txt"}
    changed = OTHERS[line]
    if "data" in changed:
        own = {name: x for name, x in facts.items() if name != "data"}
    else:
        own = facts | changed
    with pytest.raises(FathomError) as error:
        require_same(Others(0, 3, said=(facts, own)), facts)
    assert str(error.value).startswith(line)
    require_same(Others(0, 3, said=(facts, facts)), facts)


def test_values_travel_as_what_they_are() -> None:
    assert plain_values({"a": 1, "b": None, "c": (0.9, 0.99), "d": Path("x")}) == {
        "a": 1, "b": None, "c": "(0.9, 0.99)", "d": "x"
    }  # fmt: skip


def test_code_is_recognised_by_its_sources(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = sources(tmp_path)
    (tmp_path / "notes.txt").write_text("of no importance")
    assert sources(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    changed = sources(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({before, changed, sources(tmp_path)}) == 3


def test_a_launch_continues_what_it_has_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not was_created_before(World(), tmp_path)
    together.remember_launch(World(), tmp_path)
    assert was_created_before(World(), tmp_path)
    (tmp_path / LAUNCH).write_text("another launch")
    assert not was_created_before(World(), tmp_path)
    (tmp_path / LAUNCH).write_text(f"another machine's\n{together.launch_name()}")  # which had the first process then
    assert was_created_before(World(), tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")  # it was there before
    assert not was_created_before(World(), tmp_path)
    assert was_created_before(Restarted(), tmp_path)


def test_what_is_different_in_the_data_is_said_as_such() -> None:
    with pytest.raises(FathomError, match=r"rank 1 .host1. finds other data in the folder of the run than rank 0"):
        require_same(Others(0, 2, said=({DATA: "[1]"},)), {DATA: [2]})


def test_machines_that_count_restarts_apart_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun keeps its store when it starts processes again: one that was killed has left its wish there."""
    monkeypatch.setattr(voice, "MEETING", timedelta(seconds=20))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    PrefixStore("fathom/met", store).set("come/1", "a process that was killed")
    machines = [Process(0, 3, 0, 1, attempt=0), Process(1, 3, 0, 1, attempt=1), Process(2, 3, 0, 1, attempt=0)]
    with ThreadPoolExecutor() as threads:  # twice: also with what the first meeting has left
        met = [[*threads.map(lambda process: voice.met_as(process, store.clone()), machines)] for _ in range(2)]
    assert [len({*names}) for names in met] == [1, 1] and met[0][0] != met[1][0]
    assert voice.met_as(replace(machines[0], local_size=3, attempt=2), store) == voice.prefix(2)


@pytest.mark.parametrize("rank, other", [(0, 1), (1, 0)])
def test_a_machine_that_does_not_come_is_named(rank: int, other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "MEETING", timedelta(seconds=0.2))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(FathomError, match=f"^rank {rank} waits in vain for rank {other}, which"):
        voice.met_as(Process(rank, 2, 0, 1), store)


def test_each_machine_says_that_it_has_met_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 waits at a port where nobody is: rank 0, at another one, cannot say it for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(world, "MEETING", timedelta(seconds=0.2))
    monkeypatch.setattr(voice, "waited_in_vain", [False])
    monkeypatch.setattr(world, "waited_in_vain", voice.waited_in_vain)
    assert voice.last_words("an error that all meet", 2) is None
    with pytest.raises(FathomError, match=f"^rank 1 finds nobody at 127.0.0.1:{port} "):
        world.met(Process(1, 2, 1, 2))
    assert voice.last_words("rank 1 finds nobody", 2) == "rank 1 finds nobody"
    for local, said in (("0", "nobody"), ("1", None)):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert voice.last_words("nobody", 2) == said


@dataclass(frozen=True)
class Second(World):
    """The second of two processes, with what the first one says."""

    rank: int = 1
    size: int = 2
    folder: str = ""
    said: dict[str, Any] = field(default_factory=dict)

    def share(self, value: Any = None) -> Any:
        return self.folder

    def gather(self, value: Any = None) -> list[Any]:
        return [{"host": "first", **plain_values(self.said)}, value]


def test_a_process_that_finds_other_data_in_the_folder_of_the_run_is_named(tmp_path: Path) -> None:
    """Before it has computed anything. Shared folders may lag behind."""
    folder = tmp_path / "run"
    with created(recipe(tmp_path), folder, False, silent):
        pass
    world = Second(folder=str(folder), said=of_run(open_run(folder)))
    with created_by_first(world, lambda: created(recipe(tmp_path), folder, False, silent), open_run) as run:
        assert run.folder == folder
    with next((folder / "data").glob("train*")).open("ab") as file:
        file.write(b"more")
    with (
        pytest.raises(FathomError, match=r"rank 1 .*finds other data in the folder of the run"),
        created_by_first(world, lambda: created(recipe(tmp_path), folder, False, silent), open_run),
    ):
        pass


@dataclass(frozen=True)
class Summed(World):
    """One of two processes, and what the sum of both is."""

    size: int = 2
    sums: tuple[float, ...] = ()
    heard: list[Any] = field(default_factory=list)

    def total(self, x: Any) -> Any:
        self.heard.append(x.tolist())
        return torch.tensor(self.sums, dtype=x.dtype)


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_time_is_that_of_the_first_process_and_any_may_stop_the_run(rank: int, stops: bool) -> None:
    session = new_session("bigram", "auto", 1)
    session.world = world = Summed(rank, sums=(7.0, 3.0, float(stops)))
    session.clock.start()
    assert session.together(torch.tensor([1.0]), torch.tensor([5.0])) == [1.0, 7.0]
    own, seconds, stop = world.heard[0]
    assert own == 5 and (seconds > 0) is (rank == 0) and stop == 0
    assert session.stopping is stops and session.tick() == 3.0 == session.tick()
    session.stop = lambda: True
    session.together(torch.tensor([]), torch.tensor([5.0]))
    assert world.heard[1][-1] == 1
