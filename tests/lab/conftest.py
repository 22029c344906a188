"""A small model, what a fine-tune made of it, and one loss-versus-rank experiment that the tests share."""

import random
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.lab.rank import loss_vs_rank
from fathom.lab.result import RankOptions, RankResult
from fathom.model.transformer import Transformer
from fathom.tokenizer.characters import CharacterTokenizer
from fathom.tokenizer.load import FILE, save
from fathom.training.events import Event
from tests.generation.models import random_model

LETTERS = "abcdefghijklmnopqrstuvwxyz .,\n"
SMALL = {"steps": 12, "batch_size": 4, "context_length": 16, "eval_windows": 8}


def written(folder: Path, model: Transformer, letters: str = LETTERS) -> Path:
    """A folder of our own with this model."""
    folder.mkdir(parents=True)
    write_config(folder / CONFIG, {"model": asdict(model.config)})
    write_weights(model, folder / WEIGHTS)
    save(CharacterTokenizer.train([letters]), folder / FILE)
    return folder


def small() -> Transformer:
    torch.manual_seed(3)
    return random_model("llama", len(LETTERS), 32)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("models") / "base", small())


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, with a change of rank 2 in every matrix of the blocks and another final norm."""
    model = small()
    with torch.no_grad():
        for name, w in model.named_parameters():
            if name.startswith("blocks") and w.ndim == 2:
                w += 0.1 * torch.randn(w.shape[0], 2) @ torch.randn(2, w.shape[1])
        model.final_norm.weight += 0.1
    return written(tmp_path_factory.mktemp("models") / "tuned", model)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    generator = random.Random(0)
    path.write_text(" ".join(generator.choice(["sea", "tea", "tease", "eat", "sat"]) for _ in range(3000)))
    return path


@pytest.fixture(scope="session")
def experiment(base: Path, words: Path) -> tuple[RankResult, list[Event]]:
    events: list[Event] = []
    return loss_vs_rank(base, RankOptions(data=str(words), device="cpu", **SMALL), events.append), events
