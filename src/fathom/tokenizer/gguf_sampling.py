"""What a GGUF file recommends for generation (general.sampling.*), as the entries of generation_config.json.

The keys are those of gguf-py and llama.cpp, which takes its defaults from them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

PREFIX = "general.sampling."
NAMES = {
    "temp": "temperature",
    "penalty_repeat": "repetition_penalty",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
}
LAST = "penalty_last_n"  # how many tokens a repetition is looked for in; -1: all, as here


def read_sampling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a file's metadata; those that have no other name keep their own."""
    found = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    plain = {name: value for name, value in found.items() if isinstance(value, str | int | float | bool)}
    return {
        NAMES.get(name, name): float(str(np.float32(value))) if isinstance(value, float) else value  # stored as fp32
        for name, value in plain.items()
    }


def write_sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of the entries that llama.cpp knows; where nothing is drawn, of a temperature of 0."""
    entries = dict(generation) | ({"temperature": 0.0} if generation.get("do_sample") is False else {})
    values: dict[str, Any] = {}
    for key, name in NAMES.items():
        value = entries.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            values[PREFIX + key] = np.int32(value) if name == "top_k" else float(value)
    if PREFIX + "penalty_repeat" in values:
        values[PREFIX + LAST] = np.int32(-1)
    return values
