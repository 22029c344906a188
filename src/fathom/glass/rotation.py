"""Rotated positions: one query and one key as points on circles, their score at every place, and what breaks it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.glass.distance import Fault, looking, over_heads, place, recorded
from fathom.glass.panel import Check, Panel, Series, checked
from fathom.glass.passes import Pass
from fathom.glass.rope_layout import evidence, layout_check, layout_series, words_for
from fathom.inspect.rope_view import Rotation, Scaling, Turned, changed, other_angles, over_distance, score_of, turned
from fathom.model.position import Rope, frequencies
from fathom.verification.layout import agreements

FEWEST, MOST = 32, 64  # positions at which a query and a key are shown
FAR, FAR_POINTS = 4, 192  # contexts over which a score is followed, and points of that line
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Options:
    """query and key: the tokens whose vectors are turned. theta, scaling, factor: the rotation as it would be with
    these. fault: weights as a file of the other layout has them, or the angles of the other layout."""

    layer: int = 0
    head: int = 0
    query: int = -1
    key: int = 0
    theta: float | None = None
    scaling: Scaling | None = None
    factor: float = 1.0
    fault: Fault | None = None

    @property
    def changes(self) -> str:
        """The rotation's differences from the model's, as arguments of `changed`; "" where there are none."""
        given = {"theta": self.theta, "scaling": self.scaling, "factor": None if self.factor == 1 else self.factor}
        return ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)


def rope(run: Pass, options: Options) -> Panel:
    """Pairs of channels as points on circles."""
    config, model = run.subject.config.resolved(), run.model
    layer, head = place("layer", options.layer, config.n_layer), place("head", options.head, config.n_head)
    if config.layers.kind(layer) == "n":
        others = [n for n in range(config.n_layer) if config.layers.kind(n) != "n"]
        where = f"layers {', '.join(map(str, others[:8]))} do" if others else "no layer of this model does"
        return Panel(absent=f"Layer {layer} does not rotate: its heads see no positions at all; {where}.")
    query, key, n = run.place(options.query), run.place(options.key), positions_shown(run.t)
    path, tensors = f"blocks.{layer}.attn", recorded(run, layer, options.fault)
    q, k = tensors[f"{path}.q"][0, query], tensors[f"{path}.k"][0, key]
    position = other_angles(model) if options.fault == "angles" else None
    position = changed(model, options.theta, options.scaling, options.factor) if options.changes else position
    rotation, own = Rotation(model, layer, run.t, position), Rotation(model, layer, run.t)
    shown = turned(rotation, head, q, k, n)
    distances = torch.linspace(0, FAR * config.context_length, FAR_POINTS).long().unique()
    lines = [over_distance(each, head, q, k, distances) for each in [own] + [rotation] * bool(position)]
    found = evidence(run, options.fault)
    code = Code(run, options, layer, head, query, key, n)
    facts = {
        "kind": "rope", "layer": layer, "head": head, "query": query, "key": key, "positions": n,
        "channels": config.head_dim, "rotated": rotation.channels, "context_length": config.context_length,
        "theta": theta_of(run, options, layer), "scaling": scaling_of(run, options, layer),
        "distances": distances.tolist(), "changed": options.changes, "normed_after": config.qk_norm == "rotated",
        "layout": words_for(found),
    }  # fmt: skip
    series = code.turned(shown) | code.far(torch.stack(lines), distances) | over_heads(run, layer, options.fault)
    checks = checked("C8", "rotation_is_relative", shown.off)
    if not options.changes and key <= query and tensors[f"{path}.scores"][0, head, query, key].isfinite():
        said = score_of(rotation, head, q, k, query, key)
        off = abs(said - tensors[f"{path}.scores"][0, head, query, key].item()) / max(1.0, abs(said))
        checks.append(Check("C8", "the score at these places is the model's", off, TOLERANCE))
    if found is not None:
        series |= layout_series(found, options.fault, run.t > 2)
        checks.append(layout_check(found, run.subject.config.vocab_size))
    return Panel(series, checks, facts, (Rope, frequencies, turned, agreements))


def positions_shown(t: int) -> int:
    return min(max(t, FEWEST), MOST)


def theta_of(run: Pass, options: Options, layer: int) -> float:
    """The base of the frequencies that are shown."""
    config = run.subject.config.resolved()
    own = config.rope.local_theta if config.layers.kind(layer) == "l" else None
    return options.theta or own or config.rope.theta


def scaling_of(run: Pass, options: Options, layer: int) -> str:
    """How the frequencies that are shown are stretched, in words."""
    config = run.subject.config.resolved()
    if options.scaling == "none":
        return "none"
    if options.scaling or options.factor != 1:
        return f"{options.scaling or 'linear'}, factor {options.factor:g}"
    local = config.layers.kind(layer) == "l" and config.rope.local_theta is not None
    scaling = None if local else config.rope.scaling
    return "none" if scaling is None else f"{scaling.kind}, factor {scaling.factor:g}"


@dataclass(frozen=True)
class Code:
    """The series of one query and key, each with the Python that gives its numbers."""

    run: Pass
    options: Options
    layer: int
    head: int
    query: int
    key: int
    n: int

    def setup(self, call: str) -> tuple[str, ...]:
        path, fault = f"blocks.{self.layer}.attn", self.options.fault
        other = f", changed(model, {self.options.changes})" if self.options.changes else ""
        other = ", other_angles(model)" if fault == "angles" and not other else other
        return (
            *looking(fault, f"{path}.q", f"{path}.k"),
            "from fathom.inspect.rope_view import Rotation, changed, other_angles, over_distance, turned",
            f"own = Rotation(model, {self.layer}, {self.run.t})",
            f"rotation = Rotation(model, {self.layer}, {self.run.t}{other})",
            f'q, k = seen["{path}.q"][0, {self.query}], seen["{path}.k"][0, {self.key}]',
            "with torch.no_grad():",
            f"    {call}",
        )

    def turned(self, shown: Turned) -> dict[str, Series]:
        setup = self.setup(f"shown = turned(rotation, {self.head}, q, k, {self.n})")
        place, point = ("position", "pair", "coordinate"), "{0}, {1}, {2}"
        path = f"blocks.{self.layer}.attn"

        def one(values: Tensor, source: str, dims: tuple[str, ...], code: str) -> Series:
            return Series(values, "computed", source, dims, f"shown.{code}", setup)

        return {
            "frequency": one(shown.frequency, "the angle of (1, 0) at position 1", ("pair",), "frequency[{0}]"),
            "q_at": one(shown.q_at, f"rotate({path}.q), at each position", place, f"q_at[{point}]"),
            "k_at": one(shown.k_at, f"rotate({path}.k), at each position", place, f"k_at[{point}]"),
            "scores": one(shown.scores, "q at m · k at n / √c", ("m", "n"), "scores[{0}, {1}]"),
            "parts": one(shown.parts, "what each pair adds to q · k / √c", ("distance", "pair"), "parts[{0}, {1}]"),
        }

    def far(self, lines: Tensor, distances: Tensor) -> dict[str, Series]:
        each = f"over_distance(each, {self.head}, q, k, torch.tensor({distances.tolist()}))"
        chosen = "(own, rotation)" if len(lines) > 1 else "(own,)"
        setup = self.setup(f"far = [{each} for each in {chosen}]")
        source = "q · k / √c, the query this far behind the key"
        return {"far": Series(lines, "computed", source, ("rotation", "distance"), "far[{0}][{1}]", setup)}
