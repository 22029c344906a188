"""Any number of processes make the same run as one: gradients, losses, what the weights become."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.errors import FathomError
from fathom.training import distributed
from fathom.training.precision import COMPILERS
from fathom.training.world import ALONE, World
from tests.training.together import BF16, COMPILED, NEW, all_rows, new_session, together
from tests.training.tuning import tuned

TUNED: dict[str, dict[str, Any]] = {
    "lora with dropout": {"method": "lora", "dropout": 0.3, "micro_batch_size": 1},
    "dora": {"method": "dora", "micro_batch_size": 4},
    "qlora": {"method": "qlora"},
    "qlora with packed rows": {"method": "qlora", "quantize": "int8", "pack": True, "micro_batch_size": 2},
    "full": {"method": "full", "learning_rate": 0.001},
    "full with muon": {"method": "full", "optimizer": "muon", "learning_rate": 0.001},
}


def prepared(folder: Path) -> dict[str, Path]:
    """Folders of runs of fine-tuning, one step long: answers of other lengths, whose questions are not learned."""
    return {
        name: tuned(folder, name, **{"batch_size": 12, "max_iters": 1, "eval_interval": 1, **said}).folder
        for name, said in TUNED.items()
    }


def compare(found: dict[str, Any], expected: dict[str, Any], most: tuple[float, float] = (1e-6, 1e-5)) -> list[str]:
    """The rows that differ, in words. most: of gradients, and of losses."""
    wrong = []
    for row, ours in found.items():
        theirs = expected["ddp:" + row.partition(":")[2]]
        assert ours["gradients"].keys() == theirs["gradients"].keys() and ours["gradients"]
        gradients = distance(ours["gradients"], theirs["gradients"])
        losses = max(abs(a - b) / b for a, b in zip(ours["losses"], theirs["losses"], strict=True))
        validation = abs(ours["validation"] - theirs["validation"]) / theirs["validation"]
        weights = distance(ours["weights"], theirs["weights"])
        said = f"{row}: gradients {gradients:.0e}, losses {losses:.0e}, unseen {validation:.0e}, weights {weights:.0e}"
        print(said)
        if gradients > most[0] or losses > most[1] or validation > most[1]:
            wrong.append(said)
    return wrong


def distance(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> float:
    """Of a tensor of x from that of y, over the length of the latter, or over a thousandth of all together where it is
    less: biases of keys have no gradient but rounding."""
    least = float(torch.stack([each.norm() for each in y.values()]).norm()) / 1000
    return max(float((x[name] - y[name]).norm()) / max(float(y[name].norm()), least) for name in x)


def test_two_processes_make_the_run_of_one(tmp_path: Path) -> None:
    runs = prepared(tmp_path)
    found = together(2, all_rows, 3, runs, ("ddp", "fsdp"), folder=tmp_path)
    assert not compare(found, all_rows(ALONE, 3, runs, ("ddp",)))


def test_in_bf16_they_differ_by_its_rounding(tmp_path: Path) -> None:
    """Masters and sums are fp32; a product of fewer rows is rounded elsewhere."""
    found = together(2, all_rows, 3, {}, ("ddp", "fsdp"), tuple(BF16), folder=tmp_path)
    assert not compare(found, all_rows(ALONE, 3, {}, ("ddp",), tuple(BF16)), most=(2e-2, 2e-3))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler")
def test_compiled_blocks_are_divided_alike(tmp_path: Path) -> None:
    found = together(2, all_rows, 3, {}, ("ddp", "fsdp"), tuple(COMPILED), folder=tmp_path)
    assert not compare(found, all_rows(ALONE, 3, {}, ("ddp",), tuple(COMPILED)))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_fifty_steps_of_several_processes_are_those_of_one(tmp_path: Path, size: int) -> None:
    runs = prepared(tmp_path)
    found = together(size, all_rows, 50, runs, ("ddp", "fsdp"), folder=tmp_path)
    assert not compare(found, all_rows(ALONE, 50, runs, ("ddp",)))


def test_the_rows_learn() -> None:
    """Where nothing changed from step to step, equal losses would prove little."""
    for name in NEW:
        losses = all_losses(name, 30)
        assert losses[-1] < losses[0] - 0.15, name


def all_losses(name: str, steps: int) -> list[float]:
    from tests.training.together import Sequences, measure

    return list(measure(new_session(name, "auto", steps), Sequences(), steps)["losses"])


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(
        FathomError, match=r"batch_size=12 over 5 processes; expected a multiple .*--train.batch-size 15"
    ):
        new_session("plain", "ddp", 1, World(0, 5))
    with pytest.raises(FathomError, match=r"micro_batch_size=4 and 6 rows a process; expected a divisor"):
        new_session("experts", "ddp", 1, World(0, 2), micro_batch_size=4)


class Agreeing(World):
    """One of several processes that all find the same."""

    def agreed(self, flag: bool) -> bool:
        return flag


@pytest.mark.parametrize("neighbours", [1, 4])
def test_auto_divides_a_model_that_does_not_fit_beside_those_of_the_neighbours(
    neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU the free memory is that of all processes of a machine, and the model is in it already."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(neighbours))
    session = new_session("plain", "auto", 1)
    n = sum(p.numel() for p in session.model.parameters())
    for free, kind in ((12 * n * neighbours, "ddp"), (12 * n * neighbours - 1, "fsdp")):  # 16 n, of which 4 are there
        monkeypatch.setattr(distributed, "free_memory", lambda device, free=free: free)
        found, why = distributed.choose(session.model, session.options, Agreeing(0, 4), torch.device("cpu"))
        assert found == kind and f"parallel {kind}: 4 processes" in why
        assert ("do not fit one device" in why) is (kind == "fsdp"), why
