"""Memory for time: a block keeps only what enters it, and computes the rest again when the gradient is wanted.

Chen et al. 2016, section 4.1. What is kept for the backward pass then grows with one block, not with their number, for
one more forward pass. Done from outside: the model does not know.
"""

from functools import partial

from torch.utils.checkpoint import checkpoint

from fathom.model.transformer import Transformer


def forget_blocks(model: Transformer) -> None:
    """Let every block of the model forget. Random states are kept, so that dropout is the same the second time."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
