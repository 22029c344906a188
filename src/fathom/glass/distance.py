"""What of one layer is shown by how far apart tokens are: scores and attention of its heads, also of a wrong layout."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.glass.panel import Series
from fathom.glass.passes import LOOKING, MAX_BYTES, Pass
from fathom.inspect.edit import edit
from fathom.inspect.look import look
from fathom.inspect.rope_view import by_distance, pairs_moved, to_interleaved

Fault = Literal["layout", "angles"]


def place(what: str, at: int, count: int) -> int:
    """A layer or head by its number, from the end where negative. FathomError: there is none."""
    if not -count <= at < count:
        raise FathomError(f"there is no {what} {at}; this model has {what}s 0 to {count - 1}")
    return at % count


def recorded(run: Pass, layer: int, fault: Fault | None) -> Mapping[str, Tensor]:
    """q, k, scores and pattern of a layer; under the fault of a wrong layout, those of a pass with it."""
    names = [f"blocks.{layer}.attn.{x}" for x in ("q", "k", "scores", "pattern")]
    if fault != "layout":
        return run.seen(*names)
    key = f"wrong layout {layer}"
    if key not in run.notes:
        moved = pairs_moved(to_interleaved, run.subject.config.rope.rotated)
        with torch.no_grad(), LOOKING, edit(run.model, *moved), look(run.model, *names, max_bytes=MAX_BYTES) as seen:
            run.model(run.ids)
            run.notes[key] = {name: seen[name] for name in names}
    found: Mapping[str, Tensor] = run.notes[key]
    return found


def looking(fault: Fault | None, *names: str) -> tuple[str, ...]:
    """Lines that record these names as `seen`."""
    wrong = fault == "layout"
    first = ("from fathom.inspect.rope_view import pairs_moved, to_interleaved",) * wrong
    edits = "fathom.edit(model, *pairs_moved(to_interleaved, model.config.rope.rotated)), " * wrong
    quoted = ", ".join(f'"{name}"' for name in names)
    return (*first, f"with torch.no_grad(), {edits}fathom.look(model, {quoted}) as seen:", "    model(ids)")


def over_heads(run: Pass, layer: int, fault: Fault | None = None) -> dict[str, Series]:
    """Scores and attention of all heads of a layer, as means over the pairs of tokens this far apart."""
    series = {}
    for name, what in (("scores", "mean score"), ("pattern", "mean attention")):
        path = f"blocks.{layer}.attn.{name}"
        setup = (*looking(fault, path), "from fathom.inspect.rope_view import by_distance")
        values = by_distance(recorded(run, layer, fault)[path][0])
        code = f'by_distance(seen["{path}"][0])[{{0}}, {{1}}]'
        series[f"{name}_over_distance"] = Series(
            values, "computed", f"{what} in {path}", ("head", "distance"), code, setup
        )
    return series
