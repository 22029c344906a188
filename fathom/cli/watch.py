"""A training run on the terminal: its events go to the live view, on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fathom.report.live import LiveView
from fathom.train.events import Evaluated, Event, Note, Prepared, Progress, Report, Sample, Saved


@contextmanager
def watching(title: str | Path) -> Iterator[Report]:
    """A listener that draws what it is told until the block ends."""
    with LiveView(str(title)) as view:

        def show(event: Event) -> None:
            match event:
                case Note():
                    view.note(event.text, event.warning)
                case Prepared():
                    view.prepared(event.what, event.done, event.total)
                case Progress():
                    view.progress(
                        event.step,
                        event.steps,
                        loss=event.loss,
                        tokens=event.tokens,
                        seconds=event.seconds,
                        learning_rate=event.learning_rate,
                    )
                case Evaluated():
                    view.evaluated(event.step, event.loss, event.bits_per_character)
                case Sample():
                    view.sample(event.step, event.text)
                case Saved():
                    view.saved(event.step, event.path)

        yield show
