"""A skeleton has the parts of the model, and nothing in them."""

import pytest
import torch

from fathom.anatomy.skeleton import skeleton
from fathom.families.shapes import weight_shapes
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_parts_and_shapes_are_those_of_the_model(config: ModelConfig) -> None:
    built, bare = Transformer(config).state_dict(), skeleton(config)
    assert {n: x.shape for n, x in bare.state_dict().items()} == {n: x.shape for n, x in built.items()}
    assert all(parameter.is_meta for parameter in bare.parameters())
    shapes = [(n, tuple(x.shape)) for n, x in built.items() if n != "unembed.weight" or not config.tie_embeddings]
    assert [*weight_shapes(config).items()] == shapes
    assert (bare.unembed.weight is bare.embed.weight) == config.tie_embeddings


def test_nothing_is_drawn() -> None:
    config = next(iter(ARCHITECTURES.values()))
    before = torch.get_rng_state()
    skeleton(config)
    assert torch.equal(torch.get_rng_state(), before)
