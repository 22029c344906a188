"""What is planned: a preset, a known model, a config.json, a recipe, a model in any format, or a run.

Only configs are read, never weights. Does not import torch, except to read a model that is one file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fathom.anatomy.training import Step
from fathom.errors import FathomError, near
from fathom.families.registry import from_hf
from fathom.fields import build
from fathom.formats import config_file
from fathom.formats.config_file import CONFIG
from fathom.formats.detect import open_model
from fathom.formats.run import METRICS
from fathom.formats.text_part import text_part
from fathom.json_file import read_object
from fathom.model.config import ModelConfig, ResolvedConfig
from fathom.planning.models import MODELS
from fathom.training.options import FinetuneOptions, TrainOptions
from fathom.training.presets import PRESETS, Recipe, find, read

JSON = "config.json"
CHARACTERS = 65  # of tiny Shakespeare: what a tokenizer of characters is taken to find in a text


@dataclass(frozen=True)
class Subject:
    """A model, and how it is trained where that is said."""

    name: str
    about: str
    config: ResolvedConfig
    train: TrainOptions | None = None
    tuning: FinetuneOptions | None = None
    run: Path | None = None  # the folder of a run that has measured something
    row: int | None = None  # tokens of a row, where it is shorter than the context

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.row or (self.tuning.context_length if self.tuning else None) or self.config.context_length

    @property
    def method(self) -> str:
        """How it is fine-tuned, or full."""
        if self.tuning is None or not self.tuning.adapted:
            return "full"
        return "qlora" if self.tuning.packing else "lora"


def subject(name: str, method: str | None = None, context_length: int | None = None) -> Subject:
    """What is called so, trained so. FathomError with near matches where nothing is.

    A recipe makes a new model: a row is its context. A model that exists is read in rows of at most its context.
    """
    found = named(name)
    if method in ("lora", "qlora"):
        found = replace(found, train=None)
    if context_length is None:
        return found
    if found.train is not None and found.tuning is None:
        return replace(found, config=replace(found.config, context_length=context_length))
    if context_length > found.config.context_length:
        raise FathomError(
            f"--context-length is {context_length}, and the context of {name} is {found.config.context_length} tokens;"
            " use at most that"
        )
    return replace(found, row=context_length)


def named(name: str) -> Subject:
    place = Path(name)
    if not place.exists():
        if name in PRESETS:
            return of_recipe(find(name), name, f"preset {name}")
        if name.lower() in MODELS:
            return Subject(name, "a known model", MODELS[name.lower()].resolved())
        if "/" not in name and place.suffix not in (".yaml", ".yml", ".json"):
            known = sorted({*PRESETS, *MODELS})
            close = near(name.lower(), known, then="known names")
            listed = ", ".join(each for each in known if not each.startswith("rung-"))
            raise FathomError(f"no preset or model {name!r}{close} are {listed}, or give"
                              " a config.json, a recipe in YAML, a model or a run")  # fmt: skip
    if place.suffix in (".yaml", ".yml") and not place.is_dir():
        return of_recipe(read(place, Recipe()), name, f"recipe {name}")
    if (place / CONFIG).is_file() and (place / METRICS).is_file():
        return of_run(place)
    file = place / JSON if place.is_dir() else place
    if file.suffix == ".json" and file.exists():
        values = read_object(file)
        family, config = from_hf(text_part(values), str(file))
        return Subject(name, f"{family.title}, by its {JSON}", config.resolved())
    opened = open_model(name)
    return Subject(name, opened.format, opened.config.resolved())


def of_recipe(recipe: Recipe, name: str, about: str) -> Subject:
    """A recipe: where its tokenizer is learned from a text, with as many tokens as it says."""
    options = recipe.options()
    size = int(recipe.model.get("vocab_size") or vocabulary(options.tokenizer))
    unknown = "" if "vocab_size" in recipe.model or options.tokenizer != "char" else (
        f"; {size} characters are assumed, the text decides"
    )  # fmt: skip
    return Subject(name, about + unknown, recipe.config(size).resolved(), options)


def vocabulary(tokenizer: str) -> int:
    """How many tokens a tokenizer of this name has, as far as the name says."""
    size = tokenizer.partition(":")[2]
    return int(size) if size.isdigit() else {"byte": 256}.get(tokenizer, CHARACTERS)


def of_run(folder: Path) -> Subject:
    """A run, as its config.yaml describes it."""
    values: Mapping[str, Any] = config_file.read_config(folder / CONFIG)
    where = str(folder / CONFIG)
    config = build(ModelConfig, values.get("model") or {}, f"{where}: model").resolved()
    options = build(TrainOptions, values.get("train") or {}, f"{where}: train")
    tuning = build(FinetuneOptions, values["finetune"], f"{where}: finetune") if "finetune" in values else None
    return Subject(str(folder), f"a run of fathom {'finetune' if tuning else 'train'}", config, options, tuning, folder)


def step_of(what: Subject, optimizer: str, **changes: Any) -> Step:
    """A step of it. Imports torch, as optimizers do."""
    from fathom.training.optimizers import optimizer_named

    kind = optimizer_named(optimizer)
    return Step(what.length, state=kind.state_bytes, scratch=kind.scratch_bytes, exchanges=kind.exchanges, **changes)
