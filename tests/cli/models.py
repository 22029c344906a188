"""Small models in folders, as the verbs take them."""

from dataclasses import asdict
from pathlib import Path

from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.tokenizer.load import FILE, save
from fathom.tokenizer.protocol import Tokenizer
from tests.generation.models import random_model


def model_folder(folder: Path, tokenizer: Tokenizer, context_length: int = 400) -> Path:
    """A random LLaMA with this tokenizer."""
    folder.mkdir()
    model = random_model("llama", tokenizer.vocab_size, context_length)
    write_config(folder / CONFIG, {"model": asdict(model.config)})
    write_weights(model, folder / WEIGHTS)
    save(tokenizer, folder / FILE)
    return folder
