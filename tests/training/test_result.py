"""What a run returns: its figures, its history as columns, and a picture of its loss."""

from pathlib import Path

import pytest

from fathom.errors import FathomError
from fathom.training.events import Evaluated, Event, Progress
from fathom.training.finetune import finetune
from fathom.training.result import COLUMNS
from fathom.training.train import train
from tests.training.runs import recipe


def test_options_are_given_by_their_names(tmp_path: Path) -> None:
    result = train(recipe(tmp_path), tmp_path / "run", max_iters=2, options={"max_iters": 3})
    assert result.step == result.steps == 2
    with pytest.raises(FathomError, match="did you mean max_iters"):
        train(recipe(tmp_path), tmp_path / "run", mode="overwrite", max_iter=2)
    with pytest.raises(FathomError, match=r"rnk was given.*did you mean rank"):
        finetune(tmp_path / "run", "a.txt", tmp_path / "tuned", rnk=4)
    with pytest.raises(FathomError, match="method is 'lorra'; did you mean lora"):
        finetune(tmp_path / "run", "a.txt", tmp_path / "tuned", method="lorra", max_iters=1)


def test_a_result_shows_what_the_run_measured(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(recipe(tmp_path), tmp_path / "run", report=events.append)
    history = result.history
    assert tuple(history) == COLUMNS and {len(column) for column in history.values()} == {12}
    progress = [event for event in events if isinstance(event, Progress)]
    assert history["step"] == [event.step for event in progress]
    assert history["loss"] == [event.loss for event in progress]
    assert history["learning_rate"] == [event.learning_rate for event in progress]
    assert history["seconds"] == pytest.approx([event.seconds for event in progress], abs=1e-4)
    measured = {event.step: event.loss for event in events if isinstance(event, Evaluated)}
    assert history["validation_loss"] == [measured.get(step) for step in range(1, 13)]

    (axes,) = result.plot().axes
    assert [line for line in axes.lines if [*line.get_xdata()] == [4, 8, 12]]
    assert vars(result.plot())["_repr_png_"]().startswith(b"\x89PNG")
    assert f"validation {result.validation_loss:.4f}" in repr(result) and "step 12 of 12" in repr(result)
    page = result._repr_html_()
    assert page.startswith("<pre>") and "data:image/svg+xml;base64," in page
