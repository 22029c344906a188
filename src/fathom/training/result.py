"""How a run of training ended: its figures, all that it measured, and a picture of its loss."""

from __future__ import annotations

import html
import math
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.formats.run import METRICS
from fathom.training.events import loss_curves, read_metrics
from fathom.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("step", "loss", "validation_loss", "learning_rate", "grad_norm", "tokens", "seconds")
BALANCE = "load_balancing_loss"  # a column of models with experts
History = dict[str, list[float | None]]


@dataclass(frozen=True, repr=False)
class Result:
    """How a run ended. Losses in nats per token; seconds count everything since step 1, saves and samples too.

    Printed, it is a summary; in a notebook, with the picture of the loss.
    """

    folder: Path
    step: int
    steps: int
    loss: float | None
    validation_loss: float | None
    bits_per_character: float | None
    bits_per_byte: float | None
    tokens: int
    seconds: float
    exit_code: int  # 0 done, 130 or 143 stopped by Ctrl-C or SIGTERM

    @property
    def history(self) -> History:
        """What the run measured, as columns of one length, by name: a row for each step that was written down.

        step, loss and validation_loss (nats per token), learning_rate, grad_norm, tokens and seconds since step 1; of a
        mixture of experts load_balancing_loss too. A
        cell is None where nothing was measured at its step. `pandas.DataFrame(result.history)` is a table of it.
        """
        rows: dict[int, dict[str, float]] = {}
        for line in read_metrics(self.folder / METRICS):
            renamed = {"validation_loss" if name == "val_loss" else name: value for name, value in line.items()}
            if {"loss", "validation_loss"} & renamed.keys():
                rows[line["step"]] = {**renamed, **rows.get(line["step"], {})}
        mixture = [BALANCE] if any(BALANCE in row for row in rows.values()) else []
        return {name: [rows[step].get(name) for step in sorted(rows)] for name in (*COLUMNS, *mixture)}

    def plot(self) -> Figure:
        """The loss against the step, as a matplotlib figure: `result.plot().savefig("loss.png")`."""
        from fathom.report.plot import loss_curve, png

        figure = loss_curve(*loss_curves(self.folder / METRICS))
        vars(figure)["_repr_png_"] = lambda: png(figure)  # what a notebook shows
        return figure

    def __repr__(self) -> str:
        done = f"{'stopped at' if self.exit_code else 'done:'} step {self.step:,} of {self.steps:,}"
        lines = [f"{self.folder}: {done} in {self.seconds:.1f} s, {counted(self.tokens, 'token')}"]
        named = {"train": self.loss, "validation": self.validation_loss}
        losses = [f"{name} {loss:.4f}" for name, loss in named.items() if loss is not None]
        lines += [f"loss: {', '.join(losses)} nats per token"] if losses else []
        if self.validation_loss is not None and self.bits_per_character is not None:
            perplexity = math.exp(min(self.validation_loss, 700))
            lines.append(f"perplexity {perplexity:,.2f}, {self.bits_per_character:.3f} bits per character")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from fathom.report.plot import svg

        picture = b64encode(svg(self.plot())).decode()
        image = f'<img alt="loss against step" src="data:image/svg+xml;base64,{picture}">'
        return f"<pre>{html.escape(repr(self))}</pre>{image}"
