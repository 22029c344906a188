"""Which rope layout the weights and the prompt speak for: how a wrong conversion is found."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from fathom.glass.distance import Fault
from fathom.glass.panel import Check, Series
from fathom.glass.passes import LOOKING, Pass
from fathom.inspect.edit import edit
from fathom.inspect.rope_view import pairs_moved, to_interleaved
from fathom.verification.layout import CLEAR, Layout, layout, weights_of

LAYOUTS = (
    "Two orders are in use, and files do not say which one they have. This package rotates half-split channels; Meta's "
    "own files hold interleaved ones."
)
AGAIN = "convert the original file again, q and k in the order that config.json's family expects"
LEARNED = 0.5  # nats below the loss of a uniform guess, from which a model counts as trained


def evidence(run: Pass, fault: Fault | None) -> Layout | None:
    """What the weights, and the loss on the prompt, say about the layout; under the fault, those of a wrong file. None
    where a head has but one pair, which is the same in both."""
    wrong, config = fault == "layout", run.subject.config.resolved()
    if (config.rope.rotated or config.head_dim) < 4:
        return None
    if (key := f"layout {wrong}") not in run.notes:
        texts = [run.ids[0]] if run.t > 2 else []
        as_stored: AbstractContextManager[None] = nullcontext()
        if wrong and texts:
            as_stored = edit(run.model, *pairs_moved(to_interleaved, config.rope.rotated))
        with LOOKING, as_stored:
            run.notes[key] = layout(run.model, texts, weights_of(run.model, to_interleaved if wrong else None))
    found: Layout | None = run.notes[key]
    return found


def layout_check(found: Layout, vocab_size: int) -> Check:
    """Red where the evidence against the layout that is rotated is clear."""
    says = "q and k of all layers together are in the layout that is rotated (evidence against it, in standard errors)"
    return Check("C8", says, against(found, vocab_size), CLEAR)


def against(found: Layout, vocab_size: int) -> float:
    """By how many standard errors the evidence points to the other layout: of the text where it is clear, else of the
    weights, or away from both layouts; 0 where it does not. Weights that predict the text no better than chance in
    either layout are untrained: what their few heads agree on is chance as well.
    """
    known = [loss for loss in (found.loss, found.other_loss) if loss is not None]
    if not known or min(known) > math.log(vocab_size) - LEARNED:
        return 0.0
    if abs(found.lead) >= CLEAR:
        return max(0.0, -found.lead)
    told = found.weights
    if found.neither and told is not None:
        return -max(told.half_split, told.interleaved)
    return max(0.0, (told.interleaved - told.half_split) / 2) if told and told.interleaved >= CLEAR else 0.0


def words_for(found: Layout | None) -> dict[str, Any]:
    """The verdict, in words."""
    if found is None:
        why = "not judged: a head has one pair alone, the same in both layouts"
        return {"verdict": "not judged", "why": why, "about": LAYOUTS}
    why = {
        "right": "the weights of all layers together are in the layout that is rotated; one alone may not be",
        "wrong": f"the weights are in the other layout: this is what a wrong conversion looks like; {AGAIN}",
        "neither": f"the weights are in neither layout, as where a conversion permutes q and k twice; {AGAIN}",
        "undecided": "undecided: weights that are hardly trained, or a text this short, show no layout",
    }["neither" if found.neither else found.verdict]
    return {"verdict": found.verdict, "why": why, "about": LAYOUTS, "standard_errors": found.lead}


def layout_series(found: Layout, fault: Fault | None, with_text: bool) -> dict[str, Series]:
    """The evidence as it is drawn: agreement of partners in the weights, and loss on the prompt, for each layout."""
    wrong = fault == "layout"
    texts, move = ("[ids[0]]" if with_text else "[]"), ("to_interleaved" if wrong else "None")
    edits = "with fathom.edit(model, *pairs_moved(to_interleaved, model.config.rope.rotated)):\n    " * (
        wrong and with_text
    )
    setup = (
        "from fathom.inspect.rope_view import pairs_moved, to_interleaved",
        "from fathom.verification.layout import layout, weights_of",
        f"{edits}found = layout(model, {texts}, weights_of(model, {move}))",
    )

    def one(pair: tuple[float, float], source: str, code: str) -> Series:
        values = torch.tensor(pair, dtype=torch.float64)
        return Series(values, "computed", source, ("layout",), f"({code})[{{0}}]", setup)

    series = {}
    if (told := found.weights) is not None:
        code = "found.weights.half_split, found.weights.interleaved"
        series["agreement"] = one(
            (told.half_split, told.interleaved), "agreement of partners in q and k, in standard errors", code
        )
    if found.loss is not None and found.other_loss is not None:
        code = "found.loss, found.other_loss"
        series["layout_loss"] = one((found.loss, found.other_loss), "mean loss on the prompt, in nats", code)
    return series
