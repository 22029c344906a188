"""Batches in micro-batches: nothing is lost on the way, and the next one is prepared while this one is used."""

import threading
from collections.abc import Callable

import pytest
import torch

from fathom.data.batches import IGNORED, Batch
from fathom.errors import FathomError
from fathom.model.cache import Packed
from fathom.training.batches import micro_batches, prefetching
from fathom.training.loop import fit
from fathom.training.options import TrainOptions
from fathom.training.session import Session
from tests.training.test_loss import CONFIG

GPU = torch.device("cuda")  # by name: nothing is sent there


def test_targets_are_found_where_they_are() -> None:
    ids, targets = torch.arange(20).view(4, 5), torch.arange(1, 21).view(4, 5)
    targets[1, 2:] = targets[2] = IGNORED
    whole = micro_batches(Batch(ids, targets, name="records 1"), 2)
    assert (whole.count, whole.n_tokens, whole.name, len(whole.parts)) == (12, 20, "records 1", 2)
    for part, rows in zip(whole.parts, (slice(0, 2), slice(2, 4))):
        assert torch.equal(part.ids, ids[rows]) and part.past is None and part.places is not None
        assert torch.equal(targets[rows].flatten()[part.places], part.targets)
        assert (targets[rows] != IGNORED).sum() == len(part.targets)


@pytest.mark.parametrize(("batch", "micro", "passes"), [(12, None, 1), (12, 12, 1), (12, 4, 3), (12, 1, 12)])
def test_accumulation_is_derived(batch: int, micro: int | None, passes: int) -> None:
    session = Session.start(CONFIG, TrainOptions(batch_size=batch, micro_batch_size=micro, device="cpu"))
    parts = session.prepare(torch.zeros(batch, 11, dtype=torch.int64)).parts
    assert [len(part.ids) for part in parts] == [batch // passes] * passes


def test_only_rows_of_several_texts_keep_them_apart() -> None:
    ids, documents = torch.zeros(2, 4, dtype=torch.int64), torch.tensor([[0, 0, 1, 1], [0, 0, 0, -1]])
    first, second = micro_batches(Batch(ids, ids, documents), 1).parts
    assert isinstance(first.past, Packed) and torch.equal(first.past.documents, documents[:1])
    assert second.past is None and second.ids.shape == (1, 3)  # as wide as its longest row


def failing_at(step: int) -> Callable[[int], int]:
    def prepare(asked: int) -> int:
        if asked == step:
            raise FathomError(f"step {asked}")
        return 10 * asked

    return prepare


def test_each_step_gets_its_own_batch_in_any_order() -> None:
    with prefetching(lambda step: 10 * step, 100, GPU) as at:
        assert [at(step) for step in (3, 4, 5, 5, 0, 9)] == [30, 40, 50, 50, 0, 90]


def test_the_next_batch_is_prepared_meanwhile_and_only_that() -> None:
    prepared, ready = list[int](), threading.Event()

    def prepare(step: int) -> int:
        prepared.append(step)
        if step == 8:
            ready.set()
        return step

    with prefetching(prepare, 9, GPU) as at:
        assert at(7) == 7
        assert ready.wait(60)  # without being asked for
        assert at(8) == 8
    assert prepared == [7, 8]  # the run ends there


def test_an_error_is_raised_at_its_own_step() -> None:
    with prefetching(failing_at(3), 9, GPU) as at:
        assert [at(step) for step in range(3)] == [0, 10, 20]
        for _ in range(2):
            with pytest.raises(FathomError, match="step 3"):
                at(3)
        assert at(4) == 40


@pytest.mark.parametrize("error", [None, FathomError("stopped"), KeyboardInterrupt()])
def test_no_thread_is_left(error: BaseException | None) -> None:
    before = threading.active_count()
    try:
        with prefetching(lambda step: step, 9, GPU) as at:
            at(0)
            if error:
                raise error
    except (FathomError, KeyboardInterrupt) as caught:
        assert caught is error
    assert threading.active_count() == before


class Rows:
    """Batches that record which step was requested, by which thread."""

    def __init__(self, broken: int) -> None:
        self.broken, self.asked = broken, list[tuple[int, int]]()

    def at(self, step: int) -> torch.Tensor:
        self.asked.append((step, threading.get_ident()))
        if step == self.broken:
            raise FathomError("the data are damaged")
        return torch.randint(0, 23, (2, 11), generator=torch.Generator().manual_seed(step))


def test_a_run_ends_with_the_error_of_its_data() -> None:
    options = TrainOptions(batch_size=2, max_iters=9, eval_interval=9, dtype="fp32", device="cpu")
    session, rows = Session.start(CONFIG, options), Rows(broken=5)
    with pytest.raises(FathomError, match="the data are damaged"):
        fit(session, rows, [])
    assert session.step == 5
    assert rows.asked == [(step, threading.get_ident()) for step in range(6)]  # a CPU prepares no batch ahead


@pytest.mark.parametrize(("device", "ahead"), [("cpu", False), ("cuda", True), ("mps", True)])
def test_only_what_is_no_cpu_prepares_ahead(device: str, ahead: bool) -> None:
    rows = Rows(broken=5)
    with prefetching(rows.at, 9, torch.device(device)) as at:
        for step in range(5):
            assert torch.equal(at(step), Rows(broken=9).at(step))
        with pytest.raises(FathomError, match="the data are damaged"):
            at(5)
    steps, threads = zip(*rows.asked)
    assert steps[:6] == (0, 1, 2, 3, 4, 5) and len(set(threads)) == 1
    assert (threads[0] != threading.get_ident()) is ahead
