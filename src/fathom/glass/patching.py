"""P6's second prompt: what is computed for it, put into the pass of the first, layer by layer and token by token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from fathom.errors import FathomError
from fathom.glass.panel import Check, Series, checked
from fathom.glass.passes import LOOKING, Pass, first_pass
from fathom.glass.snippet import looking
from fathom.inspect.patch import What, patching_a_layer, recovered, require_alike, sweep, tensor

ABOUT = (
    "Write a prompt with as many tokens and a different next token. What the model computes for it is copied into this "
    "prompt's pass, one place at a time: which place brings the second prompt's answer along?"
)


class Allowance(Protocol):
    def cost(self, passes: int) -> dict[str, object]: ...


@dataclass(frozen=True)
class Patch:
    """What the second prompt gives to the panel."""

    facts: Mapping[str, Any]
    series: Mapping[str, Series] = field(default_factory=dict)
    checks: Sequence[Check] = ()


def patch(run: Pass, prompt: str, what: What, at: int, allowance: Allowance) -> Patch:
    """The second prompt's activations put into this pass, read at position `at`; nothing where the prompt is empty."""
    if not prompt:
        return Patch({"why": None})
    try:
        other = run.notes.get(f"other {prompt}") or first_pass(run.subject, prompt, run.seed)
        require_alike(run.ids, other.ids)
        if what == "mlp" and run.model.config.mlp == "none":
            raise FathomError("the blocks of this model have no MLP; put in the stream, attn or heads")
    except FathomError as error:
        return Patch({"why": str(error)})
    run.notes[f"other {prompt}"] = other
    return filled(run, other, what, at, allowance)


def filled(run: Pass, other: Pass, what: What, at: int, allowance: Allowance) -> Patch:
    model, layers = run.model, range(len(run.model.blocks))
    seen = other.seen("blocks.0", "logits", *(tensor(model.config, layer, what) for layer in layers))
    here, there = run.logits[at], other.logits[at]  # (V,)
    a, b = int(here.argmax()), int(there.argmax())
    columns = model.config.n_head if what == "heads" else run.t
    cost = allowance.cost(len(layers) * columns)
    facts = {
        "why": None,
        "tokens": other.tokens(),
        "says": [{"id": id, "text": run.text_of(id)} for id in (a, b)],
        **cost,
    }
    with LOOKING:
        checks = checked("C7", "patching_a_layer", patching_a_layer(model, run.ids, seen))
        if not cost["computed"]:
            return Patch(facts, checks=checks)
        found = sweep(model, run.ids, seen, what, at)  # (L, columns, V)
    return Patch(facts, series(run, other, what, at, found, (a, b)), checks)


def series(run: Pass, other: Pass, what: What, at: int, found: Tensor, says: tuple[int, int]) -> dict[str, Series]:
    """How far each patch goes towards the second prompt, and the lead of its likeliest token."""
    (a, b), here, there = says, run.logits[at], other.logits[at]
    config, load = run.model.config, "from fathom.inspect.patch import patched, recovered, tensor"
    index = "(slice(None), {1})" if what == "heads" else "{1}"
    setup = (
        f"first, ids = ids, torch.tensor({other.ids.tolist()})",
        *looking(["logits", *(tensor(config, layer, what) for layer in range(config.n_layer))], load),
        "with torch.no_grad():",
        f'    here, there = model(first)[0, {at}], seen["logits"][0, {at}]',
    )
    one = f"patched(model, first, seen, tensor(model.config, {{0}}, {what!r}), [{index}])[0, {at}]"
    dims = ("layer", "head" if what == "heads" else "token")
    far, gap = recovered(found, here, there), found[..., b] - found[..., a]
    way = "1 - KL(second, patched) / KL(second, first)"
    lead = f"logit {b} - logit {a}, the likeliest of the second and of the first prompt"
    return {
        "recovered": Series(far, "computed", way, dims, f"recovered({one}, here, there)", setup),
        "lead": Series(gap, "computed", lead, dims, f"({one})[{b}] - ({one})[{a}]", setup),
    }
