"""Our own format: a folder with config.yaml, tokenizer.json and model.safetensors, as every checkpoint of a run is.

A run folder is opened as its best checkpoint: the one with the lowest validation loss whose files match its manifest.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.errors import FathomError
from fathom.fields import build
from fathom.formats import checkpoint
from fathom.formats.config_file import CONFIG, read_config
from fathom.formats.convert import require_equal
from fathom.formats.opened import Opened
from fathom.formats.safetensors_file import open_safetensors, write_tensors
from fathom.model.config import ModelConfig
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from fathom.model.transformer import Transformer


WEIGHTS, CHECKPOINTS, STATE = "model.safetensors", "checkpoints", "state.json"
DATA_SUMMARY, METRICS = "facts.json", "metrics.jsonl"  # what a run was trained on, and what it measured
PAGE = "page.html"  # that shows all of it


def weights(model: Transformer) -> dict[str, Tensor]:
    """Every tensor of the model by name; a tied unembedding is the embedding and is left out."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_embeddings:
        del tensors["unembed.weight"]
    return tensors


def write_weights(model: Transformer, path: Path) -> None:
    """model.safetensors with our names."""
    write_tensors(path, weights(model))


def set_weights(
    model: Transformer,
    tensors: Mapping[str, Tensor],
    where: str,
    own: Callable[[Tensor, Tensor], Tensor] = lambda whole, like: whole,
) -> None:
    """Give the model these weights. FathomError names what is missing, unexpected or of another shape.

    A model without memory of its own (on the meta device) takes the tensors as they are; another copies their values.
    own: what a process takes of a whole tensor where it holds a part of that of the model.
    """
    held = weights(model)
    try:
        require_equal(*({name: tuple(x.shape) for name, x in each.items()} for each in (held, tensors)))
    except FathomError as error:
        raise FathomError(f"{where}: {error}") from None
    parts = {name: own(x, held[name]) for name, x in tensors.items()}
    model.load_state_dict(parts, strict=False, assign=model.embed.weight.is_meta)
    if model.config.tie_embeddings:
        model.unembed.weight = model.embed.weight


def open_run(path: Path) -> Opened:
    """The model of a run folder, of one of its checkpoints, or of any folder with our config.yaml and weights."""
    folder = find(path)
    values = read_config(folder / CONFIG)
    if isinstance(base := values.get("base"), dict) and not (folder / WEIGHTS).exists():
        raise FathomError(
            f"{path} holds an adapter of {base.get('path')} and no model of its own; give that model, or merge the"
            f" two: fathom merge {base.get('path')} {path} -o FOLDER"
        )
    config = build(ModelConfig, values.get("model", {}), f"{folder / CONFIG}: model")
    tensors = open_safetensors(folder / WEIGHTS)
    about = {key: value for key, value in values.items() if key != "model"}

    def tokenizer() -> Tokenizer | None:
        return tokenizers.load(folder / tokenizers.FILE) if (folder / tokenizers.FILE).exists() else None

    return Opened(folder, "run of fathom", config, None, "ours", tensors, tokenizer, about)


def find(path: Path) -> Path:
    """The folder that holds config, tokenizer and weights."""
    if not path.is_dir():  # the weights of a folder, given alone
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
    """The sound checkpoint with the lowest validation loss, the newest of equals."""
    problems = []
    for path in sorted(checkpoint.newest_first(folder), key=validation_loss):
        try:
            checkpoint.verify(path)
        except FathomError as error:
            problems.append(str(error))
        else:
            if problems:
                warnings.warn(f"fell back to {path}: {problems[0]}", stacklevel=3)
            return path
    if problems:
        raise FathomError(f"all checkpoints in {folder} are damaged: {problems[0]}; train again")
    raise FathomError(
        f"there is no checkpoint in {folder} yet; train first: fathom train --resume --out-dir {folder.parent}"
    )


def best_step(folder: Path) -> list[int]:
    """The step of the checkpoint with the lowest validation loss, where one was measured."""
    measured = [(validation_loss(path), path) for path in checkpoint.newest_first(folder)]
    known = [(loss, checkpoint.step_of(path)) for loss, path in measured if loss < math.inf]
    return [min(known, key=lambda pair: (pair[0], -pair[1]))[1]] if known else []  # of equals the newest, as `best`


def validation_loss(path: Path) -> float:
    """The loss that a checkpoint records; infinite where none was measured at its step."""
    try:
        loss = json.loads((path / STATE).read_text())["validation_loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf
    return float(loss) if isinstance(loss, float) and math.isfinite(loss) else math.inf
