"""How the next token of each row is chosen: read what is in view, sample, draw.

Does not know text, nor when a row ends.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.generate.context import Reader
from fathom.generate.pieces import Facts
from fathom.generate.row import Row
from fathom.generate.sampling import Samplers, draw
from fathom.model.transformer import Transformer

Chosen = tuple[Row, int, float]  # a row, its next token, and ln of the model's own probability of that token
Draw = Callable[[Tensor, Sequence[torch.Generator]], Tensor]  # as `sampling.draw`


class Chooser:
    """One token for each row in each pass.

    Each row has a generator of its own: its draws do not hang on the rows beside it.
    """

    def __init__(
        self, model: Transformer, reader: Reader, samplers: Samplers, rows: Sequence[Row], facts: Facts, vocab_size: int
    ) -> None:
        self.model, self.reader, self.samplers, self.facts = model, reader, samplers, facts
        self.vocab_size, self.device = vocab_size, model.embed.weight.device
        self.generators = [torch.Generator().manual_seed(facts.seed + row.index) for row in rows]
        self.seen = torch.zeros(len(rows), vocab_size, dtype=torch.bool, device=self.device)  # tokens in each text
        for row in rows:
            self.seen[row.index, row.window.ids] = True

    @property
    def nbytes(self) -> int:
        """Of what is kept of the past."""
        return self.reader.nbytes

    @torch.no_grad()
    def choose(self, live: Sequence[Row]) -> list[Chosen]:
        """The next token of each row."""
        with evaluating(self.model):
            logits = self.reader.logits([row.window for row in live])
        return self.sample(self.checked(logits), live)

    def checked(self, logits: Tensor) -> Tensor:
        """What the model says, as `finite` has it."""
        return finite(logits[:, : self.vocab_size])

    def sample(self, logits: Tensor, live: Sequence[Row], draw: Draw = draw) -> list[Chosen]:
        """A token for each row from its logits (b, V), which from then on is one of those seen."""
        index = torch.tensor([row.index for row in live], device=self.device)
        ids = draw(self.samplers(logits, self.seen[index]), [self.generators[row.index] for row in live])  # (b,)
        self.seen[index, ids] = True
        logprobs = logits.log_softmax(-1).gather(1, ids[:, None])  # (b, 1)
        return list(zip(live, ids.tolist(), logprobs.flatten().tolist()))


def finite(logits: Tensor, of: str = "the model") -> Tensor:  # (b, V) -> (b, V)
    """Logits in float32, refused when they are not numbers."""
    if not logits.amax(-1).isfinite().all():
        raise FathomError(f"{of}'s logits are not finite numbers; its weights are damaged or its dtype too small")
    return logits.float()


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Without dropout; afterwards as before."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
