"""An unembedding in a file whose config says that it is the embedding: compared with it, and used where it differs."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.adapters.merge import write_run
from fathom.formats.detect import open_model
from fathom.formats.export import write_model
from fathom.formats.load import load
from fathom.formats.run import open_run
from fathom.formats.safetensors_file import read_tensors, write_tensors
from tests.adapters.models import CONFIGS
from tests.architectures import ids_for, model_of

NAMES = {"hf": ("model.embed_tokens.weight", "lm_head.weight"), "run": ("embed.weight", "unembed.weight")}


@pytest.mark.parametrize("format", NAMES)
@pytest.mark.parametrize("changed", [False, True])
def test_what_is_stored_twice_is_compared(tmp_path: Path, format: str, changed: bool) -> None:
    model, path = model_of(replace(CONFIGS["llama"], tie_embeddings=True), std=0.2), tmp_path / "model"
    if format == "run":
        write_run(path, model, None)
    else:
        write_model(model, None, format, path)
    embed, unembed = NAMES[format]
    tensors = {name: x.clone() for name, x in read_tensors(path / "model.safetensors").items()}
    tensors[unembed] = tensors[embed].clone()
    tensors[unembed][-1, -1] += changed  # one number, the last
    write_tensors(path / "model.safetensors", tensors)
    if not changed:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert open_model(path).config.tie_embeddings
        return
    with pytest.warns(UserWarning, match="the file holds two different ones; both are used"):
        read, _ = load(path, device="cpu")
    assert not read.config.tie_embeddings
    ids = ids_for(model.config)
    hidden = model.hidden(ids)
    assert torch.allclose(read(ids), torch.nn.functional.linear(hidden, tensors[unembed]), atol=1e-6)
    assert open_run(path).config.tie_embeddings if format == "run" else True  # what the file says itself
