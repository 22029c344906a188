"""The table of panels, and the call that fills one.

A panel is a module of this room with `Options`, a frozen dataclass whose defaults are what is shown first, and
`panel(run, options)`. Where an exported file holds more than the first view, `kept(run)` lists the options of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from fathom.errors import FathomError, near
from fathom.fields import build, plain
from fathom.glass.guesses import guess
from fathom.glass.panel import Check, Panel, encoded
from fathom.glass.passes import Pass


@dataclass(frozen=True)
class Entry:
    """Where a panel stands on the page, its title, and the module that fills it."""

    place: str
    title: str
    name: str

    @property
    def module(self) -> ModuleType:
        return import_module(f"fathom.glass.{self.name}")


PANELS = {
    "next-token": Entry("Text", "Next token", "next_token"),
    "microscope": Entry("Attention", "Microscope", "microscope"),
    "heads": Entry("Attention", "All heads", "heads"),
    "lens": Entry("Stream", "Stream and lens", "lens"),
    "attribution": Entry("Stream", "Who wrote this logit?", "attribution"),
    "ablation": Entry("Stream", "Break it", "ablation"),
    "positions": Entry("Attention", "Positions", "positions"),
    "generation": Entry("Text", "Generation", "generation"),
    "groups": Entry("Attention", "Grouped queries", "groups"),
    "runs": Entry("Learning", "Runs and ladder", "runs"),
    "lora": Entry("Learning", "LoRA and SVD", "lora"),
    "packing": Entry("Machine", "Packing", "packing"),
    "cost": Entry("Machine", "Cost", "cost"),
}


def entry(id: str) -> Entry:
    """The panel of this id; FathomError with near matches where there is none."""
    if id not in PANELS:
        raise FathomError(f"no panel is called {id!r}{near(id, PANELS, then='panels')} are {', '.join(PANELS)}")
    return PANELS[id]


@torch.no_grad()
def filled(id: str, run: Pass, values: Mapping[str, Any] | None = None) -> tuple[Panel, Any]:
    """A panel for a pass, with the options that these values are. FathomError for options that it does not have."""
    module = entry(id).module
    options = build(module.Options, values or {}, f"panel {id}")
    panel: Panel = module.panel(run, options)
    allowed = [rounded(check, run.model.embed.weight.dtype) for check in panel.checks]
    return replace(panel, checks=allowed), options


def rounded(check: Check, dtype: torch.dtype) -> Check:
    """The check with the tolerance of a model whose numbers have this type: an eighth of how much coarser they are than
    fp32, for which tolerances are written. What must hold to the bit still must."""
    coarser = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    return check if coarser <= 1 else replace(check, tolerance=check.tolerance * coarser / 8)


def payload(id: str, run: Pass, values: Mapping[str, Any] | None = None) -> tuple[bytes, Panel]:
    """The bytes of a panel, as the page reads them, and the panel."""
    panel, options = filled(id, run, values)
    about = {"panel": id, "options": plain(options), "preamble": run.preamble, "guess": guess(id, panel, run)}
    return encoded(panel, **about), panel


def variants(id: str, run: Pass) -> list[Any]:
    """The options of every view of this panel that an exported file holds, the first view first."""
    module = entry(id).module
    kept = getattr(module, "kept", None)
    return [module.Options()] if kept is None else list(kept(run))


def key(id: str, options: Any) -> str:
    """What names one view of a panel in an exported file: its id and the options that differ from the first view's."""
    first = type(options)()
    changed = {f.name: getattr(options, f.name) for f in fields(options)}
    changed = {name: value for name, value in sorted(changed.items()) if value != getattr(first, name)}
    return f"{id}?" + "&".join(f"{name}={word(value)}" for name, value in changed.items())


def is_wrong(options: Any) -> bool:
    """Whether a view shows a mistake on purpose: its options say so as `wrong`, or name a `fault`."""
    return bool(getattr(options, "wrong", getattr(options, "fault", None) not in (None, "none")))


def word(value: Any) -> str:
    """A value as the page writes it in an address."""
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
