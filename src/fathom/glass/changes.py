"""What changed the weights of a pass: adapters, or the model beside it; and the spectra of one of its matrices.

What is computed is kept with the pass: sliders ask for the same again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from fathom.adapters import lora
from fathom.adapters.svd import random_product_spectrum, random_spectrum, svd
from fathom.errors import FathomError
from fathom.glass.passes import Pass
from fathom.lab import changed as lab
from fathom.lab.changed import SAME, Changed, Decomposed
from fathom.lab.spectra import Delta, terms

STRONGEST = 10  # directions among which intruders are sought


@dataclass(frozen=True)
class Found:
    """A change that there is: the pass of the model that has it, and the Python that makes it."""

    decomposed: Decomposed
    owner: Pass
    code: str

    @property
    def changed(self) -> Changed:
        return self.decomposed.changed


def changes(run: Pass, fault: str) -> tuple[dict[str, Found], str]:
    """What changed the weights: "lora", the adapters of this model or of the one beside it; "full", the model beside
    it; "" alone where nothing did. And why there is no change to the model beside, in words."""
    key = f"lora fault={fault}"
    if key in run.notes:
        known: tuple[dict[str, Found], str] = run.notes[key]
        return known
    other, note = run.beside, ""
    found: dict[str, Found] = {}
    for one, called in ((run, "model"), (other, "other")):
        if one is not None and "lora" not in found and lora.active_adapters(one.model).weights:
            change, code = lab.adapted(one.model), f"adapted({called})"
            if fault == "alpha":
                change, code = without_rank(change), f"without_rank({code})"
            found["lora"] = Found(Decomposed(change, run.ids), one, code)
    if other is not None and not lora.active_adapters(other.model).weights:
        try:
            change = lab.towards(run.model, other.model)
            found["full"] = Found(Decomposed(change, run.ids), other, "towards(model, other)")
        except FathomError as problem:
            if "lora" not in found or SAME not in str(problem):  # beside its own base an adapter is all that changed
                note = f"{run.subject.name} beside {other.subject.name}: {problem}."
    if not found:
        found[""] = Found(Decomposed(lab.unchanged(run.model), run.ids), run, "unchanged(model)")
    run.notes[key] = found, note
    return found, note


def without_rank(changed: Changed) -> Changed:
    """The fault: the change as it is when alpha is its scale, not alpha / r."""
    read = changed.read

    def wrong(layer: str) -> Delta:
        delta = read(layer)  # type: ignore[misc]
        return (delta[0] * delta[0].shape[1], delta[1]) if isinstance(delta, tuple) else delta * min(delta.shape)

    return replace(changed, read=wrong)


class Spectra:
    """The decompositions of one matrix and of what was added to it, kept with the pass."""

    def __init__(self, found: Mapping[str, Decomposed], name: str) -> None:
        first = next(iter(found.values())).changed
        read = {kind: one.changed.read for kind, one in found.items() if name in one.changed.names}
        self.name, self.weight = name, first.before(name)
        self.deltas: dict[str, Delta] = {kind: each(name) for kind, each in read.items() if each}
        self.terms = {"weight": terms(self.weight), **{kind: terms(delta) for kind, delta in self.deltas.items()}}

    def norm(self, kind: str) -> float:
        if kind == "weight":
            return float(self.weight.norm())
        delta = self.deltas[kind]
        return float(delta.norm() if isinstance(delta, Tensor) else self.terms[kind].s.norm())

    def chance(self, kind: str) -> Tensor:
        """Of a random matrix of the same shape and norm, or of a random product through as many dimensions."""
        delta, shape = self.deltas.get(kind), (self.weight.shape[0], self.weight.shape[1])
        if isinstance(delta, tuple):
            return random_product_spectrum(shape, delta[0].shape[1], self.norm(kind))
        return random_spectrum(shape, self.norm(kind))[: len(self.terms[kind].s)]

    def energy(self, kind: str) -> Tensor:
        """The share of |.|^2 that the first r directions hold, for r from 1."""
        return (self.terms[kind].s.double().square().cumsum(0) / max(self.norm(kind) ** 2, 1e-300)).clamp(max=1)

    def near(self, kind: str) -> Tensor:
        """Of each of the strongest directions of W + dW, the largest |cosine| to any of W's."""
        return lab.nearest_directions(self.terms["weight"], svd(self.weight + lab.whole(self.deltas[kind])), STRONGEST)


def spectra_of(run: Pass, found: Mapping[str, Found], name: str) -> Spectra:
    key = f"lora spectra {name} {[one.code for one in found.values()]}"
    if key not in run.notes:
        run.notes[key] = Spectra({kind: one.decomposed for kind, one in found.items()}, name)
    made: Spectra = run.notes[key]
    return made


def counted_rank(every: Spectra, kind: str) -> int:
    """The rank that the matrix could have: of a product of factors, their inner dimension."""
    delta = every.deltas.get(kind)
    return delta[0].shape[1] if isinstance(delta, tuple) else min(every.weight.shape)


def loss_at(run: Pass, one: Found, method: str, place: float) -> float:
    """Kept with the pass: a slider asks for the same ranks again."""
    key = f"lora {one.code} {method} {place}"
    if key not in run.notes:
        run.notes[key] = getattr(one.decomposed, method)(place)
    known: float = run.notes[key]
    return known


def setup_of(run: Pass, found: Mapping[str, Found]) -> tuple[str, ...]:
    """Python that makes `found` again."""
    other = "other" in " ".join(one.code for one in found.values()) and run.beside
    lines = [f"other, _ = {other.subject.loading.partition(' = ')[2]}"] if other else []
    inner = ", ".join(f"{kind!r}: Decomposed({one.code}, ids)" for kind, one in found.items())
    return (
        *lines,
        "from fathom.glass.changes import Spectra, without_rank",
        "from fathom.lab.changed import Decomposed, adapted, towards, unchanged",
        f"found = {{{inner}}}",
    )
