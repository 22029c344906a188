"""The folder of a fine-tuning run: where its base lies, what is learned from, its checkpoints, and the best adapter.

    config.yaml  tokenizer.json  data/  facts.json  metrics.jsonl  loss.png  checkpoints/  adapter/

A checkpoint holds the adapter twice: `trained.safetensors` to go on from, to the bit, and as the two files of a PEFT
folder, so that each checkpoint is one. Where all weights are trained it holds the model as any run does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fathom.adapters import lora, peft
from fathom.adapters.peft_config import CONFIG as ADAPTER
from fathom.adapters.peft_config import WEIGHTS as ADAPTER_WEIGHTS
from fathom.atomic import atomic_write
from fathom.data.batches import Batch, Batches, eval_windows
from fathom.data.example_file import ExampleFile
from fathom.data.packing import ExampleBatches, eval_rows
from fathom.errors import FathomError
from fathom.formats import checkpoint
from fathom.formats.checkpoint import Content
from fathom.formats.native import read_weights
from fathom.formats.run import best_step
from fathom.formats.tensors import write_tensors
from fathom.model.transformer import Transformer
from fathom.train import loop
from fathom.train.finetune_options import FinetuneOptions
from fathom.train.run import Facts, Run

TRAINED, BEST = "trained.safetensors", "adapter"
OPENING = 8  # tokens that a sample goes on from where no question stands before an answer


@dataclass(frozen=True)
class TunedFacts(Facts):
    """Of records: n_train and n_val are the tokens that are learned, and the characters and bytes are theirs."""

    kind: str  # what the data are, in words
    records: bool
    n_train_rows: int  # rows of an epoch
    n_val_rows: int
    n_examples: int = 0
    n_cut: int = 0
    n_dropped: int = 0
    n_shared: int = 0  # validation examples that are learned too


@dataclass(frozen=True)
class Base:
    """The model that is trained further, and the hash by which it is known again."""

    path: str
    fingerprint: str


@dataclass(frozen=True)
class TunedRun(Run):
    """A run folder whose model began as another. `config` is the base's; `length` the tokens of a row."""

    facts: TunedFacts
    base: Base
    tuning: FinetuneOptions
    length: int

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained, and not all weights."""
        return self.tuning.method != "full"

    @property
    def capacity(self) -> int | None:
        """Tokens that share a row; None: each example has its own."""
        return self.length if self.tuning.pack else None

    def examples(self, part: str) -> ExampleFile:
        return ExampleFile(self.folder / "data" / part, self.tokenizer.vocab_size)

    def batches(self) -> loop.Batches:
        size, seed = self.options.batch_size, self.options.seed
        if self.facts.records:
            return ExampleBatches(self.examples("train"), size, seed, self.capacity)
        return Batches(self.tokens("train"), self.length, size, seed)

    def validation(self) -> Sequence[Tensor | Batch]:
        count, size = self.options.eval_windows, self.options.micro_batch_size or self.options.batch_size
        if self.facts.records:
            return list(eval_rows(self.examples("val"), count, size, self.capacity))
        return list(eval_windows(self.tokens("val"), self.length, count, size))

    def prompt(self) -> str | list[int]:
        """What was asked for; else the first question that is validated on, or the text's first tokens."""
        if self.options.sample_prompt:
            return self.options.sample_prompt
        if not self.facts.records:
            return [int(token) for token in self.tokens("val")[:OPENING]]
        first = self.examples("val")[0]
        asked = int(first.trained.argmax())
        return [int(token) for token in first.ids[: asked if asked > 1 else OPENING]]

    def plain(self) -> dict[str, Any]:
        return {"base": asdict(self.base), "finetune": listed(self.tuning) | {"context_length": self.length},
                **super().plain()}  # fmt: skip

    def contents(self, model: Transformer) -> Mapping[str, Content]:
        if not self.adapted:
            return super().contents(model)
        with TemporaryDirectory() as folder:
            peft.save(model, folder, base=self.base.path)
            both = {name: (Path(folder) / name).read_bytes() for name in (ADAPTER, ADAPTER_WEIGHTS)}
        return {TRAINED: lambda path: write_tensors(path, lora.state(model)), **both}

    def put_back(self, model: Transformer, folder: Path) -> None:
        if self.adapted:
            put_adapter(model, folder / TRAINED)
        else:
            super().put_back(model, folder)

    def saved(self) -> None:
        """Let the adapter of the best checkpoint, or else of the newest, lie beside the checkpoints."""
        if self.adapted:
            step = (best_step(self.checkpoints) or [max(checkpoint.steps(self.checkpoints))])[0]
            (self.folder / BEST).mkdir(exist_ok=True)
            for name in (ADAPTER_WEIGHTS, ADAPTER):
                data = (self.checkpoints / f"step-{step:08d}" / name).read_bytes()
                with atomic_write(self.folder / BEST / name) as new:
                    new.write_bytes(data)


def put_adapter(model: Transformer, path: Path) -> None:
    """Give the adapter these numbers, to the bit."""
    saved, here = read_weights(path), lora.state(model)
    if {name: x.shape for name, x in saved.items()} != {name: x.shape for name, x in here.items()}:
        raise FathomError(f"{path} is of another adapter than this run's; train anew")
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(saved[name])


def listed(options: FinetuneOptions) -> dict[str, Any]:
    """The options as YAML holds them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}
