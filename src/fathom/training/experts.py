"""The load-balancing loss of a mixture of experts, and how many tokens each expert runs while it is trained.

A router that favours an expert trains it more, and favours it more for that: without this loss some experts would run
nearly everything (Shazeer et al. 2017, section 4). The loss is that of Fedus et al. 2021, equations 4 to 6, over all
layers together and for several experts a token, as transformers computes it for Mixtral.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fathom.model.mlp import ExpertsMLP
from fathom.model.transformer import Transformer
from fathom.training.batches import MicroBatch
from fathom.training.world import ALONE, World

Use = tuple[tuple[float, ...], ...]  # of each layer with experts, how many tokens each of them ran, over an even share


class Balance:
    """Listens to the routers of a model. Created before its blocks are compiled, as its hooks stay in the model."""

    def __init__(
        self, experts: dict[int, ExpertsMLP], coefficient: float, world: World = ALONE, together: bool = False
    ) -> None:
        """experts: those of the model, by layer. coefficient: of the loss in what is minimised. together: whether the
        micro-batches of all processes are compared as one, as they are where a step is one micro-batch."""
        self.experts, self.coefficient, self.listening = experts, coefficient, False
        self.world, self.beside = world, world if together else ALONE
        self.scores: dict[int, Tensor] = {}  # of the pass that is listened to, (n, e) by layer
        self.loss = torch.zeros(())  # of the last step, without the coefficient
        self.counts: Tensor | None = None  # (layers, e) tokens of each expert since `use` was called
        for layer, mlp in experts.items():
            mlp.router.register_forward_hook(partial(self.hear, layer))

    @classmethod
    def of(
        cls, model: Transformer, coefficient: float, world: World = ALONE, together: bool = False
    ) -> "Balance | None":
        """None for a model without experts."""
        experts = {layer: block.mlp for layer, block in enumerate(model.blocks) if isinstance(block.mlp, ExpertsMLP)}
        return cls(experts, coefficient, world, together) if experts else None

    def hear(self, layer: int, router: nn.Module, args: object, scores: Tensor) -> None:
        if self.listening:  # and not where a block runs again in the backward pass
            self.scores[layer] = scores.flatten(0, -2)

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Inside, the scores of one pass are kept for `penalty`."""
        self.scores, self.listening = {}, True
        try:
            yield
        finally:
            self.listening = False

    def begin(self) -> None:
        """A step begins, of one micro-batch or several."""
        self.loss = torch.zeros((), device=next(iter(self.experts.values())).router.weight.device)

    def penalty(self, part: MicroBatch, n_tokens: int) -> Tensor:
        """() what the pass that was listened to adds to the loss of its step, which reads `n_tokens`.

        Each micro-batch counts by its tokens; within it, experts are compared over the tokens that are no padding.
        """
        read = slice(None) if part.read is None else part.read
        routed = [
            (shares(mlp, scores := self.scores[layer][read]), mlp.choose(scores)[1])
            for layer, mlp in self.experts.items()
        ]
        self.scores = {}
        (probable, chosen), read_tokens = zip(*routed), self.beside.count(len(routed[0][0]))
        loss = load_balancing_loss(probable, chosen, self.beside) * (read_tokens / max(1, n_tokens))
        counts = torch.stack([each.flatten().bincount(minlength=p.shape[-1]) for p, each in routed])
        self.counts = counts if self.counts is None else self.counts + counts
        self.loss = self.loss + loss.detach()
        return self.coefficient * loss

    def use(self) -> Use:
        """How the experts were used since this was last asked; () where no step was made."""
        if self.counts is None:
            return ()
        counts = self.world.total(self.counts)
        part = counts * counts.shape[1] / counts.sum(1, keepdim=True)
        self.counts = None
        return tuple(tuple(round(value, 3) for value in row) for row in part.tolist())


def shares(mlp: ExpertsMLP, scores: Tensor) -> Tensor:
    """How probable each expert is for a token, (n, e) with rows that sum to 1, given the router's scores (n, e)."""
    if mlp.choices.weigh == "sigmoid":
        each = scores.float().sigmoid()
        return each / each.sum(-1, keepdim=True)
    return scores.softmax(-1, dtype=torch.float32)


def load_balancing_loss(probable: Sequence[Tensor], chosen: Sequence[Tensor], world: World = ALONE) -> Tensor:
    """() e * sum over the experts of f P: the share f of the tokens that run it, times its mean probability P.

    probable: (n, e) of each layer; chosen: (n, used) the numbers of the experts that run each token. With all experts
    used alike it is `used`; with always the same ones, chosen with certainty, it is e. world: f is the share in all its
    processes, and P what these tokens add to the mean, so that the sum over the processes is the loss of all tokens.
    """
    rows, e = world.count(sum(map(len, probable))), probable[0].shape[-1]
    ran = world.total(torch.stack([each.flatten().bincount(minlength=e) for each in chosen]).sum(0))  # (e,)
    f = ran / max(1, rows)
    p = torch.stack([each.sum(0) for each in probable]).sum(0) / max(1, rows)  # (e,)
    return e * (f * p).sum()
