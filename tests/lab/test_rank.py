"""Loss against rank: both ends are what they must be, more rank keeps more, and the page says what was measured."""

import math
import re
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fathom.adapters.svd import svd
from fathom.errors import FathomError
from fathom.lab import report
from fathom.lab.pages import rank_page
from fathom.lab.rank import allocate, fewest_terms, loss_vs_rank, n_parameters
from fathom.lab.result import Point, RankOptions, RankResult
from fathom.training.events import Event, Note
from tests.lab.conftest import SMALL
from tests.report.test_html import Reader

Ran = tuple[RankResult, list[Event]]


def test_both_ends(experiment: Ran) -> None:
    """Rank 0 of dW lacks all but what norms learned; the full rank of dW, and of W + dW, is the tuned model."""
    result = experiment[0]
    assert [point.rank for point in result.change] == [0, 1, 2, 4, 8, 16, 32]
    assert result.tuned < result.base and abs(result.change[0].loss - result.base) < 0.1 * (result.base - result.tuned)
    for points in (result.change, result.weight, result.chance):
        assert points[-1].loss == pytest.approx(result.tuned, abs=1e-3)
    assert result.chance[0].loss == pytest.approx(result.change[0].loss, abs=1e-5)
    assert result.weight[0].loss == pytest.approx(math.log(30), abs=1e-3)  # no matrix is left: all tokens alike


def test_more_rank_keeps_more_and_the_strongest_directions_most(experiment: Ran) -> None:
    result = experiment[0]
    slack = 0.05 * (result.base - result.tuned)
    assert all(later.loss < before.loss + slack for before, later in pairwise(result.change))
    assert all(c.loss < r.loss + slack for c, r in zip(result.change, result.chance))
    assert all(c.loss < w.loss for c, w in zip(result.change[1:4], result.weight[1:4]))


def test_lora_was_trained_at_every_rank_on_every_matrix(experiment: Ran) -> None:
    result = experiment[0]
    assert [point.rank for point in result.lora] == [1, 2, 4, 8, 16, 32]
    assert all(point.loss < result.base for point in result.lora)
    assert all(matrix.adapted for matrix in result.matrices)
    assert [p.parameters for p in result.lora] == [p.parameters for p in result.change[1:]]


def test_what_is_recommended_keeps_what_was_wanted(experiment: Ran) -> None:
    result = experiment[0]
    best = result.recommended
    assert result.kept(best.loss) >= 0.9 and best.trained is not None
    assert best.parameters == sum(m.rank * sum(m.shape) for m in result.matrices)
    assert best.parameters <= result.enough(result.change).parameters  # type: ignore[union-attr]
    assert all(0 <= m.rank <= m.max_rank for m in result.matrices)


def test_the_same_call_gives_the_same_losses(base: Path, words: Path, experiment: Ran) -> None:
    options = replace(experiment[0].options, ranks=(0, 2))
    again = loss_vs_rank(base, options)
    assert (again.base, again.tuned) == (experiment[0].base, experiment[0].tuned)
    assert again.change == (experiment[0].change[0], experiment[0].change[2])
    assert again.lora == (experiment[0].lora[1],)


def test_the_page_has_every_number_and_says_where_it_is(experiment: Ran) -> None:
    result = experiment[0]
    page = rank_page(result, "there.json")
    text = Reader(page).text
    for row in (*report.rank_table(result).rows, *report.matrices_table(result).rows):
        assert all(cell in text for cell in row)
    for sentence in report.conclusions(result):
        assert sentence in text
    assert page.count("data:image/png;base64,") == 12 and not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "In there.json: base, tuned, change[]" in text and result.text.fingerprint in text


def test_conclusions_follow_the_numbers(experiment: Ran) -> None:
    result = experiment[0]
    flat = tuple(replace(point, loss=result.base) for point in result.change)
    text = " ".join(report.conclusions(replace(result, change=flat, weight=result.change)))
    assert "kept by ΔW cut to none of these ranks" in text
    assert "the change is as hard to cut" in text
    high = (*flat[:-1], Point(32, result.tuned, 1))
    text = " ".join(report.conclusions(replace(result, weight=high)))
    assert "the weights are not of low rank, but their change is" in text
    assert "W + ΔW cut to rank 32," in text


def test_progress_is_reported(experiment: Ran) -> None:
    notes = [event.text for event in experiment[1] if isinstance(event, Note)]
    assert notes[0].startswith("full fine-tune: loss ") and [n[:5] for n in notes[1:]] == ["LoRA,"] * 6


def test_minutes_decide_the_steps(base: Path, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is 0.3 s further at each look: three steps take that, and so does an evaluation."""
    clock = count(step=0.3)
    monkeypatch.setattr("fathom.lab.rank.time", SimpleNamespace(monotonic=lambda: next(clock)))
    small = {**SMALL, "steps": None, "ranks": (0, 1), "data": str(words), "device": "cpu"}
    result = loss_vs_rank(base, RankOptions(**{**small, "minutes": 0.45}))
    assert result.steps == int((0.8 * 0.45 * 60 - 50 * 0.3) / (3 * 0.1))  # 0.8 of the time, less 50 evaluations
    with pytest.raises(FathomError, match="is too short: 3 trainings of 10 steps take"):
        loss_vs_rank(base, RankOptions(**{**small, "minutes": 1e-4}))


BAD = [
    ({"ranks": (0, 33)}, "rank 33 is larger than every matrix; give at most 32"),
    ({"learning_rate": 1e-12}, "fine-tuning took the loss from"),
    ({"context_length": 64}, "context_length is 64; the model has 32"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_done(base: Path, words: Path, message: str, given: dict[str, object]) -> None:
    with pytest.raises(FathomError, match=message):
        loss_vs_rank(base, RankOptions(**{**SMALL, "steps": 2, "data": str(words), "device": "cpu", **given}))


def test_stopping_ends_it(base: Path, words: Path) -> None:
    with pytest.raises(FathomError, match="stopped before the experiment was done"):
        loss_vs_rank(base, RankOptions(data=str(words), device="cpu", **SMALL), stop=lambda: True)


@pytest.mark.parametrize(
    ("field", "value"), [("minutes", 0), ("keep", 1), ("ranks", (-1,)), ("batch_size", 0), ("learning_rate", -1)]
)
def test_options_out_of_range(field: str, value: object) -> None:
    with pytest.raises(FathomError, match=field.split("_")[0]):
        RankOptions(**{field: value})


def test_the_best_terms_are_taken_first() -> None:
    """A large matrix must carry more energy for its term to be worth its numbers."""
    changes = {
        "small": svd(torch.diag(torch.tensor([3.0, 1.0]))),
        "large": svd(torch.diag(torch.tensor([4.0, 0, 0, 0]))),
    }
    assert [allocate(changes, count) for count in (0, 1, 2, 3)] == [
        {"small": 0, "large": 0}, {"small": 1, "large": 0}, {"small": 1, "large": 1}, {"small": 2, "large": 1}
    ]  # fmt: skip
    assert n_parameters(changes, {"small": 2, "large": 1}) == 2 * 4 + 8
    assert fewest_terms(changes, lambda ranks: ranks["large"] > 0) == {"small": 1, "large": 1}
    assert sum(fewest_terms(changes, lambda ranks: False).values()) == 6  # all of them, when nothing less is enough
