"""config.yaml: the settings of a model and a run, as plain values. Does not import torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fathom.errors import FathomError
from fathom.files import atomic_write

CONFIG = "config.yaml"
LIMIT = 1 << 18  # bytes; that of a run has a few thousand


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Plain values as YAML: `model:` holds ModelConfig's fields; other keys are the caller's."""
    with atomic_write(path) as new:
        new.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; FathomError with file and line where it is not one."""
    try:
        if path.stat().st_size > LIMIT:
            raise FathomError(f"{path} has {path.stat().st_size:,} bytes; expected a YAML file of at most {LIMIT:,}")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FathomError(f"{path} does not exist; give a YAML file such as `fathom presets NAME` prints") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FathomError(f"{path} cannot be read: {error}") from None
    except RecursionError:
        raise FathomError(f"{path} is nested too deeply; expected fields such as model: and train:") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: an impossible date
        mark = getattr(error, "problem_mark", None)
        raise FathomError(f"{path} is not YAML (line {mark.line + 1 if mark else '?'})") from None
    if not isinstance(values, dict):
        raise FathomError(f"{path} holds {type(values).__name__}; expected fields such as model: and train:")
    return values
