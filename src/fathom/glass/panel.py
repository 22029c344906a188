"""What a panel is made of: series of numbers with their source, checks, and the lines of code that ran.

A panel travels as one safetensors file: the series are its tensors, the rest is JSON in its metadata. It knows neither
models nor the page.
"""

import dataclasses
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

import fathom
from fathom.inspect.identities import TOLERANCES, Residuals

STORED = {torch.float32, torch.uint8, torch.int32, torch.int64}  # what the page's reader of safetensors knows


@dataclass(frozen=True)
class Series:
    """A tensor of a panel, and where it comes from.

    kind: `measured` is what the running model computed, and `source` the name of its tap; `computed` follows from
    a formula, which is `source` then. dims: what each dimension counts, such as layer, head, query, key. code: a Python
    expression that gives one number of it, with {0}, {1} … for its indices, after the lines of `setup`.
    """

    values: Tensor
    kind: Literal["measured", "computed"]
    source: str
    dims: tuple[str, ...]
    code: str
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.dims) != self.values.dim():
            raise ValueError(f"{self.source}: {len(self.dims)} names for {self.values.dim()} dimensions")

    def described(self) -> dict[str, Any]:
        """All but the values, as JSON values."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "values"}
        return own | {"shape": list(self.values.shape)}

    def program(self, *at: int) -> str:
        """The lines that print the number at these indices; the page makes the same."""
        return "\n".join([*self.setup, f"print(float({filled(self.code, at)}))"])


def filled(code: str, at: Sequence[int]) -> str:
    """The code with {0}, {1} … replaced by the indices; other braces stay as they are."""
    for place, index in enumerate(at):
        code = code.replace(f"{{{place}}}", str(index))
    return code


@dataclass(frozen=True)
class Check:
    """An identity evaluated on the data of a panel: how far off it is, and how far it may be. `id` is that of
    docs/identities.md."""

    id: str
    says: str
    residual: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.residual <= self.tolerance  # NaN is not


def checked(id: str, identity: str, residuals: Residuals) -> list[Check]:
    """The parts of an identity of fathom.inspect.identities, each as a check."""
    return [Check(id, says, off, TOLERANCES[identity][says]) for says, off in residuals.items()]


@dataclass(frozen=True)
class Panel:
    """What one panel shows. absent: why this model has nothing to show here; None: it has.

    facts: small JSON values. source: the functions or classes whose lines ran.
    """

    series: Mapping[str, Series] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    source: Sequence[Callable[..., Any]] = ()
    absent: str | None = None

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def encoded(filled: Panel, **about: Any) -> bytes:
    """The panel as the bytes of a safetensors file; `about` is added to its JSON."""
    tensors = {name: stored(series.values) for name, series in filled.series.items()}
    described = {name: one.described() for name, one in filled.series.items()}
    checks = [{**dataclasses.asdict(check), "ok": check.ok} for check in filled.checks]
    values = {"absent": filled.absent, "facts": filled.facts, "series": described, "checks": checks}
    values |= {"source": [lines_of(one) for one in filled.source], **about}
    return save(tensors, {"panel": json.dumps(finite(values), allow_nan=False)})


def stored(values: Tensor) -> Tensor:
    """The tensor in a type that the page reads, sharing memory with no other."""
    values = values.detach().cpu()
    if values.dtype == torch.bool:
        values = values.to(torch.uint8)
    return (values if values.dtype in STORED else values.to(torch.float32)).contiguous().clone()


def finite(value: Any) -> Any:
    """The value with infinities and NaN as the words that JavaScript's Number() reads, since JSON has none."""
    match value:
        case float() if value != value:
            return "NaN"
        case float() if value in (float("inf"), float("-inf")):
            return "Infinity" if value > 0 else "-Infinity"
        case Mapping():
            return {key: finite(one) for key, one in value.items()}
        case list() | tuple():
            return [finite(one) for one in value]
        case _:
            return value


def lines_of(thing: Callable[..., Any]) -> dict[str, Any]:
    """The source of a function or class, with its file, from the package's own folder on, and its first line."""
    thing = inspect.unwrap(thing)  # a decorator's own lines are not what is asked for
    lines, first = inspect.getsourcelines(thing)
    file = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "")
    root = Path(fathom.__file__).parent.parent
    path = file.relative_to(root) if file.is_relative_to(root) else file
    return {"path": path.as_posix(), "line": first, "text": textwrap.dedent("".join(lines).expandtabs()).rstrip()}
