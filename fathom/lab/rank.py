"""How low is the rank of what fine-tuning changes? Train a model in full, cut its change at rank r, measure the loss.

The same cut of the weights themselves, the same change along random directions, and LoRA trained at each rank stand
beside it: same data, same order, same steps (Aghajanyan et al. 2020; Hu et al. 2021). One seed, one text, one budget.
"""

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters import lora, targets
from fathom.adapters.options import LoraOptions
from fathom.adapters.svd import SVD, normal, svd
from fathom.data.batches import Batch
from fathom.data.records import is_record_file
from fathom.errors import FathomError
from fathom.formats.load import load, needed
from fathom.lab.extract import Ranks, cheapest, parameters
from fathom.lab.result import Change, Point, RankOptions, RankResult, Recommended, Text
from fathom.lab.spectra import chance, numbers
from fathom.machine import describe
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer
from fathom.train.events import Event, Note, Prepared, Progress, Report, silent
from fathom.train.finetune_run import Base, TunedRun, prepare
from fathom.train.loop import Batches, Session, evaluate, fit, update
from fathom.train.options import FinetuneOptions
from fathom.train.precision import choose

# What all trainings of an experiment stand on: the data of a fine-tune, what it is validated on, a number of steps.
#
# A model is trained in memory and measured; nothing is kept on disk. Does not know which of its parameters learn.

SHORT, LONG = 128, 512  # tokens in view of text and of records, where the model could have more
PROBE, FEWEST, SLACK = 4, 10, 0.8  # steps that are timed; fewest of a training; part of the time that is planned
EVALUATIONS = 50  # about how many losses an experiment measures


@dataclass(frozen=True)
class Ground:
    """The same for every training and every loss."""

    options: RankOptions
    text: Text
    batches: Batches
    validation: Sequence[Tensor | Batch]
    steps: int
    report: Report
    stop: Callable[[], bool]

    def loss(self, model: Transformer) -> float:
        """Validation loss in nats per token."""
        device = next(model.parameters()).device
        return evaluate(model, self.validation, choose(self.options.training(1, 1.0), model.config, device))

    def train(self, model: Transformer, rate: float, what: str) -> float:
        """Train what has a gradient for `steps` steps; returns the loss. FathomError where it was stopped."""
        session = Session(model, self.options.training(self.steps, rate), next(model.parameters()).device)

        def listen(event: Event) -> None:
            if isinstance(event, Progress):
                self.report(Prepared(what, event.step, event.steps))

        fit(session, self.batches, self.validation, listen, stop=self.stop)
        if session.validation_loss is None:
            raise FathomError("stopped before the experiment was done; nothing was written")
        model.eval()
        return session.validation_loss


@contextmanager
def standing(
    model: Transformer, tokenizer: Tokenizer, options: RankOptions, report: Report, stop: Callable[[], bool]
) -> Iterator[Ground]:
    """The data of a fine-tune in a folder that goes with the block, and how many steps the minutes allow."""
    most = model.config.context_length
    length = options.context_length or min(most, LONG if is_record_file(options.data) else SHORT)
    if length > most:
        raise FathomError(f"context_length is {length}; the model has {most}, give at most that")
    training, tuning = options.training(1, 1.0), FinetuneOptions(method="full")
    with tempfile.TemporaryDirectory() as folder:
        facts = prepare(Path(folder) / "data", tokenizer, training, tuning, length, silent)
        base = Base(path="", fingerprint="")  # the data do not hang on it
        run = TunedRun(Path(folder), model.config, training, tokenizer, facts, base, tuning, length)
        validation = run.validation()
        rows = sum(len(chunk if isinstance(chunk, Tensor) else chunk.ids) for chunk in validation)
        text = Text(facts.corpus, facts.fingerprint, facts.kind, facts.n_train, facts.n_val, rows)
        ground = Ground(options, text, run.batches(), validation, options.steps or 0, report, stop)
        yield ground if options.steps else replace(ground, steps=planned(model, ground))


def planned(model: Transformer, ground: Ground) -> int:
    """The steps of each training, so that all of them and all losses take the minutes."""
    session = Session(copy.deepcopy(model), ground.options.training(PROBE, 1e-9), next(model.parameters()).device)
    update(session, ground.batches.at(0))  # warms up
    start = time.monotonic()
    for step in range(1, PROBE):
        update(session, ground.batches.at(step))
    each = (time.monotonic() - start) / (PROBE - 1)
    start = time.monotonic()
    ground.loss(session.model)
    fixed = EVALUATIONS * (time.monotonic() - start)
    adapters = sum(rank > 0 for rank in ground.options.ranks) or model.config.d_model.bit_length()
    trainings = 2 + adapters  # in full, at each rank, and at the recommended ones
    steps = int((SLACK * 60 * ground.options.minutes - fixed) / (trainings * each))
    if steps < FEWEST:
        needed = (fixed + FEWEST * trainings * each) / SLACK / 60
        raise FathomError(
            f"minutes={ground.options.minutes:g} is too short: {trainings} trainings of {FEWEST} steps take"
            f" {needed:.1f} minutes here; give more minutes, fewer ranks or a smaller batch_size"
        )
    return steps


Weights = Mapping[str, Tensor]
TARGETS = ("all-linear", "embed", "unembed")  # all that multiplies; a tied unembedding gets an adapter of its own

ALPHA = 4.0  # over sqrt(rank): with alpha / rank every rank would want a learning rate of its own (Kalajdzievski 2023)


@dataclass(frozen=True)
class Tuned:
    """A full fine-tune taken apart: each matrix before, and the SVD of its change and of what it became."""

    model: Transformer  # whose matrices are replaced by what is measured; norms and biases stay as they were trained
    before: Weights
    change: Mapping[str, SVD]
    after: Mapping[str, SVD]

    def cut(self, ranks: Ranks) -> Weights:
        """W + the best of each rank of dW."""
        return {name: w + self.change[name].cut(ranks[name]).matrix() for name, w in self.before.items()}

    def weights(self, rank: int) -> Weights:
        """The best of this rank of W + dW."""
        return {name: term.cut(min(rank, len(term.s))).matrix() for name, term in self.after.items()}

    def at_random(self, rank: int, seed: int) -> Weights:
        """W + the part of dW along `rank` random directions of its smaller side: a cut that knows nothing of dW."""
        random, made = torch.Generator().manual_seed(seed), {}
        for name, w in self.before.items():
            side, change = min(w.shape), self.change[name].matrix()
            q = torch.linalg.qr(normal(side, min(rank, side), random)).Q.to(w)  # (min(m, n), r)
            made[name] = w + (q @ (q.T @ change) if len(w) == side else change @ q @ q.T)
        return made

    def uniform(self, rank: int) -> Ranks:
        """The same rank for each matrix, as far as it can have it."""
        return {name: min(rank, len(term.s)) for name, term in self.change.items()}


def loss_vs_rank(
    path: str | Path, options: RankOptions, report: Report = silent, stop: Callable[[], bool] = lambda: False
) -> RankResult:
    """The whole experiment on the model at `path`. FathomError where fine-tuning does not lower the loss."""
    start = time.monotonic()
    model, tokenizer = load(path, dtype="fp32", device=options.device)
    ranks = chosen(options, model)
    with standing(model, needed(tokenizer, path), options, report, stop) as ground:
        tuned, losses = tune(model, ground)
        change = points(ranks, tuned, ground, lambda rank: tuned.cut(tuned.uniform(rank)))
        weight = points(ranks, tuned, ground, tuned.weights)
        random = points(ranks, tuned, ground, lambda rank: tuned.at_random(rank, options.seed))
        best, cut = recommend(tuned, ground, losses)
        adapted, trained = adapters(model, tuned, [rank for rank in ranks if rank], ground)
        recommended = Recommended(*cut, adapt(model, best, ground)[1])
    return RankResult(
        model=str(path),
        options=options,
        text=ground.text,
        machine=describe(model.embed.weight.device),
        steps=ground.steps,
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=time.monotonic() - start,
        base=losses[0],
        tuned=losses[1],
        change=change,
        weight=weight,
        chance=random,
        lora=trained,
        matrices=tuple(described(name, tuned, best[name], name in adapted) for name in tuned.before),
        recommended=recommended,
    )


def tune(model: Transformer, ground: Ground) -> tuple[Tuned, tuple[float, float]]:
    """Train a copy of the model in full and take its change apart; and the loss before and after."""
    base = ground.loss(model)
    tuned = copy.deepcopy(model).requires_grad_(True)
    after = ground.train(tuned, ground.options.learning_rate, "steps of the full fine-tune")
    ground.report(Note(f"full fine-tune: loss {base:.4f} before, {after:.4f} after {ground.steps} steps"))
    if not after < base:
        raise FathomError(
            f"fine-tuning took the loss from {base:.4f} to {after:.4f}: no improvement to find the rank of; use a"
            " text the model does not know yet, more --minutes, or a lower learning rate"
        )
    before = {name: w.detach() for name, w in model.named_parameters() if w.ndim == 2}
    trained = {name: tuned.get_parameter(name).detach().clone() for name in before}
    change = {name: svd(trained[name] - w) for name, w in before.items()}
    return Tuned(tuned, before, change, {name: svd(w) for name, w in trained.items()}), (base, after)


def chosen(options: RankOptions, model: Transformer) -> list[int]:
    """The ranks asked for, or 0, 1, 2, 4, ... and the largest that a matrix can have."""
    full = max(min(w.shape) for w in model.parameters() if w.ndim == 2)
    if options.ranks and (large := max(options.ranks)) > full:
        raise FathomError(f"rank {large} is larger than every matrix; give at most {full}")
    doubled = [2**i for i in range(full.bit_length()) if 2**i < full]
    return sorted(set(options.ranks)) or [0, *doubled, full]


def points(ranks: list[int], tuned: Tuned, ground: Ground, cut: Callable[[int], Weights]) -> tuple[Point, ...]:
    """The loss of each rank's cut."""
    return tuple(
        Point(rank, measured(tuned, ground, cut(rank)), parameters(tuned.change, tuned.uniform(rank))) for rank in ranks
    )


@torch.no_grad()
def measured(tuned: Tuned, ground: Ground, weights: Weights) -> float:
    """The loss of the tuned model with these matrices."""
    for name, w in weights.items():
        tuned.model.get_parameter(name).copy_(w)
    return ground.loss(tuned.model)


def recommend(tuned: Tuned, ground: Ground, losses: tuple[float, float]) -> tuple[Ranks, tuple[float, float, int]]:
    """A rank for each matrix that together keep enough; and what they keep, at which loss, with how many numbers."""
    keep, limit = ground.options.keep, losses[0] - ground.options.keep * (losses[0] - losses[1])
    best = cheapest(tuned.change, lambda ranks: measured(tuned, ground, tuned.cut(ranks)) <= limit)
    return best, (keep, measured(tuned, ground, tuned.cut(best)), parameters(tuned.change, best))


def adapters(model: Transformer, tuned: Tuned, ranks: list[int], ground: Ground) -> tuple[set[str], tuple[Point, ...]]:
    """LoRA trained at each rank, and the matrices it was put on."""
    adapted, trained = set[str](), []
    for rank in ranks:
        names, loss, count = adapt(model, tuned.uniform(rank), ground)
        ground.report(Note(f"LoRA, rank {rank}: loss {loss:.4f}"))
        adapted |= names
        trained.append(Point(rank, loss, count))
    return adapted, tuple(trained)


def adapt(model: Transformer, ranks: Ranks, ground: Ground) -> tuple[set[str], float, int]:
    """Train LoRA with these ranks on a copy of the model: the matrices it was put on, its loss and its numbers."""
    copied, layers = copy.deepcopy(model), {name.removesuffix(".weight"): rank for name, rank in ranks.items()}
    if copied.config.tie_embeddings:
        layers["unembed"] = layers["embed"]
    wanted = tuple((layer, rank) for layer, rank in layers.items() if rank and layer in reachable(copied))
    options = LoraOptions(rank=1, alpha=ALPHA, rslora=True, targets=tuple(layer for layer, _ in wanted), ranks=wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied ends, which get two adapters here: the page says so
        names = lora.add(copied, options, seed=ground.options.seed)
    loss = ground.train(copied, ground.options.lora_learning_rate, f"steps of LoRA, rank {max(ranks.values())}")
    return {f"{name}.weight" for name in names}, loss, sum(p.numel() for p in lora.parameters(copied))


def reachable(model: Transformer) -> set[str]:
    """The layers that an adapter can be put on."""
    return set(targets.select(model, TARGETS))


def described(name: str, tuned: Tuned, rank: int, adapted: bool) -> Change:
    """One matrix for the report."""
    before, change = tuned.before[name], tuned.change[name]
    return Change(
        name=name,
        shape=tuple(before.shape),
        weight=numbers(tuned.after[name].s),
        change=numbers(change.s),
        chance=chance(change.shape),
        relative=float(change.s.norm() / before.norm()),
        adapted=adapted,
        rank=rank,
    )
