"""Which layers of a model have a window, as a config.json says it: `sliding_window` and a list of `layer_types`."""

from collections.abc import Mapping
from typing import Any

from fathom.families.values import Values
from fathom.json_file import short
from fathom.model.config import Layers, ResolvedConfig

KINDS = {"sliding_attention": "l", "full_attention": "g"}


def read_layers(values: Values, n_layer: int, default: Layers, full: str = "g") -> Layers:
    """What each layer sees. default: where the file has no `layer_types`; full: the kind of a layer without window."""
    given = values.entries.get("layer_types")
    if given is None:
        return default
    if not isinstance(given, list) or len(given) != n_layer or not all(kind in KINDS for kind in given):
        raise values.error(f"layer_types is {short(given)}; expected {n_layer} of {', '.join(KINDS)}")
    letters = "".join(KINDS[kind] for kind in given).replace("g", full)
    return Layers(shortest(letters), values.count("sliding_window") if "l" in letters else None)


def shortest(letters: str) -> str:
    """The shortest pattern that repeated gives these letters: `lg` of `lglg`."""
    sizes = range(1, len(letters) + 1)
    return next((letters[:n] for n in sizes if (letters[:n] * len(letters))[: len(letters)] == letters), letters)


def write_layers(z: ResolvedConfig) -> Mapping[str, Any]:
    """The two fields."""
    names = {"l": "sliding_attention"}
    types = [names.get(z.layers.kind(layer), "full_attention") for layer in range(z.n_layer)]
    return {"layer_types": types, "sliding_window": z.layers.window}
