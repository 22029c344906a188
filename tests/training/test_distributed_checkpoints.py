"""A run is saved by any number of processes and resumed by any other; the files are those of one process."""

import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.errors import FathomError
from fathom.formats.checkpoint import steps, verify
from fathom.training.checkpoints import restore, save_checkpoint
from fathom.training.events import Event, Saved, silent
from fathom.training.loop import update
from fathom.training.run import Run, open_finetune_run, open_run
from fathom.training.session import Session
from fathom.training.train import train
from fathom.training.world import ALONE, World
from tests.training.runs import recipe
from tests.training.together import together
from tests.training.tuning import tuned

FILES = ("model.safetensors", "trained.safetensors", "optimizer.safetensors", "adapter_model.safetensors")
KINDS = ("ddp", "fsdp")
Plan = list[tuple[Path, str, int]]  # runs, how they are divided, and the step to which they go on


class Stopped(Exception):
    """A run is cut off."""


def after_step(step: int) -> Any:
    def listen(event: Event) -> None:
        if isinstance(event, Saved) and event.step == step:
            raise Stopped

    return listen


def begun(folder: Path) -> dict[str, Path]:
    """Runs with a checkpoint of step 2, made by one process: Muon, AdamW and dropout; an adapter with tokens added."""
    runs = {name: folder / name for name in ("new", "tuned")}
    new = recipe(folder, batch_size=12, micro_batch_size=None, eval_interval=6, checkpoint_interval=2, max_iters=6)
    with pytest.raises(Stopped):
        train(new, runs["new"], report=after_step(2))
    said = {"method": "qlora", "batch_size": 12, "micro_batch_size": None, "checkpoint_interval": 2, "eval_interval": 6}
    with pytest.raises(Stopped):
        tuned(folder, "tuned", report=after_step(2), add_token=("<|a|>",), max_iters=6, **said)
    return runs


def resumed(world: World, folder: Path, kind: str) -> tuple[Run, Session]:
    run: Run = open_finetune_run(folder) if "tuned" in folder.name else open_run(folder)
    run = replace(run, options=replace(run.options, parallel=kind))
    session = run.start(world)
    restore(run, session, silent)
    return run, session


def go_on(world: World, plan: Plan) -> list[list[float]]:
    """Resume each run, train it up to a step, save it; returns the losses of its steps."""
    result = []
    for folder, kind, last in plan:
        run, session = resumed(world, folder, kind)
        batches, losses = run.batches(), []
        while session.step < last:
            losses.append(update(session, session.prepare(batches.at(session.step))).loss)
        save_checkpoint(run, session, silent)
        result.append(losses)
    return result


def copied(run: Path, name: str) -> Path:
    folder = run.with_name(f"{run.name} {name}")
    shutil.copytree(run, folder)
    return folder


def same_losses(found: list[float], expected: list[float]) -> None:
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_two_processes_save_one_resumes_and_back(tmp_path: Path) -> None:
    runs = begun(tmp_path)
    whole = {name: go_on(ALONE, [(copied(run, "whole"), "auto", 6)])[0] for name, run in runs.items()}
    places = [(name, kind, copied(run, kind)) for name, run in runs.items() for kind in KINDS]
    untouched = [(copied(run, f"untouched {kind}"), kind, 2) for run in runs.values() for kind in KINDS]
    found = together(2, go_on, [*[(folder, kind, 4) for _, kind, folder in places], *untouched], folder=tmp_path)
    for (name, _, folder), losses in zip(places, found):
        same_losses(losses, whole[name][:2])
        same_losses(go_on(ALONE, [(folder, "auto", 5)])[0], whole[name][2:3])
    plan = [(folder, KINDS[kind == "ddp"], 6) for _, kind, folder in places]
    for (name, *_), losses in zip(places, together(2, go_on, plan, folder=tmp_path)):
        same_losses(losses, whole[name][3:])
    for folder, _, _ in untouched:  # read and written again, a checkpoint is the same to the byte
        saved, before = (run / "checkpoints/step-00000002" for run in (folder, runs[folder.name.split()[0]]))
        verify(saved)
        for file in (saved / name for name in FILES if (before / name).exists()):
            assert file.read_bytes() == (before / file.name).read_bytes(), file
    assert fathom.load(places[1][2], device="cpu")[0].config.d_model == 24


def save_on_a_full_disk(world: World, folder: Path) -> list[str]:
    """What each process is told where the first one can write only so many bytes."""
    run, session = resumed(world, folder, "fsdp")
    session.step += 1
    if world.first:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        save_checkpoint(run, session, silent)
    except FathomError as error:
        (folder / f"said-{world.rank}").write_text(str(error))
    world.barrier()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    save_checkpoint(run, session, silent)  # the processes still understand each other
    return [(folder / f"said-{rank}").read_text() for rank in range(world.size)]


def test_a_full_disk_leaves_the_checkpoints_that_were_there_and_no_process_waiting(tmp_path: Path) -> None:
    folder = begun(tmp_path)["new"]
    first, second = together(2, save_on_a_full_disk, folder, folder=tmp_path)
    assert "no checkpoint of step 3" in first and "earlier ones are untouched" in first
    assert second == "the first process could not save a checkpoint of step 3"
    assert steps(folder / "checkpoints") == [2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saving", [1, 2, 3, 4])
def test_saved_by_any_number_and_resumed_by_any_other(tmp_path: Path, saving: int, kind: str) -> None:
    """Bitwise the same losses where the same number of processes goes on in the same way: nothing is left out. But for
    ddp of three or more: after its first step DDP lays out anew what it sums, and the ring adds three in another order.
    """
    runs = begun(tmp_path)
    other = KINDS[kind == "ddp"]
    whole = {name: go_on(ALONE, [(copied(run, "whole"), "auto", 6)])[0] for name, run in runs.items()}
    plan = [(copied(run, kind), kind, 4) for run in runs.values()]
    some_way = go_on(ALONE, plan) if saving == 1 else together(saving, go_on, plan, folder=tmp_path)
    ahead = [(copied(run, "ahead"), kind, 6) for run in runs.values()]
    all_the_way = go_on(ALONE, ahead) if saving == 1 else together(saving, go_on, ahead, folder=tmp_path)
    for resuming in (1, 2, 3, 4):
        tasks = [(copied(folder, f"{resuming} {how}"), how, 6) for folder, *_ in plan for how in (kind, other)]
        found = go_on(ALONE, tasks) if resuming == 1 else together(resuming, go_on, tasks, folder=tmp_path)
        for (folder, how, _), losses in zip(tasks, found):
            name = folder.name.split()[0]
            same_losses(losses, whole[name][2:])
            if resuming == saving and (how == kind or saving == 1) and (kind == "fsdp" or saving < 3):
                place = list(runs).index(name)
                assert some_way[place] + losses == all_the_way[place]


def test_weights_of_one_row_fewer_than_processes_are_held_by_some() -> None:
    from fathom.training.sharding import own_rows

    for rows, size in ((1, 4), (5, 4), (7, 3), (24, 4)):
        chunks = torch.arange(rows).chunk(size)
        expected = [chunks[rank].tolist() if rank < len(chunks) else [] for rank in range(size)]
        assert [list(range(rows))[own_rows(rows, rank, size)] for rank in range(size)] == expected
