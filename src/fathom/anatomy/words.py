"""A config in few words: the fields that do not follow from the others, as YAML and tables show them."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from fathom.errors import FathomError
from fathom.model.config import BIASES, Layers, ModelConfig

DERIVED = ("n_kv_head", "head_dim", "d_ff")  # None: follow from the others
SIZES = ("vocab_size", "context_length", "d_model", "n_layer", "n_head", *DERIVED)
CHOICES = tuple(field.name for field in fields(ModelConfig) if field.name not in SIZES)


def declared(config: ModelConfig) -> dict[str, Any]:
    """The fields from which `build(ModelConfig, ...)` makes this model again, as plain values: every size that is
    not a consequence, and every choice that is not the default."""
    z = config.resolved()
    values = {field.name: getattr(z, field.name) for field in fields(ModelConfig)}
    for name in DERIVED:
        try:
            follows = ModelConfig(**values | {name: None}).resolved() == z
        except FathomError:  # head_dim, where d_model is not a multiple of n_head
            follows = False
        if follows:
            values[name] = None
    changed = {name: value for name, value in values.items() if name in REQUIRED or value != DEFAULTS[name]}
    return {name: word(value) for name, value in changed.items()}


def word(value: Any) -> Any:
    """A value as YAML holds it: nested ones without their defaults, what the layers see as `lg:4096`."""
    if isinstance(value, Layers):
        return value.pattern if value.window is None else f"{value.pattern}:{value.window}"
    if is_dataclass(value):
        own = {field.name: (getattr(value, field.name), field.default) for field in fields(value)}
        return {name: word(given) for name, (given, default) in own.items() if given != default}
    return list(value) if isinstance(value, tuple) else value


def in_line(value: Any) -> str:
    """A value of `declared` as a table shows it, and mostly as the command line takes it."""
    if isinstance(value, Mapping):
        parts = {name: f"({in_line(own)})" if isinstance(own, Mapping) else in_line(own) for name, own in value.items()}
        return ", ".join(f"{name}={part}" for name, part in parts.items())
    if isinstance(value, list | tuple):
        short = tuple(value) == BIASES[:4] or len(value) > len(BIASES)
        return ("on" if tuple(value) == BIASES[:4] else f"{len(value)} factors") if short else ",".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


REQUIRED = [field.name for field in fields(ModelConfig) if field.default is MISSING]
DEFAULTS = {field.name: field.default for field in fields(ModelConfig)}
