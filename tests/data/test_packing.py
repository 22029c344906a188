"""Batches of examples: rows that are packed say nothing else than rows of their own, and a step is a pure function."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fathom.data.batches import IGNORED, Batch
from fathom.data.encoding import TrainingExample
from fathom.data.packing import ExampleBatches, ExampleFile, eval_rows, example_batch, pack, write_examples
from fathom.model.cache import Packed
from fathom.model.transformer import Transformer
from fathom.training.batches import micro_batches
from fathom.training.loss import Learner, accumulate, next_token_loss
from fathom.training.options import TrainOptions
from fathom.training.precision import choose
from tests.architectures import ARCHITECTURES, model_of

CPU = torch.device("cpu")
LENGTHS = [9, 4, 7, 2, 12, 3, 5, 6, 8, 3]


def examples(folder: Path, vocab_size: int = 23) -> ExampleFile:
    random = np.random.default_rng(0)
    made = []
    for number, length in enumerate(LENGTHS, 1):
        ids = random.integers(0, vocab_size, length).astype(np.uint8)
        trained = (np.arange(length) >= length // 2).astype(np.uint8)
        made.append(TrainingExample(ids, trained, number))
    write_examples(folder / "train", made, vocab_size)
    return ExampleFile(folder / "train", vocab_size)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_packing_holds_everything_once_and_overflows_nothing(lengths: list[int]) -> None:
    rows = pack(lengths, 20)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert max(sum(lengths[place] for place in row) for row in rows) <= 20
    assert len(rows) <= 1.7 * (sum(lengths) / 20) + 1  # of best fit


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = examples(tmp_path)
    assert found.lengths.tolist() == LENGTHS
    assert [found[i].number for i in range(10)] == list(range(1, 11))
    assert found[4].n_trained == 6


def test_targets_are_the_next_tokens_where_they_are_learned(tmp_path: Path) -> None:
    found = examples(tmp_path)
    made = example_batch(found, [[0, 3], [4]])
    assert made.ids.shape == (2, 11) and made.name == "records 1, 4, 5" and made.n_tokens == 8 + 1 + 11
    assert made.documents is not None
    assert made.documents[1].tolist() == [0] * 8 + [1] + [-1] * 2
    row = np.where(found[0].trained[1:], found[0].ids[1:].astype(int), IGNORED).tolist()
    assert made.targets[1, :8].tolist() == row and row.count(IGNORED) == 3
    assert (made.targets[1, 9:] == IGNORED).all()


def test_positions_begin_anew_and_attention_ends_at_each_text() -> None:
    past = Packed(torch.tensor([[0, 0, 0, 1, 1, -1], [0, 1, 2, 2, 2, 2]]))
    assert past.positions(6).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]
    seen = past.visible(6)[0, 0].int().tolist()
    assert seen[2] == [1, 1, 1, 0, 0, 0] and seen[4] == [0, 0, 0, 1, 1, 0] and seen[5] == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_text_gives_the_same_logits_in_company(name: str, tmp_path: Path) -> None:
    """To the bit it need not be: other rows, other kernels."""
    model = model_of(ARCHITECTURES[name], 0.2)
    found = examples(tmp_path, ARCHITECTURES[name].vocab_size)
    whole = example_batch(found, [[1, 2, 3]])
    together = model(whole.ids, whole.past())[0].split([3, 6, 1])
    for place, logits in zip((1, 2, 3), together):
        alone = model(torch.from_numpy(found[place].ids[None, :-1].astype(np.int64)))[0]
        torch.testing.assert_close(logits, alone, rtol=0, atol=1e-5)


def gradient(model: Transformer, rows: Batch, size: int | None = None) -> tuple[Tensor, Tensor]:
    precision = choose(TrainOptions(dtype="fp32"), model.config, CPU)
    model.zero_grad()
    loss = accumulate(Learner(model), micro_batches(rows, size), precision, precision.scaler())
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_loss_and_gradient_are_those_of_rows_of_their_own(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ARCHITECTURES[name]
    model, found = model_of(config, 0.2), examples(tmp_path, config.vocab_size)
    (packed,), (alone,) = (list(eval_rows(found, None, 10, capacity)) for capacity in (12, None))
    assert len(packed.ids) < len(alone.ids)
    (loss, slope), (expected, reference) = gradient(model, packed), gradient(model, alone)
    assert abs(loss - expected) < 1e-5
    assert (slope - reference).norm() <= 1e-5 * reference.norm()
    small, micro = gradient(model, packed, 1)
    assert abs(small - expected) < 1e-5 and (micro - reference).norm() <= 1e-5 * reference.norm()


def test_filling_is_seen_by_nobody(tmp_path: Path) -> None:
    config = next(iter(ARCHITECTURES.values()))
    model, found = model_of(config), examples(tmp_path, config.vocab_size)
    made = example_batch(found, [[0], [1, 3], [4]])
    assert made.documents is not None
    filled = made.ids.masked_fill(made.documents < 0, 5)
    losses = [
        next_token_loss(model, micro_batches(replace(made, ids=ids)).parts[0]).item() for ids in (made.ids, filled)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("capacity", [None, 12])
def test_a_step_is_a_pure_function_of_seed_and_step(capacity: int | None, tmp_path: Path) -> None:
    found = examples(tmp_path)
    one, other = (ExampleBatches(found, 3, 7, capacity) for _ in range(2))
    for step in (5, 0, 9, 5):
        assert torch.equal(one.at(step).ids, other.at(step).ids)
    assert any(not torch.equal(one.at(s).ids, ExampleBatches(found, 3, 8, capacity).at(s).ids) for s in range(3))


@pytest.mark.parametrize("capacity", [None, 12])
def test_every_epoch_shows_every_example_once(capacity: int | None, tmp_path: Path) -> None:
    batches = ExampleBatches(examples(tmp_path), 1, 7, capacity)
    n = len(batches.rows)
    orders = []
    for epoch in range(3):
        names = [batches.at(epoch * n + i).name.removeprefix("records ").split(", ") for i in range(n)]
        orders.append([number for name in names for number in name])
        assert sorted(map(int, orders[-1])) == list(range(1, 11))
    assert orders[0] != orders[1] != orders[2]


def test_micro_batches_are_as_wide_as_their_longest_row(tmp_path: Path) -> None:
    parts = example_batch(examples(tmp_path), [[3], [4], [5], [0]]).split(2)
    assert [tuple(part.ids.shape) for part in parts] == [(2, 11), (2, 2)]


def test_evaluation_is_the_same_every_time_and_spread_evenly(tmp_path: Path) -> None:
    found = examples(tmp_path)
    assert [b.name for b in eval_rows(found, 5, 2, None)] == [b.name for b in eval_rows(found, 5, 2, None)]
    names = {int(n) for b in eval_rows(found, 5, 2, None) for n in b.name.removeprefix("records ").split(", ")}
    assert names == {1, 3, 5, 7, 9}
