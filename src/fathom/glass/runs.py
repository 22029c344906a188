"""P10: runs as their folders tell of them, also while they train, and what the ladder says of each idea.

A run may be written, moved or removed while it is read: what is gone is said in one line.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fathom.anatomy.words import declared
from fathom.data.corpus import NAMED, SHAKESPEARE, cache_folder
from fathom.errors import FathomError, near
from fathom.experiments.recorded import recorded
from fathom.experiments.result import FILE as LADDER
from fathom.experiments.result import LadderResult, read
from fathom.experiments.rungs import difference
from fathom.fields import build, plain
from fathom.formats.config_file import CONFIG, read_config
from fathom.formats.run import METRICS
from fathom.glass.cards import cards
from fathom.glass.panel import Check, Panel, Series, finite
from fathom.glass.passes import Pass
from fathom.inspect.identities import worst
from fathom.model.config import ModelConfig
from fathom.training.events import Metrics, read_metrics
from fathom.training.loop import fit
from fathom.training.page import state_of
from fathom.training.presets import PRESETS
from fathom.training.runs import find_runs, summarise

FRESH = 60.0  # seconds after its last line for which a run that does not say that it ended is taken to train
SIZES = {"gpt2", "shakespeare"}  # presets for a GPU, or for days
CURVES = ("loss", "learning_rate", "grad_norm", "tokens", "seconds")


@dataclass(frozen=True)
class Options:
    """There is nothing to choose: the page chooses among what it was given."""


def listed(folder: Path) -> list[dict[str, Any]]:
    """Every run below a folder with what its small files say; a damaged one with its problem. FathomError: there is no
    such folder, or no longer."""
    found = []
    for place in find_runs(folder):
        if not (place / LADDER).is_file():  # the folder of a ladder is described by its cards
            found.append(described(folder, place))
    return found


def described(folder: Path, place: Path) -> dict[str, Any]:
    """One run as JSON values."""
    name = name_of(folder, place)
    try:
        values = read_config(place / CONFIG)
        summary = plain(summarise(place)) | {"name": name, "state": state(place), "quiet": quiet(place)}
    except (FathomError, OSError) as problem:
        return {"name": name, "problem": str(problem)}
    settings = {f"model.{key}": one for key, one in declared(build(ModelConfig, values["model"], name)).items()}
    for section in ("train", "finetune", "base"):
        settings |= {f"{section}.{key}": one for key, one in (values.get(section) or {}).items()}
    del summary["path"]
    found: dict[str, Any] = finite(summary | {"settings": settings, "problem": None})
    return found


def name_of(folder: Path, place: Path) -> str:
    """What a run is called: its path from the folder; the folder itself by its own name."""
    return place.relative_to(folder).as_posix() if place != folder else folder.resolve().name


def named(folder: Path, name: str) -> Path:
    """The run of this name. FathomError: there is none, or it is gone."""
    places = {name_of(folder, place): place for place in find_runs(folder)}
    if name not in places:
        raise FathomError(f"there is no run {name!r} any more{near(name, places) or '; it was moved or removed'}")
    return places[name]


def state(place: Path) -> str:
    """training, finished, stopped or diverged: what its page says, unless it says nothing any more."""
    said = state_of(place)
    if said in ("finished", "stopped", "diverged"):
        return said
    seconds = quiet(place)
    return "training" if seconds is not None and seconds < FRESH else "stopped"


def quiet(place: Path) -> float | None:
    """Seconds since its last line of metrics; None: it has none yet."""
    try:
        return max(0.0, time.time() - (place / METRICS).stat().st_mtime)
    except OSError:
        return None


def rows(folder: Path, name: str, after: int = 0) -> dict[str, Any]:
    """The lines of a run's metrics.jsonl from step `after` on: those of that step too, as some may be new.

    file: another one than before means that the lines were written anew, as when a run is resumed from an earlier
    step; ask again from 0. FathomError: the run is gone.
    """
    place = named(folder, name)
    lines = read_metrics(place / METRICS)
    try:
        file = str((place / METRICS).stat().st_ino)
    except OSError:
        file = ""
    last = max((line["step"] for line in lines), default=0)
    kept = [line for line in lines if line["step"] >= after]
    found: dict[str, Any] = finite(
        {"file": file, "step": last, "rows": kept, "state": state(place), "path": str(place / METRICS)}
    )
    return found


def ladders(folder: Path) -> list[str]:
    """The ladders below a folder."""
    return [name_of(folder, place) for place in find_runs(folder) if (place / LADDER).is_file()]


def ladder_cards(folder: Path, name: str) -> dict[str, Any]:
    """The cards of a ladder below a folder, and its series with their values. FathomError: there is none, or it is
    damaged."""
    place = named(folder, name)
    result = read(place)
    every = of_ladder(result, f"read(Path({str(place)!r}))")
    series = {name: one.described() | {"values": one.values.tolist()} for name, one in every.items()}
    found: dict[str, Any] = finite({**cards(result), "path": str(place), "series": series})
    return found


def presets() -> list[dict[str, Any]]:
    """What can be started from the page: presets that a small machine trains in minutes."""
    return [{"name": name, "about": recipe.description} for name, recipe in PRESETS.items() if name not in SIZES]


def corpora() -> list[str]:
    """Texts that are on this machine."""
    fetched = (cache_folder() / f"{SHAKESPEARE.name}.txt").is_file()
    return [name for name in NAMED if name != SHAKESPEARE.name or fetched]


def panel(run: Pass, options: Options) -> Panel:
    """The model's own run, and the ladder that it belongs to or else the recorded one."""
    place = Path(run.subject.path) if run.subject.path else None
    own = place if place is not None and (place / CONFIG).is_file() and (place / METRICS).is_file() else None
    home = next((up for up in [place, *place.parents] if (up / LADDER).is_file()), None) if place else None
    result = recorded() if home is None else read(home)
    facts: dict[str, Any] = {"ladder": cards(result), "recorded": home is None, "run": None}
    series = dict(of_ladder(result, "recorded()" if home is None else f"read(Path({str(home)!r}))"))
    if own is not None:
        lines = read_metrics(own / METRICS)
        series |= dict(of_run(lines, own))
        samples = [line for line in lines if "sample" in line]
        facts["run"] = described(own, own) | {"samples": samples[-12:], "command": f"fathom serve {own.parent}"}
    return Panel(series, checks(result), facts, (fit, Metrics, difference, LadderResult.gain))


def of_run(lines: list[dict[str, Any]], place: Path) -> Iterator[tuple[str, Series]]:
    """The curves of a run, each with its steps."""
    setup = ("import json", f"lines = [json.loads(line) for line in open({str(place / METRICS)!r})]")
    for key in (*CURVES, "val_loss"):
        of = "val_loss" if key == "val_loss" else "loss"  # an evaluation has seconds too
        kept = [line for line in lines if of in line and line.get(key) is not None]
        for name, field in ((f"run_{key}_step", "step"), (f"run_{key}", key)):
            code = f"[line[{field!r}] for line in lines if {of!r} in line and line.get({key!r}) is not None][{{0}}]"
            values = torch.tensor([line[field] for line in kept], dtype=torch.float32)
            yield name, Series(values, "measured", f"{METRICS}: {field}", ("line",), code, setup)


@lru_cache(maxsize=8)
def of_ladder(result: LadderResult, made: str) -> dict[str, Series]:
    """Losses of every model; what each rung bought and each idea is worth, with half the width of the interval."""
    setup = ("from pathlib import Path", "from fathom.experiments.recorded import recorded",
             "from fathom.experiments.result import read", f"result = {made}")  # fmt: skip
    steps = [rung for rung in (*result.ladder, *result.beside) if result.gain(rung.key)]
    taken = [rung for rung in result.take_aways if result.worth(rung)]
    known = [rung for rung in result.models if result.loss(rung.key)]
    names = {"losses": known, "bought": steps, "worth": taken}
    sources = {
        "losses": "validation loss, mean over seeds",
        "bought": "loss of what it is compared with minus its own, mean over seeds",
        "worth": "loss without the idea minus the whole model's, mean over seeds",
    }
    calls = {
        "losses": "result.loss(keys[{0}])",
        "bought": "result.gain(keys[{0}])",
        "worth": "result.worth({rung.key: rung for rung in result.take_aways}[keys[{0}]])",
    }
    found = {"losses": result.loss, "bought": result.gain, "worth": None}
    series = {}
    for name, models in names.items():
        keys = [rung.key for rung in models]
        call = found[name]
        each = [result.worth(rung) if call is None else call(rung.key) for rung in models]
        lines = (*setup, f"keys = {keys}")
        for suffix, field in (("", "mean"), ("_width", "half_width")):
            values = torch.tensor([getattr(one, field) or 0.0 for one in each], dtype=torch.float64)
            source = sources[name] + (": half the width of its 95% interval" if suffix else "")
            series[name + suffix] = Series(values, "computed", source, ("model",), f"{calls[name]}.{field} or 0", lines)
    return series


@lru_cache(maxsize=8)
def checks(result: LadderResult) -> list[Check]:
    """That neighbours differ in one field, and that what is bought is the difference of the losses."""
    fields, gains = [0.0], [0.0]
    for rung in (*result.ladder, *result.beside):
        other = result.below(rung.key)
        if other is None:
            continue
        fields.append(abs(len(difference(other.config, rung.config)) - 1.0) if not result.options.rungs else 0.0)
        before, after, gain = result.losses(other.key), result.losses(rung.key), result.gain(rung.key)
        if gain and before.keys() == after.keys():
            mean = sum(before.values()) / len(before) - sum(after.values()) / len(after)
            gains.append(abs(gain.mean - mean))
    return [
        Check("one field", "neighbouring rungs differ in exactly one declared field", worst(fields), 0.0),
        Check("one field", "what a rung gained is the difference of the two losses", worst(gains), 1e-9),
    ]
