"""Weights that an adapter holds whole: trained biases and norms, modules that were saved with it, rows of tokens.

While the adapter is active its numbers are in the place of the model's own: W + sum of weight_i (W_i - W). A vocabulary
of another size stays with the model once the adapter is on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from fathom.errors import FathomError
from fathom.model.ends import ScaledEmbedding, ScaledUnembed
from fathom.model.transformer import Transformer


class Replaced:
    """One tensor of a model: its own numbers, and those of each adapter that holds it whole."""

    def __init__(self, places: Sequence[tuple[nn.Module, str]]) -> None:
        """places: the module and attribute of the tensor; several where it is tied."""
        self.places = list(places)
        self.own: Tensor = getattr(*self.places[0]).detach()
        self.values: dict[str, Tensor] = {}

    def apply(self, weights: Mapping[str, float | Tensor]) -> None:
        """Give the model the numbers of these adapters. FathomError where each row of a batch has its own."""
        active = {name: weight for name, weight in weights.items() if name in self.values}
        if any(isinstance(weight, Tensor) for weight in active.values()):
            name = next(iter(active))
            raise FathomError(f"{name} holds whole weights, which all rows of a batch share; enable it for all")
        now = getattr(*self.places[0])
        own = self.own.to(now.device, now.dtype)
        if not active:
            value = own
        elif [*active.values()] == [1.0]:
            value = self.values[next(iter(active))].to(own)
        else:
            changes = (weight * (self.values[name].to(own.device) - own.float()) for name, weight in active.items())
            value = sum(changes, own.float()).to(own.dtype)
        parameter = nn.Parameter(value, requires_grad=False)
        for module, attribute in self.places:
            setattr(module, attribute, parameter)


def resize_vocabulary(model: Transformer, rows: int) -> None:
    """Give the model a vocabulary of so many tokens: the last rows of embedding and unembedding are cut off, or new
    ones are added, each the mean of all. Tied matrices stay tied. FathomError where they have adapters already."""
    embed, unembed, held = model.embed, model.unembed, model.config.vocab_size
    if type(embed) not in (nn.Embedding, ScaledEmbedding) or type(unembed) not in (nn.Linear, ScaledUnembed):
        raise FathomError(
            f"the vocabulary cannot change from {held:,} to {rows:,} tokens: embed or unembed has an adapter; load the"
            " one with the larger vocabulary first"
        )
    tied = unembed.weight is embed.weight
    embed.weight = resized(embed.weight, rows)
    unembed.weight = embed.weight if tied else resized(unembed.weight, rows)
    if unembed.bias is not None:
        unembed.bias = nn.Parameter(resized(unembed.bias[:, None], rows)[:, 0].detach(), unembed.bias.requires_grad)
    embed.num_embeddings = unembed.out_features = rows
    model.config = replace(model.config, vocab_size=rows)


@contextmanager
def vocabulary_resized(model: Transformer, rows: int) -> Iterator[None]:
    """With the vocabulary of this size, in the block and after it; an error in the block leaves the model as it was."""
    embed, unembed, config = model.embed, model.unembed, model.config
    if rows != config.vocab_size:
        weights = embed.weight, unembed.weight, unembed.bias
        resize_vocabulary(model, rows)
    try:
        yield
    except BaseException:
        if rows != config.vocab_size:
            embed.weight, unembed.weight, unembed.bias = weights
            embed.num_embeddings = unembed.out_features = config.vocab_size
            model.config = config
        raise


def resized(weight: Tensor, rows: int) -> nn.Parameter:
    """(rows, d) of a matrix (V, d)."""
    new = torch.cat([weight.detach()[:rows], mean_row(weight).expand(max(0, rows - len(weight)), -1)])
    return nn.Parameter(new, requires_grad=weight.requires_grad)


def mean_row(weight: Tensor) -> Tensor:
    """(1, d), as new tokens begin in transformers: nothing is likelier than the average of what there is."""
    return weight.detach().float().mean(0, keepdim=True).to(weight.dtype)
