"""C11: an adapter at init changes nothing; merged = unmerged; what it adds is alpha / r b a, of rank r at most.

As those in `fathom.inspect.identities`: a function that returns how far each part is off.
"""

import copy

import torch
from torch import Tensor

from fathom.adapters.lora import add, merge, parameters, wrapped
from fathom.adapters.options import LoraOptions
from fathom.inspect.identities import Residuals, named, off, worst
from fathom.model.transformer import Transformer


@torch.no_grad()
def c11(model: Transformer, ids: Tensor, rank: int = 3, alpha: float = 5.0) -> Residuals:
    """Of a LoRA on all linear layers of a copy of the model, at init and then with numbers drawn at random."""
    adapted = copy.deepcopy(model)
    add(adapted, LoraOptions(rank=rank, alpha=alpha))
    start = off(adapted(ids), model(ids))
    for parameter in parameters(adapted):
        parameter.normal_(std=0.1)
    changes, ranks = [], []
    for part in wrapped(adapted).values():
        adapter, delta = part.adapters["default"], part.delta("default")
        changes.append(off(delta, alpha / rank * adapter.b @ adapter.a))  # type: ignore[operator]
        ranks.append(float(max(0, torch.linalg.matrix_rank(delta).item() - rank)))
    logits = adapted(ids)
    merge(adapted)
    return named("C11", start, off(adapted(ids), logits), worst(changes), worst(ranks))
