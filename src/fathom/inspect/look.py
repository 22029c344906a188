"""Look at what a model computes while it runs.

Looking changes no bit of the logits: hooks record references; attention's scores and pattern, which the fused kernel
never materialises, are computed from the recorded rotated q and k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fathom.errors import FathomError, near
from fathom.inspect.derived import routing, scores_and_pattern
from fathom.inspect.hooks import Watcher, watching
from fathom.inspect.names import Size, canonical, check_budget, names, readable, select, to_bytes
from fathom.model.attention import Soft
from fathom.model.mlp import ExpertsMLP
from fathom.model.transformer import Transformer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def look(model: Transformer, *patterns: str, max_bytes: str | int = "2GiB") -> Iterator[Seen]:
    """Record what a model computes inside a `with` block.

        >>> with fathom.look(model, "blocks.*.attn.pattern") as seen:
        ...     model(ids)
        >>> seen["blocks.0.attn.pattern"].shape  # (b, h, t, t); print(seen.table()) lists all

    patterns: names of tensors, with * for one part of a name and ** for everything: embed, blocks.N.resid_pre,
    blocks.N.attn.q, .k, .v, .scores, .pattern, .z, blocks.N.attn, blocks.N.mlp.tokens (of each expert), blocks.N.mlp,
    blocks.N, final_norm, logits ... (all of them: fathom.inspect.names.names(model.config)). max_bytes: such as "2GiB";
    a pass that would record more is refused before it runs.

    Gives a mapping from name to tensor: those of the last pass in this thread, with their autograd graph where
    gradients are on. Looking changes no bit of the logits. A compiled model runs uncompiled inside. FathomError: no
    tensor has such a name (the nearest ones are listed).
    """
    seen = Seen(require_transformer(model), select(model.config, patterns), to_bytes(max_bytes))
    with watching(model, seen.recording):
        yield seen


def require_transformer(model: object) -> Transformer:
    """`model`, where it is a Transformer; else FathomError."""
    if not isinstance(model, Transformer):
        kind = type(model).__name__
        raise FathomError(f"expected a Transformer, got {kind}; pass the model inside the wrapper")
    return model


class NotSeen(FathomError, KeyError):
    """A name that was not recorded."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Row:
    """One line of `Seen.rows()`: what a recorded tensor is, and its mean and root mean square where finite."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    n_bytes: int
    mean: float
    rms: float


class Seen(Mapping[str, Tensor]):
    """The recorded tensors by name, in the order of computation."""

    def __init__(self, model: Transformer, chosen: list[str], max_bytes: int) -> None:
        self.recording = Recording(model, chosen, max_bytes)

    def __getitem__(self, name: str) -> Tensor:
        recording, name = self.recording, canonical(name)
        if name not in recording:
            raise NotSeen(recording.missing(name))
        return recording.tensor(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.recording.chosen if name in self.recording)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def rows(self) -> list[Row]:
        return [row(name, x) for name, x in self.items()]

    def table(self) -> str:
        """Name, shape, dtype, bytes, mean and root mean square of everything recorded, as text to print."""
        lines = [("name", "shape", "dtype", "bytes", "mean", "rms")]
        for r in self.rows():
            shape = " ".join(map(str, r.shape))
            lines.append((r.name, shape, r.dtype, readable(r.n_bytes), f"{r.mean:.4g}", f"{r.rms:.4g}"))
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines)

    def plot(self, name: str, row: int = 0, tokens: Sequence[str] = ()) -> Figure:
        """A recorded tensor as colours: a table for each head where it has heads, positions downwards.

            >>> seen.plot("blocks.0.attn.pattern", tokens=["The", " sea", " was"])

        row: of the batch. tokens: their texts, as labels. Returns a matplotlib Figure, which a notebook shows;
        elsewhere `.savefig("pattern.png")`. Masked keys are hatched. FathomError: the name was not recorded.
        """
        import numpy as np

        from fathom.report.heatmaps import heatmaps

        name = canonical(name)
        x, letters = self[name].detach().float().cpu(), names(self.recording.config)[name]
        if letters.startswith("b"):
            if not -len(x) <= row < len(x):
                raise FathomError(f"row is {row}, but {len(x)} were recorded")
            x, letters = x[row], letters[1:]
        if "h" in letters or "g" in letters:
            head = next(i for i, letter in enumerate(letters) if letter in "hg")
            x, letters = x.movedim(head, 0), letters.replace(letters[head], "")
            titles = [f"head {n}" for n in range(len(x))]
        else:
            x, titles = x.reshape(1, -1, x.shape[-1]), [""]
        if letters == "ts":
            later = torch.ones(x.shape[1:], dtype=torch.bool).triu(x.shape[2] - x.shape[1] + 1)
            x = x.masked_fill(later, float("nan"))
        labels = [text.replace("\n", "⏎").replace("$", r"\$") for text in tokens]
        columns = labels if letters == "ts" else []
        return heatmaps(np.asarray(x), titles, labels if letters[0] == "t" else [], columns, name)


class Recording(Watcher):
    """The watcher behind `look`: keeps every tensor, changes none."""

    def __init__(self, model: Transformer, chosen: list[str], max_bytes: int) -> None:
        super().__init__(chosen)
        self.config, self.max_bytes = model.config, max_bytes
        self.tensors: dict[str, Tensor] = {}
        # path -> q, k, visible, soft
        self.attentions: dict[str, tuple[Tensor, Tensor, Tensor | None, Soft | None]] = {}
        self.routings: dict[str, tuple[ExpertsMLP, Tensor]] = {}  # path -> experts, scores

    def begin(self, size: Size, itemsize: int) -> None:
        check_budget(self.config, self.chosen, size, itemsize, self.max_bytes)
        self.tensors.clear()
        self.attentions.clear()
        self.routings.clear()

    def see(self, name: str, x: Tensor) -> Tensor:
        self.tensors[name] = x
        return x

    def attended(self, path: str, q: Tensor, k: Tensor, visible: Tensor | None, soft: Soft | None = None) -> None:
        if soft is not None and soft.sinks is not None:  # recorded as q and k are, with a gradient or without
            sinks = soft.sinks.clone() if q.requires_grad else soft.sinks.detach().clone()
            soft = soft._replace(sinks=sinks)
        self.attentions[path] = q, k.clone(), visible, soft  # a cache may write over its keys later

    def routed(self, path: str, mlp: ExpertsMLP, scores: Tensor) -> None:
        self.routings[path] = mlp, scores

    def __contains__(self, name: str) -> bool:
        path = name.rpartition(".")[0]
        return name in self.tensors or (name in self.chosen and (path in self.attentions or path in self.routings))

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            path, _, last = name.rpartition(".")
            known = (
                routing(*self.routings[path]) if path in self.routings else scores_and_pattern(*self.attentions[path])
            )
            self.tensors[name] = known[last]
        return self.tensors[name]

    def missing(self, name: str) -> str:
        if not self.tensors and not self.attentions and not self.routings:
            return "nothing was recorded; run the model in this thread inside the `with`: model(ids)"
        return f"{name!r} was not recorded{near(name, self.chosen)}; recorded are {', '.join(list(self.chosen)[:6])}"


def row(name: str, x: Tensor) -> Row:
    finite = x.detach().float()
    finite = finite[finite.isfinite()]  # scores of masked keys are -inf
    mean, rms = finite.mean().item(), finite.square().mean().sqrt().item()
    return Row(name, tuple(x.shape), str(x.dtype).removeprefix("torch."), x.nbytes, mean, rms)
