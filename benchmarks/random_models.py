"""The models that measurements read: known shapes with random weights, written when they are first needed.

One table of shapes (`fathom.bench.shapes`) serves all: Fathom writes a shape's config.json, and the peers' scripts
build GGUF files and checkpoints from it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import PEERS, output


@dataclass(frozen=True)
class RandomModels:
    """The models in one folder; `python` has the peers' packages. Methods raise measure.Failed."""

    folder: Path
    python: str

    def config(self, shape: str) -> Path:
        """A shape as transformers' config.json."""
        return written(self.folder / f"{shape}.json", lambda new: write_config(shape, new))

    def checkpoint(self, shape: str) -> Path:
        """A folder of bf16 weights, as transformers saves it."""
        config = self.config(shape)
        return written(self.folder / shape, lambda new: self.run("random_checkpoint.py", config, new))

    def gguf(self, shape: str, kind: str) -> Path:
        """A LLaMA whose matrices are stored as `kind`: bf16, q8_0 or q4_0."""
        config, path = self.config(shape), self.folder / f"{shape}-{kind}.gguf"
        return written(path, lambda new: self.run("random_gguf.py", config, kind, new))

    def run(self, script: str, *arguments: object) -> None:
        output([self.python, str(PEERS / script), *map(str, arguments)], os.cpu_count() or 1)


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """The path, after `write` has written it if it was missing; an interrupted write leaves nothing there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"new-{path.name}")
        write(new)
        new.replace(path)
    return path


def write_config(shape: Any, path: Path) -> None:
    from fathom.bench.shapes import SHAPES
    from fathom.families.registry import of

    path.write_text(json.dumps(of(SHAPES[shape]).write("hf", SHAPES[shape]), indent=1))
