"""A run of fine-tuning as a model: its base, wherever that lies, with the run's best adapter on it.

Knows of the run what its config.yaml says, and not how it was trained.
"""

from dataclasses import dataclass
from pathlib import Path

from fathom.adapters.peft_config import CONFIG as ADAPTER
from fathom.adapters.peft_config import read_said
from fathom.errors import FathomError
from fathom.formats.config_file import CONFIG, read_config

BEST = "adapter"


@dataclass(frozen=True)
class AdaptedRun:
    """Where the parts of its model lie, and how the base was packed while the adapter learned."""

    base: str
    adapter: Path
    quantize: str | None


def adapted_run(path: str | Path) -> AdaptedRun | None:
    """The run in a folder, if an adapter was trained there; None: it is another kind of model."""
    folder = Path(path)
    if not (folder / CONFIG).is_file() or "base" not in (values := read_config(folder / CONFIG)):
        return None
    base, tuning = values["base"], values.get("finetune")
    if not isinstance(base, dict) or not isinstance(base.get("path"), str) or not isinstance(tuning, dict):
        raise FathomError(f"{folder / CONFIG}: base and finetune do not say what was trained; train anew")
    if tuning.get("method") == "full":
        return None
    if not (folder / BEST / ADAPTER).is_file():
        raise FathomError(f"{folder} has no adapter yet; train first: fathom finetune --resume --out-dir {folder}")
    return AdaptedRun(base["path"], folder / BEST, read_said(folder / BEST / ADAPTER).quantize or None)
