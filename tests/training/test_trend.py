"""What losses mean: a new model is no divergence, overfitting is none either, and the checkpoint in use is named."""

import math
from collections.abc import Sequence

import pytest

from fathom.errors import Diverged
from fathom.training.events import Evaluated, Note, Progress
from fathom.training.trend import Trend

GUESSING = math.log(65)


def heard(losses: Sequence[tuple[float, float]], keep_going: bool = False, saved: int = 0) -> tuple[Trend, list[Note]]:
    """The trend after ten steps at each training loss, with an evaluation at each validation loss."""
    trend, notes = Trend(GUESSING, keep_going, lambda: [saved] if saved else []), []
    for place, (training, validation) in enumerate(losses):
        for step in range(10 * place + 1, 10 * place + 11):
            notes += list(trend(Progress(step, 100, training, step, 1.0, 1e-3, 1.0)))
        notes += list(trend(Evaluated(10 * place + 10, validation, 1.0)))
    return trend, notes


@pytest.mark.parametrize(
    "losses",
    [
        [(GUESSING, GUESSING + 0.01)],  # a new model knows nothing
        [(9.0, 9.1), (8.0, 8.1)],  # one that begins worse than guessing, and learns
        [(3.0, 3.0), (2.0, 2.1), (2.1, 2.2)],  # noise
        [(2.0, 2.5), (1.0, 4.0), (0.2, 9.0)],  # all by heart: overfitting, however high
    ],
)
def test_what_is_no_divergence(losses: Sequence[tuple[float, float]]) -> None:
    heard(losses)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([(4.0, 3.0), (190_000.0, 194_889.0)], "at step 20 is 194,889.0000, worse than at the start or guessing"),
        ([(2.5, 2.4), (1.5, 1.6), (3.0, 3.1)], "at step 30 is 3.1000; its best was 1.6000 at step 20"),
        ([(2.5, 2.4), (1.5, math.nan)], "at step 20 is nan"),
        ([(2.5, 2.4), (1.5, math.inf)], "at step 20 is inf"),
    ],
)
def test_divergence_is_one_clear_line(losses: Sequence[tuple[float, float]], words: str) -> None:
    with pytest.raises(Diverged, match=words) as raised:
        heard(losses, saved=10)
    assert "fathom generate uses the checkpoint of step 10" in str(raised.value) and raised.value.exit_code == 1
    _, notes = heard(losses, keep_going=True)
    assert [note.warning for note in notes] == [True] and words in notes[0].text


def test_a_model_that_exists_may_begin_worse_than_guessing() -> None:
    trend = Trend(GUESSING)
    assert list(trend(Evaluated(0, 9.0, 0.0))) == [] and trend.best == (9.0, 0)


def test_overfitting_is_reported_once_and_the_best_checkpoint_at_the_end() -> None:
    losses = [(3.0, 3.0), (2.5, 2.6), (2.2, 2.9), (2.0, 3.0), (1.8, 3.1)]
    trend, notes = heard(losses, saved=20)
    (note,) = notes
    assert note.warning and note.text.startswith("overfitting since step 20: the validation loss rises (2.6000 to 3.0")
    closing = trend.closing()
    assert closing is not None and closing.warning
    assert "2.6000 at step 20; at the end it is 3.1000, since the model overfits" in closing.text
    assert "uses the checkpoint of step 20" in closing.text


def test_a_last_best_is_said_to_be_the_last() -> None:
    closing = heard([(3.0, 3.0), (2.5, 2.6)], saved=20)[0].closing()
    assert closing is not None and not closing.warning and "2.6000 at step 20, the last" in closing.text
    assert heard([(3.0, 3.0)])[0].closing() is None


def test_a_resumed_run_knows_what_was() -> None:
    losses = [(3.0, 3.0), (2.5, 2.6), (2.2, 2.9), (2.0, 3.0)]
    lines = [
        line
        for place, (training, validation) in enumerate(losses)
        for line in (
            *({"step": step, "loss": training} for step in range(10 * place + 1, 10 * place + 11)),
            {"step": 10 * place + 10, "val_loss": validation},
        )
    ]
    trend = Trend(GUESSING)
    trend.replay(lines)
    known = heard(losses)[0]
    assert {k: v for k, v in vars(trend).items() if k != "saved"} == {
        k: v for k, v in vars(known).items() if k != "saved"
    }
    assert trend.overfitting and trend.best == (2.6, 20)
