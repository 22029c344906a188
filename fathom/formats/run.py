"""A run folder read back: its best checkpoint, the one with the lowest validation loss of those that hold.

A checkpoint holds when its files are what its manifest says. Does not know how a model was trained.
"""

import json
import math
import warnings
from pathlib import Path

from fathom.errors import FathomError
from fathom.fields import build
from fathom.formats import checkpoint
from fathom.formats.config_file import CONFIG, read_config
from fathom.formats.native import WEIGHTS
from fathom.formats.opened import Opened
from fathom.formats.safetensors_file import open_safetensors
from fathom.model.config import ModelConfig
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import Tokenizer

CHECKPOINTS, STATE = "checkpoints", "state.json"


def open_run(path: Path) -> Opened:
    """The model of a run folder, of one of its checkpoints, or of any folder with our config.yaml and weights."""
    folder = find(path)
    said = read_config(folder / CONFIG)
    if isinstance(base := said.get("base"), dict) and not (folder / WEIGHTS).exists():
        raise FathomError(
            f"{path} holds an adapter of {base.get('path')} and no model of its own; give that model, or make one of"
            f" both: fathom merge {base.get('path')} {path} -o FOLDER"
        )
    config = build(ModelConfig, said.get("model", {}), f"{folder / CONFIG}: model")
    tensors = open_safetensors(folder / WEIGHTS)
    about = {key: value for key, value in said.items() if key != "model"}

    def tokenizer() -> Tokenizer | None:
        return tokenizers.load(folder / tokenizers.FILE) if (folder / tokenizers.FILE).exists() else None

    return Opened(folder, "run of fathom", config, "ours", tensors, tokenizer, about)


def find(path: Path) -> Path:
    """The folder that holds config, tokenizer and weights."""
    if not path.is_dir():  # the weights of a folder, named alone
        path = path.parent
    if (path / WEIGHTS).is_file():
        if (path / checkpoint.MANIFEST).exists():
            checkpoint.verify(path)
        return path
    if not (path / CONFIG).is_file():
        raise FathomError(
            f"{path} holds no model; give a run folder (it has {CONFIG} and {CHECKPOINTS}/) or a checkpoint"
        )
    return best(path / CHECKPOINTS)


def best(folder: Path) -> Path:
    """The checkpoint with the lowest validation loss that holds, the newest of equals."""
    ordered = sorted(checkpoint.newest_first(folder), key=validation_loss)
    problems = []
    for path in ordered:
        try:
            checkpoint.verify(path)
        except FathomError as error:
            problems.append(str(error))
        else:
            if problems:
                warnings.warn(f"fell back to {path}: {problems[0]}", stacklevel=3)
            return path
    if problems:
        raise FathomError(f"no checkpoint in {folder} holds: {problems[0]}; train anew")
    raise FathomError(
        f"there is no checkpoint in {folder} yet; train first: fathom train --resume --out-dir {folder.parent}"
    )


def best_step(folder: Path) -> list[int]:
    """The step of the checkpoint with the lowest validation loss, where one was measured."""
    measured = [(validation_loss(path), path) for path in checkpoint.newest_first(folder)]
    known = [(loss, checkpoint.step_of(path)) for loss, path in measured if loss < float("inf")]
    return [min(known)[1]] if known else []


def validation_loss(path: Path) -> float:
    """What the checkpoint says of itself; infinite where nothing was measured at its step."""
    try:
        loss = json.loads((path / STATE).read_text())["validation_loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")
    return float(loss) if isinstance(loss, float) and math.isfinite(loss) else float("inf")
