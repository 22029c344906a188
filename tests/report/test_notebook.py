"""In a notebook a run shows itself in the output of its cell; elsewhere nothing is shown unless someone listens."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from fathom.report.notebook import in_notebook, loss_curve_svg
from fathom.training.events import Evaluated, Note, Progress, Sample, silent
from fathom.training.shown import shown


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook's cell shows, newest last, in a kernel as far as this package can tell."""
    shown: list[str] = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    handle = SimpleNamespace(update=shown.append)
    vars(ipython).update(get_ipython=lambda: SimpleNamespace(kernel=object()))
    vars(display).update(HTML=str, display=lambda page, display_id: shown.append(page) or handle)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def test_a_run_shows_itself(outputs: list[str]) -> None:
    assert in_notebook()
    with shown(None, "runs/<demo>") as report:
        for step in range(1, 11):
            report(Progress(step, 10, 5.0 - step / 4, step * 64, step / 10, 1e-3, 1.0))
        report(Evaluated(10, 2.75, 1.0))
        report(Sample(10, "The <b> is"))
        report(Note("overfitting since step 7", warning=True))
    assert "runs/&lt;demo&gt;" in outputs[0] and "<svg" not in outputs[0]
    last = outputs[-1]
    assert "10/10" in last and "loss 2.5000" in last and "val 2.7500" in last and "The &lt;b&gt; is" in last
    assert "warning: overfitting since step 7" in last and last.count("<circle") == 1 and "2.500</text>" in last
    assert len(outputs) < 6  # not at every step


def test_the_curve_falls_with_the_loss() -> None:
    drawn = loss_curve_svg([(step, 5 - step / 100) for step in range(1000)], [])
    points = [tuple(map(float, pair.split(","))) for pair in drawn.split("points='")[1].split("'")[0].split()]
    assert len(points) < 400 and points == sorted(points) and points[0][1] < points[-1][1]  # y grows downwards
    assert loss_curve_svg([(1, 2.0)], []) == ""


def test_elsewhere_nothing_is_shown() -> None:
    assert not in_notebook()
    with shown(None, "x") as report:
        assert report is silent
    with shown(print, "x") as report:
        assert report is print
