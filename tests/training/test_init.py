"""The first weights of a run."""

import pytest
import torch

from fathom.model.config import ModelConfig
from fathom.training.options import TrainOptions
from fathom.training.session import new_model


@pytest.mark.parametrize("width, factor", [(768, 1.0), (48, 4.0)])
def test_by_width_a_narrow_model_starts_with_larger_matrices(width: int, factor: float) -> None:
    """At GPT-2's width nothing changes; at a sixteenth of it matrices are four times as large, a tied one too."""
    config = ModelConfig(vocab_size=11, context_length=4, d_model=width, n_layer=1, norm="layer", tie_embeddings=True)
    plain, scaled = (new_model(config, TrainOptions(init=init)) for init in ("scaled", "by-width"))
    for before, after in zip(plain.parameters(), scaled.parameters()):
        torch.testing.assert_close(after, before * (factor if before.ndim == 2 else 1.0))
