"""What follows from recorded tensors, against the NumPy reference."""

import numpy as np
import torch

from fathom.inspect.derived import head_result, head_results
from fathom.inspect.look import look
from tests.architectures import LLAMA, ids_for, model_of
from tests.reference import forward


@torch.no_grad()
def test_head_results_against_the_reference() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    with look(model, "**.z") as seen:
        model(ids)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    z = forward(model.config, weights, ids.numpy())["blocks.1.attn.z"][:, :, 4]
    expected = z @ weights["blocks.1.attn.out.weight"][:, 16:20].T
    result = head_result(model.blocks[1].attn, seen["blocks.1.attn.z"], 4)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)
    every = head_results(model.blocks[1].attn, seen["blocks.1.attn.z"])
    np.testing.assert_allclose(every[..., 4, :].numpy(), expected, atol=1e-5)
