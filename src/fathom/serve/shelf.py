"""The models that were named at the start, each opened when it is first asked for.

A request names a model by its name here, never by a path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.adapters import peft
from fathom.adapters.load import adapted_run, adapter_folder
from fathom.errors import FathomError, near
from fathom.formats.config_file import CONFIG
from fathom.formats.detect import open_model
from fathom.formats.run import CHECKPOINTS, WEIGHTS
from fathom.glass.subject import Subject, called, open_subject


@dataclass(frozen=True)
class Place:
    """Where a model lies, and how it is opened."""

    path: str
    quantize: str | None = None
    adapters: tuple[str, ...] = ()


class Shelf:
    """Models by name. The first is shown first."""

    def __init__(self, places: Mapping[str, Place], runs: Path | None = None, quantize: str | None = None) -> None:
        """runs: the folder of runs that is watched; None: there is none. quantize: for runs that come later."""
        self.places, self.runs, self.quantize = dict(places), runs, quantize
        self.opened: dict[str, Subject] = {}

    def names(self) -> list[str]:
        self.look_again()
        return list(self.places)

    def look_again(self) -> None:
        """Add the runs that have come into the folder since."""
        for place in runs_in(self.runs) if self.runs is not None else ():
            self.places.setdefault(called(place, self.quantize, ()), Place(str(place), self.quantize))

    def open(self, name: str) -> Subject:
        """The model of this name, opened now or before. FathomError: there is none, or its files have changed so that
        they cannot be read."""
        if name not in self.places:
            self.look_again()
        if name not in self.places:
            known = ", ".join(self.places)
            raise FathomError(f"no model is called {name!r}{near(name, self.places, then='served')} are {known}")
        if name not in self.opened:
            place = self.places[name]
            self.opened[name] = open_subject(place.path, name, place.quantize, place.adapters)
        return self.opened[name]

    def check(self) -> None:
        """Read the headers of the models and adapters that were named, which are opened once a page asks for them.
        FathomError: there is none, or it is damaged. Runs of the folder that is watched may come and go."""
        for place in self.places.values():
            if self.runs is None or Path(place.path).parent != self.runs:
                run = adapted_run(place.path)
                open_model(run.base if run else place.path)
            for folder in place.adapters:
                peft.opened(adapter_folder(Path(folder)), place.path)

    def plain(self) -> list[dict[str, Any]]:
        """The models as JSON values; those not opened yet without a card."""
        return [
            {"name": name, "card": self.opened[name].card() if name in self.opened else None} for name in self.names()
        ]


def shelf(paths: Sequence[str], adapters: Mapping[str, str], quantize: str | None = None) -> Shelf:
    """The shelf of these models; a folder of runs stands for all of them, and is watched. adapters: folders by name,
    each on the first model. FathomError: two have the same name, or no path was given."""
    places: dict[str, Place] = {}
    runs = None
    for path in paths:
        inside = runs_in(Path(path))
        runs = Path(path) if inside else runs
        for one in inside or [Path(path)]:
            place = Place(str(one) if inside else path, quantize)
            add(places, called(one, quantize, ()), place)
    if adapters and not places:
        raise FathomError("an adapter was given without a model; name the model that it belongs to first")
    for name, folder in adapters.items():
        base = next(iter(places.values()))
        add(places, name, Place(base.path, quantize, (folder,)))
    if not places:
        raise FathomError("no model was given, or the folder holds no run; such as fathom serve runs/demo")
    return Shelf(places, runs, quantize)


def add(places: dict[str, Place], name: str, place: Place) -> None:
    if name in places:
        raise FathomError(f"two models are called {name}: {places[name].path} and {place.path}; rename a folder")
    places[name] = place


def runs_in(folder: Path) -> list[Path]:
    """The runs of a folder of runs that can be opened, by name; [] for any other path. A run has a checkpoint once it
    has been evaluated, and the folder of a ladder has none of its own."""
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return []
    places = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    return [place for place in places if any((place / CHECKPOINTS).glob("*")) or (place / WEIGHTS).is_file()]
