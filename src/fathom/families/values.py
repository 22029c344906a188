"""Configuration files of other projects: values, each checked as it is read, and their keys for ModelConfig's fields.

One way for `config.json`, `params.json` and the metadata of a GGUF file. A cell of a family's table is a key: `a|b` is
one of two names, `a?` may be missing, and a missing `a=1` is 1.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fathom.errors import FathomError
from fathom.json_file import T, field, short

SCALARS = (int, float, str, list, dict, type(None))  # what can be compared; an array of a GGUF file cannot
LARGEST = 1e30
V = TypeVar("V")
KINDS: dict[str, Any] = {  # of ModelConfig's fields; the others are counts
    "n_layer": int,
    "norm_eps": float,
    "rope_theta": float,
    "tie_embeddings": bool,
}


@dataclass(frozen=True)
class Values:
    """Entries of a file. `where` names it in errors, `prefix` comes before every key, such as `llama.` in GGUF."""

    entries: Mapping[str, Any]
    where: str
    prefix: str = ""

    def __contains__(self, key: str) -> bool:
        """Whether the key has a value, null not counted."""
        return self.entries.get(self.prefix + key) is not None

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value as int (of 32 bits), float (finite), bool or str. A missing one, or null, is `default`."""
        return field(self.entries, self.prefix + key, kind, self.where, default)

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 on."""
        number = self.get(key, int, default)
        if number < 1:
            raise self.error(f"{self.prefix}{key} is {number}; it must be at least 1")
        return number

    def number(self, key: str, default: float | None = None, above: float = 0.0) -> float:
        """A number above a bound, and far below what overflows where angles are computed."""
        number = self.get(key, float, default)
        if not above < number < LARGEST:
            raise self.error(f"{self.prefix}{key} is {number}; it must be above {above:g}")
        return number

    def choice(self, key: str, known: Mapping[str, V], default: str) -> V:
        """What the value, a word, stands for."""
        name = self.get(key, str, default)
        if name not in known:
            raise self.error(f"{self.prefix}{key} is {name!r}; expected one of {', '.join(known)}")
        return known[name]

    def require(self, allowed: Mapping[str, tuple[Any, ...]]) -> None:
        """FathomError where a key has another value than those of the models that are supported."""
        for key, ours in allowed.items():
            value = self.entries.get(self.prefix + key)
            if not isinstance(value, SCALARS) or value not in ours:
                method = f" by {short(value.get('quant_method'))}" if isinstance(value, dict) else ""
                raise self.error(
                    f"{self.prefix}{key} is {short(value)}{method}; expected {' or '.join(map(repr, ours))}, since any"
                    " other makes a model that is not supported"
                )

    def error(self, message: str) -> FathomError:
        return FathomError(f"{self.where}: {message}")


@dataclass(frozen=True)
class Key:
    """What a configuration calls one of our fields. Of several names the first is the one that is written."""

    names: tuple[str, ...]
    optional: bool = False
    default: Any = None

    def read(self, values: Values, ours: str) -> Any:
        """The value of our field; None where it may be missing and is."""
        given = [name for name in self.names if name in values]
        name = given[0] if given else " or ".join(self.names)
        if wrong := [
            other
            for other in given[1:]
            if values.entries[values.prefix + other] != values.entries[values.prefix + name]
        ]:
            raise values.error(f"{name} and {wrong[0]} differ; they are one number, keep one")
        if self.optional and name not in values:
            return None
        return values.get(name, KINDS[ours], self.default) if ours in KINDS else values.count(name, self.default)

    def __str__(self) -> str:
        default = "" if self.default is None else f"={json.dumps(self.default)}"
        return "|".join(self.names) + "?" * self.optional + default


def key(cell: str) -> Key:
    """`rms_norm_eps=1e-6` parsed."""
    names, _, default = cell.rstrip("?").partition("=")
    return Key(tuple(names.split("|")), cell.endswith("?"), json.loads(default) if default else None)
