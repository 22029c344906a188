"""Where the events of a run are shown: by the caller's listener, in a notebook, or nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.training.events import Evaluated, Event, Note, Prepared, Progress, Report, Sample, Saved, silent

if TYPE_CHECKING:
    from fathom.report.live import LiveView


@contextmanager
def shown(report: Report | None, title: str | Path) -> Iterator[Report]:
    """The listener itself; where there is none, one that shows the run in a notebook, else one that does nothing."""
    if report is not None:
        yield report
        return
    from fathom.report.notebook import NotebookView, in_notebook

    if not in_notebook():
        yield silent
        return
    with NotebookView(str(title)) as view:
        yield showing(view)


def showing(view: "LiveView") -> Report:
    """A listener that shows events in a live view."""

    def show(event: Event) -> None:
        match event:
            case Note():
                view.note(event.text, event.warning)
            case Prepared():
                view.prepared(event.what, event.done, event.total, event.left)
            case Progress():
                view.progress(
                    event.step,
                    event.steps,
                    loss=event.loss,
                    tokens=event.tokens,
                    seconds=event.seconds,
                    learning_rate=event.learning_rate,
                    left=event.left,
                )
            case Evaluated():
                view.evaluated(event.step, event.loss, event.bits_per_character)
            case Sample():
                view.sample(event.step, event.text)
            case Saved():
                view.saved(event.step, event.path)

    return show
