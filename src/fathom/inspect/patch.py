"""Activation patching: put what a model computes for one prompt into its pass of another, and see what that decides.

Vig et al. 2020; Meng et al. 2022, where it is called causal tracing. Both prompts have equally many tokens.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.inspect.derived import Tensors
from fathom.inspect.edit import edit, replace
from fathom.inspect.identities import Residuals, named, off
from fathom.inspect.names import names
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.words import counted

What = Literal["stream", "attn", "mlp", "heads"]
AT_ONCE = 1 << 24  # logits that are held at a time


def require_alike(ids: Tensor, other: Tensor) -> None:
    """FathomError where two prompts (1, t) differ in their number of tokens, or not at all."""
    if ids.shape != other.shape:
        raise FathomError(
            f"the second prompt has {counted(other.shape[1], 'token')} and the first {ids.shape[1]:,}; each token is "
            "put in the place of one, so give them equally many"
        )
    if torch.equal(ids, other):
        raise FathomError("both prompts are the same tokens, so nothing would change; change a word of the second")


def tensor(config: ModelConfig, layer: int, what: What) -> str:
    """The name of what is put in at a layer: the stream after it, z of its heads, or what attn or mlp adds."""
    if what == "stream":
        return f"blocks.{layer}"
    if what == "heads":
        return f"blocks.{layer}.attn.z"
    after = f"blocks.{layer}.{what}_after"
    return after if after in names(config) else f"blocks.{layer}.{what}"


@torch.no_grad()
def patched(
    model: Transformer, ids: Tensor, other: Tensors, name: str, rows: Sequence[object] = (slice(None),)
) -> Tensor:
    """Logits (rows, t, V) of ids (1, t) with the tensor `name` of the pass `other` put in: in each row at another index
    of (t, ...), `slice(None)` being all of it."""
    put = partial(_put, rows=rows, there=other[name][0])
    with edit(model, replace(name, put)):
        return model(ids.expand(len(rows), -1))


def _put(x: Tensor, rows: Sequence[object], there: Tensor) -> Tensor:
    for row, at in enumerate(rows):
        x[row][at] = there[at]  # type: ignore[index]
    return x


def sweep(model: Transformer, ids: Tensor, other: Tensors, what: What, at: int) -> Tensor:
    """Logits (L, columns, V) at position `at`, patched at each layer and token, or in each head at all tokens."""
    n = model.config.n_head if what == "heads" else ids.shape[1]
    indices: list[object] = [(slice(None), head) for head in range(n)] if what == "heads" else list(range(n))
    step = max(1, AT_ONCE // (ids.shape[1] * model.config.vocab_size))
    found = []
    for layer in range(len(model.blocks)):
        name = tensor(model.config, layer, what)
        found += [patched(model, ids, other, name, indices[i : i + step])[:, at] for i in range(0, n, step)]
    return torch.cat(found).unflatten(0, (len(model.blocks), n))


def recovered(logits: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """How far logits (..., V) came from those of the first prompt, here (V,), to those of the second, there (V,): 0 is
    the first and 1 the second, 1 - KL(there, patched) / KL(there, here)."""
    said = there.float().log_softmax(-1)

    def far(x: Tensor) -> Tensor:
        return (said.exp() * (said - x.float().log_softmax(-1))).sum(-1)

    return 1 - far(logits) / far(here)


def patching_a_layer(model: Transformer, ids: Tensor, other: Tensors) -> Residuals:
    """All of the other pass's stream after block 0 put in gives its logits."""
    return named("patching_a_layer", off(patched(model, ids, other, "blocks.0")[0], other["logits"][0]))
