"""Figures of the pages on learning and writing, drawn by docs/figures.py.

The model that learns in them is a bigram, embed and unembed alone, on the pairs of characters of the Python reference.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import takewhile

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fathom.data.corpus import resolve
from fathom.generation.sampling import probabilities, temperature
from fathom.inspect.look import look
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.report.plot import LIGHT, Curve, Row, axes, bars, curves
from fathom.tokenizer.load import make
from fathom.training.optimizers.muon import Muon

WIDTH, LETTERS = 32, "0123456789ABCDEFTSaeioubcdfgtnrs"


@cache
def text() -> str:
    return "".join(resolve("python-docs").chunks())


@cache
def pairs() -> tuple[list[str], Tensor]:
    """The characters that occur, and how often each is followed by each other (V, V), as parts of all pairs."""
    letters = sorted({*text()})
    ids = np.searchsorted(letters, list(text()))
    counts = np.zeros((len(letters), len(letters)))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    return letters, torch.from_numpy(counts / counts.sum()).float()


def bigram() -> tuple[Tensor, Tensor]:
    """A fresh embed (V, d) and unembed (V, d)."""
    torch.manual_seed(0)
    size = len(pairs()[0])
    config = ModelConfig(vocab_size=size, context_length=1, d_model=WIDTH, n_layer=0, residual="off")
    model = Transformer(config)
    return model.embed.weight, model.unembed.weight


def losses(optimizer: torch.optim.Optimizer, embed: Tensor, unembed: Tensor, steps: int) -> Iterator[float]:
    """The exact mean loss of all pairs before each step."""
    _, p = pairs()
    for _ in range(steps):
        loss = -(p * (embed @ unembed.T).log_softmax(-1)).sum()
        yield loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(make_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int) -> tuple[list[float], Tensor]:
    """The losses of a training, and the embedding that it ends with."""
    embed, unembed = bigram()
    return list(losses(make_optimizer([embed, unembed]), embed, unembed, steps)), embed.detach()


def tokens() -> Figure:
    """On the last tenth of the text, which no vocabulary was learned from."""
    cut = len(text()) * 9 // 10
    rows = []
    for spec in ("byte", "char", "bpe:512", "bpe:1024", "bpe:4096", "bpe:16384"):
        tokenizer = make(spec, [text()]) if spec == "char" else make(spec, [text()[:cut]])
        ratio = len(text()[cut:]) / len(tokenizer.encode(text()[cut:]))
        rows.append(Row(f"{tokenizer.kind}: {tokenizer.vocab_size:,} tokens", ratio))
    return bars(rows, "characters per token, of text that no vocabulary was learned from", number="{:.2f}".format)


def embeddings() -> Figure:
    letters, _ = pairs()
    _, embed = trained(lambda parameters: torch.optim.Adam(parameters, lr=0.03), 300)
    shown = torch.nn.functional.normalize(embed[[letters.index(letter) for letter in LETTERS]], dim=-1)
    figure, ax = axes(5.4, 5.2, LIGHT)
    ax.imshow((shown @ shown.T).numpy(), cmap="RdBu", vmin=-1, vmax=1)
    ax.grid(visible=False)
    ax.set_xticks(range(len(LETTERS)), LETTERS)
    ax.set_yticks(range(len(LETTERS)), LETTERS)
    return figure


def cross_entropy() -> Figure:
    p = torch.linspace(0.01, 1, 100)
    return curves(
        [Curve("-ln p", p.tolist(), (-p.log()).tolist())], "probability of the token that came", "loss, nats", number=""
    )


def training_step() -> Figure:
    drawn = []
    for colour, rate in enumerate((0.3, 3, 14)):
        values, _ = trained(partial(torch.optim.SGD, lr=rate), 100)
        inside = list(takewhile(lambda loss: loss < 6, values))
        drawn.append(Curve(f"rate {rate}", range(len(inside)), inside, colour=colour))
    return curves(drawn, "step", "loss, nats per character", number="")


def optimizers() -> Figure:
    makers: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
        "gradient alone": lambda weights: torch.optim.SGD(weights, lr=3),
        "with momentum": lambda weights: torch.optim.SGD(weights, lr=3, momentum=0.9),
        "AdamW": lambda weights: torch.optim.AdamW(weights, lr=0.1, weight_decay=0),
        "Muon": lambda weights: Muon(weights, lr=0.2),
    }
    drawn = [Curve(name, range(100), trained(made, 100)[0], colour=i) for i, (name, made) in enumerate(makers.items())]
    return curves(drawn, "step", "loss, nats per character", number="  {:.2f}")


def sampling() -> Figure:
    logits = -torch.arange(1.0, 13)[None].log() * 1.5
    places = list(range(1, 13))
    drawn = [
        Curve(f"temperature {value}", places, probabilities(temperature(logits, value))[0].tolist(), colour=i)
        for i, value in enumerate((0.5, 1.0, 2.0))
    ]
    figure = curves(drawn, "token, from the likeliest", "probability", number="")
    figure.axes[0].set_xticks(places)
    return figure


def residual_stream() -> Figure:
    def kept(residual: bool) -> list[float]:
        """The cosine of the stream before each block, and after the last, with the embedding, at a fresh model."""
        torch.manual_seed(0)
        config = ModelConfig(
            vocab_size=64, context_length=32, d_model=64, n_layer=16, norm="layer", mlp="gelu", residual=residual
        )
        model = Transformer(config)
        with torch.no_grad(), look(model, "blocks.*.resid_pre", "blocks.15") as seen:
            model(torch.randint(64, (8, 32)))
        first = seen["blocks.0.resid_pre"]
        return [float(torch.cosine_similarity(seen[name], first, dim=-1).mean()) for name in seen]

    drawn = [Curve("added", range(17), kept(True)), Curve("replaced", range(17), kept(False), colour=1)]
    return curves(drawn, "blocks passed", "cosine with the embedding", number="")


FIGURES: dict[str, Callable[[], Figure]] = {
    "tokens": tokens,
    "embeddings": embeddings,
    "cross-entropy": cross_entropy,
    "training-step": training_step,
    "optimizers": optimizers,
    "sampling": sampling,
    "residual-stream": residual_stream,
}
