"""`fathom.load(path)`: a model and its tokenizer from wherever they lie, ready to run.

A run gives its best checkpoint: the one with the lowest validation loss of those whose files are what their manifest
says. Does not know how a model was trained.
"""

import json
import math
import warnings
from pathlib import Path

import torch

from fathom.errors import FathomError
from fathom.formats import checkpoint
from fathom.formats.config_file import CONFIG
from fathom.formats.native import WEIGHTS, read_model
from fathom.machine import pick_device
from fathom.model.transformer import Transformer
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import Tokenizer

CHECKPOINTS, STATE = "checkpoints", "state.json"
DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(path: str | Path, dtype: str = "auto", device: str = "auto") -> tuple[Transformer, Tokenizer]:
    """The model at `path`, a run folder or one of its checkpoints, in evaluation mode, and its tokenizer.

    dtype: auto (as stored), fp32, bf16 or fp16. FathomError where there is no model, or only a damaged one.
    """
    if dtype not in DTYPES:
        raise FathomError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    target = pick_device(device)
    folder = find(Path(path))
    return read_model(folder, DTYPES[dtype], target), tokenizers.load(folder / tokenizers.FILE)


def find(path: Path) -> Path:
    """The folder that holds config, tokenizer and weights."""
    if not path.exists():
        raise FathomError(f"{path} does not exist; give a run folder such as runs/NAME, or train one: fathom train")
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
