"""The runs below a folder, from their small files alone: what was trained on what, how far, and how well.

Does not import torch: a list of a hundred runs is there at once.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.anatomy.cost import n_parameters
from fathom.errors import FathomError
from fathom.fields import build
from fathom.formats.config_file import CONFIG, read_config
from fathom.formats.run import DATA_SUMMARY, METRICS
from fathom.model.config import ModelConfig
from fathom.tokenizer.load import FILE
from fathom.training.events import read_metrics
from fathom.training.travels import travels

INSIDE = ("checkpoints", "data", "tensorboard", "wandb", "__pycache__", "node_modules")  # folders that hold no run
Point = tuple[float, float]


@dataclass(frozen=True)
class RunSummary:
    """A run as its folder describes it. Losses in nats per token; None where nothing was measured."""

    path: str
    kind: str  # train, or the method of a fine-tuning
    model: str
    parameters: int
    data: str
    step: int
    steps: int  # max_iters of its recipe
    best_loss: float | None
    best_step: int | None
    bits_per_character: float | None  # at best_step
    exports: tuple[str, ...]  # formats


def find_runs(folder: Path) -> Iterator[Path]:
    """Every run folder at or below this one, in the order of their paths. FathomError where there is no such folder."""
    if not folder.is_dir():
        raise FathomError(f"{folder} is not a folder; give one that holds runs, such as runs")
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in INSIDE)
        if CONFIG in files and DATA_SUMMARY in files:
            names.clear()
            yield Path(place)


def summarise(folder: Path) -> RunSummary:
    """What the small files of a run say. FathomError where they are damaged."""
    values, lines = read_config(folder / CONFIG), read_metrics(folder / METRICS)
    config = build(ModelConfig, values.get("model") or {}, f"{folder / CONFIG}: model").resolved()
    measured = [line for line in lines if line.get("val_loss") == line.get("val_loss") is not None]
    best: dict[str, Any] = min(measured, key=lambda line: line["val_loss"], default={})
    tuning, train, found = values.get("finetune"), values.get("train") or {}, travels(config, tokenizer_kind(folder))
    try:
        data = json.loads((folder / DATA_SUMMARY).read_text(encoding="utf-8"))["corpus"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise FathomError(f"{folder / DATA_SUMMARY} cannot be read: {problem}") from None
    return RunSummary(
        path=str(folder),
        kind=str(tuning.get("method", "finetune")) if isinstance(tuning, dict) else "train",
        model=f"{found[0].title if found else 'own form'}, {config.n_layer} × {config.d_model}",
        parameters=n_parameters(config),
        data=str(data),
        step=max((line["step"] for line in lines), default=0),
        steps=int(train.get("max_iters", 0)),
        best_loss=best.get("val_loss"),
        best_step=best.get("step"),
        bits_per_character=best.get("bits_per_character"),
        exports=tuple(found[1]) if found else (),
    )


def tokenizer_kind(folder: Path) -> str:
    """The kind of the run's tokenizer, of which only the word is read; "" where it has none."""
    try:
        return str(json.loads((folder / FILE).read_text(encoding="utf-8")).get("kind", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def curves_of(folders: Sequence[Path]) -> tuple[str, list[tuple[str, list[Point]]]]:
    """(what is measured, (name, points) of each run): validation loss, or bits per character where tokens differ.

    FathomError where a run has not been evaluated yet.
    """
    sizes = {
        build(ModelConfig, read_config(f / CONFIG).get("model") or {}, str(f / CONFIG)).vocab_size for f in folders
    }
    key, label = ("val_loss", "validation loss, nats per token")
    if len(sizes) > 1:
        key, label = "bits_per_character", "validation loss, bits per character"
    common = os.path.commonpath([folder.absolute().parent for folder in folders])
    curves = []
    for folder in folders:
        points = [(line["step"], line[key]) for line in read_metrics(folder / METRICS) if line.get(key) is not None]
        if not points:
            raise FathomError(f"{folder} has no evaluation yet; leave it out, or wait for its first")
        curves.append((os.path.relpath(folder.absolute(), common), points))
    return label, curves
