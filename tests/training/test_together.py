"""How several processes begin a run: what differs is named, and a launch knows what it has created."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from fathom.errors import FathomError
from fathom.processes import Process
from fathom.training import together, voice
from fathom.training.together import CODE, DATA, LAUNCH, TORCH, plain_values, require_same, sources, was_created_before
from fathom.training.world import World


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
