"""Recipes of training as values: a model that lacks only its vocabulary, and how to train it.

Precedence: defaults < preset < YAML < what the call says. A recipe printed as YAML is what `-c` reads back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fathom.errors import FathomError, near
from fathom.fields import build
from fathom.formats.config_file import read_config
from fathom.model.config import ModelConfig
from fathom.train.options import TrainOptions

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Declared fields of ModelConfig (vocab_size may be left to the tokenizer) and of TrainOptions."""

    about: str = ""
    model: Values = field(default_factory=dict)
    train: Values = field(default_factory=dict)

    def changed(self, model: Values, train: Values) -> "Recipe":
        """The recipe with some fields said otherwise."""
        return Recipe(self.about, {**self.model, **model}, {**self.train, **train})

    def options(self, where: str = "train") -> TrainOptions:
        return build(TrainOptions, self.train, where)

    def config(self, vocab_size: int, where: str = "model") -> ModelConfig:
        """The model's config; a vocab_size of the recipe's own wins and must hold the tokenizer's."""
        config = build(ModelConfig, {"vocab_size": vocab_size, **self.model}, where)
        if config.vocab_size < vocab_size:
            raise FathomError(
                f"{where}: vocab_size={config.vocab_size} does not hold the tokenizer's {vocab_size} tokens; "
                "leave it out or make it larger"
            )
        config.resolved()
        return config

    def plain(self) -> dict[str, Any]:
        """What `-c` reads back."""
        return {"model": dict(self.model), "train": dict(self.train)}


def find(name: str, recipes: Mapping[str, Recipe]) -> Recipe:
    """The recipe of that name, or one line with near matches."""
    if name not in recipes:
        raise FathomError(f"no preset {name!r}{near(name, recipes) or ';'} There are {', '.join(recipes)}")
    return recipes[name]


def read(path: Path, base: Recipe) -> Recipe:
    """`base` with what a YAML file says: `preset:` (not here), `model:` and `train:`."""
    values = read_config(path)
    unknown = set(values) - {"model", "train"}
    if unknown:
        word = sorted(map(str, unknown))[0]
        raise FathomError(
            f"{path}: unknown section {word!r}{near(word, ('model', 'train')) or ';'} Sections are model and train"
        )
    sections = [values.get(name) or {} for name in ("model", "train")]
    if not all(isinstance(section, dict) for section in sections):
        raise FathomError(f"{path}: model: and train: must hold fields with values")
    return base.changed(*sections)
