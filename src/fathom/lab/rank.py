"""How low is the rank of what fine-tuning changes? Train a model in full, truncate its change, measure the loss.

Beside it the same truncation of the weights themselves, the change along random directions, and LoRA trained at each
rank: same data, same order, same steps (Aghajanyan et al. 2020; Hu et al. 2021). One seed, one text, one budget.
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
from fathom.adapters.svd import SVD, svd
from fathom.data.batches import Batch
from fathom.data.record_files import is_record_file
from fathom.errors import FathomError
from fathom.formats.load import load
from fathom.formats.tokenizer import require_tokenizer
from fathom.lab.result import MatrixResult, Point, RankOptions, RankResult, Recommended, Text
from fathom.lab.spectra import RankSummary, chance
from fathom.machine import describe, keep_freed_memory
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer
from fathom.training.data import prepare
from fathom.training.events import Event, Note, Prepared, Progress, Report, silent
from fathom.training.loop import Batches, evaluate, fit, update
from fathom.training.options import FinetuneOptions
from fathom.training.precision import choose
from fathom.training.run import Base, FinetuneRun
from fathom.training.session import Session
from fathom.words import counted, duration

SHORT, LONG = 128, 512  # default context length for text and for records, where the model has more
PROBE, FEWEST, SLACK = 4, 10, 0.8  # steps that are timed; fewest of a training; part of the time that is planned
EVALUATIONS = 50  # about how many losses an experiment measures
TARGETS = ("all-linear", "embed", "unembed")  # all that multiplies; a tied unembedding gets an adapter of its own
ALPHA = 4.0  # over sqrt(rank): with alpha / rank every rank would need its own learning rate (Kalajdzievski 2023)

Weights = Mapping[str, Tensor]
Allocation = Mapping[str, int]  # the rank of each matrix


@dataclass(frozen=True)
class Experiment:
    """What every training and every loss has in common. Models are trained in memory; nothing is kept on disk."""

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
        """Train what has gradients for `steps` steps; returns the loss. FathomError where it was stopped."""
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
def prepared(
    model: Transformer, tokenizer: Tokenizer, options: RankOptions, report: Report, stop: Callable[[], bool]
) -> Iterator[Experiment]:
    """The data of a fine-tune in a temporary folder, and how many steps the minutes allow."""
    longest = model.config.context_length
    length = options.context_length or min(longest, LONG if is_record_file(options.data) else SHORT)
    if length > longest:
        raise FathomError(f"context_length is {length}; the model has {longest}, give at most that")
    training, tuning = options.training(1, 1.0), FinetuneOptions(method="full", context_length=length)
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder) / "data", tokenizer, training, tuning, length, silent)
        base = Base(path="", fingerprint="")  # the data do not depend on it
        run = FinetuneRun(Path(folder), model.config, training, tokenizer, data, base, tuning)
        validation = run.validation()
        rows = sum(len(chunk if isinstance(chunk, Tensor) else chunk.ids) for chunk in validation)
        text = Text(data.corpus, data.fingerprint, data.kind, data.n_train, data.n_val, rows)
        experiment = Experiment(options, text, run.batches(), validation, options.steps or 0, report, stop)
        yield experiment if options.steps else replace(experiment, steps=affordable_steps(model, experiment))


def affordable_steps(model: Transformer, experiment: Experiment) -> int:
    """The steps of each training with which all of them and all losses take the minutes."""
    options = experiment.options
    session = Session(copy.deepcopy(model), options.training(PROBE, 1e-9), next(model.parameters()).device)
    update(session, session.prepare(experiment.batches.at(0)))  # warms up
    start = time.monotonic()
    for step in range(1, PROBE):
        update(session, session.prepare(experiment.batches.at(step)))
    each = (time.monotonic() - start) / (PROBE - 1)
    start = time.monotonic()
    experiment.loss(session.model)
    fixed = EVALUATIONS * (time.monotonic() - start)
    adapters = sum(rank > 0 for rank in options.ranks) or model.config.d_model.bit_length()
    trainings = 2 + adapters  # in full, at each rank, and at the recommended ones
    steps = int((SLACK * 60 * options.minutes - fixed) / (trainings * each))
    if steps < FEWEST:
        required = (fixed + FEWEST * trainings * each) / SLACK / 60
        raise FathomError(
            f"minutes={options.minutes:g} is too short: {counted(trainings, 'training')} of {FEWEST} steps take"
            f" {duration(60 * required)} here; give more minutes, fewer ranks or a smaller batch_size"
        )
    return steps


@dataclass(frozen=True)
class DecomposedFinetune:
    """A full fine-tune: each matrix before, and the SVD of its change and of what it became."""

    experiment: Experiment
    model: Transformer  # its matrices are replaced by what is measured; norms and biases stay as they were trained
    before: Weights
    change: Mapping[str, SVD]
    after: Mapping[str, SVD]

    def cut(self, ranks: Allocation) -> Weights:
        """W + the best of each rank of dW."""
        return {name: w + self.change[name].cut(ranks[name]).matrix() for name, w in self.before.items()}

    def weights(self, rank: int) -> Weights:
        """The best of this rank of W + dW."""
        return {name: terms.cut(min(rank, len(terms.s))).matrix() for name, terms in self.after.items()}

    def at_random(self, rank: int, seed: int) -> Weights:
        """W + the part of dW along `rank` random directions of its smaller side: a cut that ignores dW."""
        generator, cut = torch.Generator().manual_seed(seed), {}
        for name, w in self.before.items():
            side, change = min(w.shape), self.change[name].matrix()
            q = torch.linalg.qr(torch.randn(side, min(rank, side), generator=generator)).Q.to(w)  # (min(m, n), r)
            cut[name] = w + (q @ (q.T @ change) if len(w) == side else change @ q @ q.T)
        return cut

    def uniform(self, rank: int) -> Allocation:
        """The same rank for each matrix, or its full rank where that is smaller."""
        return {name: min(rank, len(terms.s)) for name, terms in self.change.items()}

    @torch.no_grad()
    def loss(self, weights: Weights) -> float:
        """The loss of the tuned model with these matrices."""
        for name, w in weights.items():
            self.model.get_parameter(name).copy_(w)
        return self.experiment.loss(self.model)

    def points(self, ranks: list[int], cut: Callable[[int], Weights]) -> tuple[Point, ...]:
        """The loss of each rank's cut."""
        return tuple(Point(r, self.loss(cut(r)), n_parameters(self.change, self.uniform(r))) for r in ranks)


def loss_vs_rank(
    path: str | Path, options: RankOptions, report: Report = silent, stop: Callable[[], bool] = lambda: False
) -> RankResult:
    """The whole experiment on the model at `path`. FathomError where fine-tuning does not lower the loss."""
    keep_freed_memory()
    start = time.monotonic()
    model, tokenizer = load(path, dtype="fp32", device=options.device)
    ranks = requested_ranks(options, model)
    with prepared(model, require_tokenizer(tokenizer, path), options, report, stop) as experiment:
        tuned, base, after = finetune(model, experiment)
        change = tuned.points(ranks, lambda rank: tuned.cut(tuned.uniform(rank)))
        weight = tuned.points(ranks, tuned.weights)
        random = tuned.points(ranks, lambda rank: tuned.at_random(rank, options.seed))
        limit = base - options.keep * (base - after)
        best = fewest_terms(tuned.change, lambda ranks: tuned.loss(tuned.cut(ranks)) <= limit)
        cut_loss = tuned.loss(tuned.cut(best))
        adapted, trained = set[str](), []
        for rank in ranks:
            if rank:
                names, loss, count = train_adapter(model, tuned.uniform(rank), experiment)
                report(Note(f"LoRA, rank {rank}: loss {loss:.4f}"))
                adapted |= names
                trained.append(Point(rank, loss, count))
        best_trained = train_adapter(model, best, experiment)[1]
    return RankResult(
        model=str(path),
        options=options,
        text=experiment.text,
        machine=describe(model.embed.weight.device),
        steps=experiment.steps,
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=time.monotonic() - start,
        base=base,
        tuned=after,
        change=change,
        weight=weight,
        chance=random,
        lora=tuple(trained),
        matrices=tuple(matrix_result(name, tuned, best[name], name in adapted) for name in tuned.before),
        recommended=Recommended(options.keep, cut_loss, n_parameters(tuned.change, best), best_trained),
    )


def requested_ranks(options: RankOptions, model: Transformer) -> list[int]:
    """The ranks asked for, or 0, 1, 2, 4, ... and the largest that a matrix can have."""
    full = max(min(w.shape) for w in model.parameters() if w.ndim == 2)
    if options.ranks and (large := max(options.ranks)) > full:
        raise FathomError(f"rank {large} is larger than every matrix; give at most {full}")
    doubled = [2**i for i in range(full.bit_length()) if 2**i < full]
    return sorted(set(options.ranks)) or [0, *doubled, full]


def finetune(model: Transformer, experiment: Experiment) -> tuple[DecomposedFinetune, float, float]:
    """Train a copy of the model in full and decompose its change; and the loss before and after."""
    base = experiment.loss(model)
    tuned = copy.deepcopy(model).requires_grad_(True)
    after = experiment.train(tuned, experiment.options.learning_rate, "steps of the full fine-tune")
    steps = counted(experiment.steps, "step")
    experiment.report(Note(f"full fine-tune: loss {base:.4f} before, {after:.4f} after {steps}"))
    if not after < base:
        raise FathomError(
            f"fine-tuning took the loss from {base:.4f} to {after:.4f}: no improvement to find the rank of; use a"
            " text the model does not know yet, more --minutes, or a lower learning rate"
        )
    before = {name: w.detach() for name, w in model.named_parameters() if w.ndim == 2}
    trained = {name: tuned.get_parameter(name).detach().clone() for name in before}
    change = {name: svd(trained[name] - w) for name, w in before.items()}
    spectra = {name: svd(w) for name, w in trained.items()}
    return DecomposedFinetune(experiment, tuned, before, change, spectra), base, after


def n_parameters(changes: Mapping[str, SVD], ranks: Allocation) -> int:
    """Of an adapter of these ranks."""
    return sum(ranks[name] * sum(change.shape) for name, change in changes.items())


def allocate(changes: Mapping[str, SVD], count: int) -> dict[str, int]:
    """A rank for each matrix: `count` terms in all, by sigma^2 / (m + n), the energy per parameter.

    A term of a change (m, n) costs m + n parameters and holds sigma^2, so this order loses least for every budget.
    """
    worth = torch.cat([change.s.double().square() / sum(change.shape) for change in changes.values()])
    owner = torch.cat([torch.full_like(change.s, i) for i, change in enumerate(changes.values())]).long()
    chosen = owner[worth.argsort(descending=True, stable=True)[:count]]
    counts = torch.bincount(chosen, minlength=len(changes)).tolist()
    return dict(zip(changes, counts))


def fewest_terms(changes: Mapping[str, SVD], enough: Callable[[Allocation], bool], tries: int = 10) -> dict[str, int]:
    """The smallest allocation that is `enough`, by bisection; all terms are taken to be enough."""
    low, high = 0, sum(len(change.s) for change in changes.values())
    for _ in range(tries):
        if high - low <= max(1, high // 50):
            break
        middle = (low + high) // 2
        low, high = (low, middle) if enough(allocate(changes, middle)) else (middle, high)
    return allocate(changes, high)


def train_adapter(model: Transformer, ranks: Allocation, experiment: Experiment) -> tuple[set[str], float, int]:
    """Train LoRA with these ranks on a copy of the model: the matrices it was put on, its loss and its parameters."""
    copied, layers = copy.deepcopy(model), {name.removesuffix(".weight"): rank for name, rank in ranks.items()}
    if copied.config.tie_embeddings:
        layers["unembed"] = layers["embed"]
    known = targets.select(copied, TARGETS)
    wanted = tuple((layer, rank) for layer, rank in layers.items() if rank and layer in known)
    options = LoraOptions(rank=1, alpha=ALPHA, rslora=True, targets=tuple(layer for layer, _ in wanted), ranks=wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied embeddings, which get two adapters here: the page says so
        names = lora.add(copied, options, seed=experiment.options.seed)
    loss = experiment.train(copied, experiment.options.lora_learning_rate, f"steps of LoRA, rank {max(ranks.values())}")
    return {f"{name}.weight" for name in names}, loss, sum(p.numel() for p in lora.parameters(copied))


def matrix_result(name: str, tuned: DecomposedFinetune, rank: int, adapted: bool) -> MatrixResult:
    before, change = tuned.before[name], tuned.change[name]
    return MatrixResult(
        name=name,
        shape=tuple(before.shape),
        weight=RankSummary.of(tuned.after[name].s),
        change=RankSummary.of(change.s),
        chance=chance(change.shape),
        relative=float(change.s.norm() / before.norm()),
        adapted=adapted,
        rank=rank,
    )
