"""A training session: a model, its optimizers and how far they have come.

A run begins in this order: build -> adapters -> dropout -> recompute -> compile -> parallelize -> optimizers. What is
done to a model changes its modules or its parameters, so optimizers come last, and what splits parameters over devices
right before them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fathom.adapters import lora
from fathom.adapters.rows import add_rows
from fathom.adapters.whole import resize_vocabulary
from fathom.backend.training import recompute_blocks
from fathom.data.batches import Batch, as_batch
from fathom.errors import FathomError
from fathom.formats.load import read
from fathom.formats.opened import Opened
from fathom.model.config import ModelConfig
from fathom.model.init import zero_outputs
from fathom.model.transformer import Transformer
from fathom.native.stopwatch import Stopwatch
from fathom.quant.schemes import packing_named
from fathom.training.batches import MicroBatches, micro_batches
from fathom.training.distributed import parallelize
from fathom.training.dropout import row_keys, use_row_masks
from fathom.training.experts import Balance
from fathom.training.optimizer import assign, build_optimizers
from fathom.training.optimizers import optimizer_named
from fathom.training.options import FinetuneOptions, TrainOptions
from fathom.training.precision import choose, compile_blocks
from fathom.training.world import ALONE, World

T = TypeVar("T")


class Session:
    """Everything that changes while a model learns. `seconds` and `tokens` count over all resumes."""

    def __init__(
        self,
        model: Transformer,
        options: TrainOptions,
        device: torch.device,
        lora_plus: float = 1.0,
        world: World = ALONE,
    ) -> None:
        """model: with its adapters. Its norms, attention and MLPs may change to what trains fast in the precision.

        lora_plus: b of an adapter learns so many times faster than a. world: the processes that train it together.
        """
        self.options, self.world, self.precision = options, world, choose(options, model.config, device)
        self.model = model.train()
        self.precision.use_fused_passes(self.model)
        self.balance = Balance.of(
            self.model, options.router_aux_loss_coef, world, together=options.micro_batch_size is None
        )
        masks = use_row_masks(self.model)
        if options.checkpoint_blocks:
            recompute_blocks(self.model)
        self.compilation = compile_blocks(self.model, options, device)
        self.learner = parallelize(self.model, options, world, device, self.precision.dtype)
        self.learner.masks = masks
        self.device = next(self.model.parameters()).device
        self.groups = assign(self.model, options, lora_plus)
        self.optimizers, self.scaler = build_optimizers(self.model, options, self.groups), self.precision.scaler()
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.validation_loss: float | None = None  # where it was measured at this very step
        self.clock, self.length = Stopwatch(), Length(options)
        self.before = 0.0  # progress before the last step
        self.stop: Callable[[], bool] = lambda: False  # whether this process is to stop
        self.passed, self.agreed_to_stop = 0.0, False  # of several processes: what they last agreed on

    @classmethod
    def start(cls, config: ModelConfig, options: TrainOptions, world: World = ALONE) -> "Session":
        """A new model with random weights."""
        device = world.device(options.device)
        return cls(new_model(config, options), options, device, world=world)

    @classmethod
    def tune(
        cls,
        base: Opened,
        options: TrainOptions,
        tuning: FinetuneOptions,
        vocab_size: int = 0,
        new: Sequence[int] = (),
        world: World = ALONE,
    ) -> "Session":
        """A model that exists: all of it, or an adapter on frozen, perhaps packed weights. new: the tokens that were
        added, whose rows are trained; vocab_size: with them."""
        device = world.device(options.device)
        torch.manual_seed(options.seed)
        model = base_model(base, options, tuning, device)
        if vocab_size > model.config.vocab_size:
            resize_vocabulary(model, vocab_size)
        if tuning.adapted:
            lora.add(model, tuning.adapter(), seed=options.seed)
            if new:
                add_rows(model, new)
        return cls(model, options, device, tuning.lora_plus or 1.0, world)

    def prepare(self, rows: Tensor | Batch, step: int | None = None) -> MicroBatches:
        """This process's part of a step's batch, windows (b, t + 1) or a Batch, as `update` takes it.

        step: counted from 0, on which dropout depends; None: the next.
        """
        step = self.step if step is None else step
        n_rows = len(as_batch(rows).ids)
        keys = None if self.learner.masks is None else row_keys(self.options.seed, step, range(n_rows))
        return micro_batches(rows, self.options.micro_batch_size, self.device, self.world, keys)

    @property
    def progress(self) -> float:
        """The part of the run that is done, 0 to 1, by steps or by minutes, whichever comes first."""
        minutes = self.options.max_minutes
        return max(self.step / self.options.max_iters, self.seconds / (60 * minutes) if minutes else 0.0)

    @property
    def steps(self) -> int:
        """Where the run will end: max_iters, or an estimate where the minutes end it; 0: not known yet."""
        return self.step if self.finished else self.length.steps(self.step, self.seconds)

    @property
    def left(self) -> float | None:
        """Seconds until the run ends; None: not known yet."""
        return 0.0 if self.finished else self.length.left(self.step, self.seconds)

    @property
    def finished(self) -> bool:
        return self.progress >= 1

    def due(self, interval: float) -> bool:
        """Whether something that is done every `interval` steps, and at the end, is due.

        Below 1 the interval is a share of the run.
        """
        if interval >= 1:
            return self.step % interval == 0 or self.finished
        return int(self.progress / interval + 1e-9) > int(self.before / interval + 1e-9) or self.finished

    def count(self, tokens: int) -> None:
        """A step has been made, of so many tokens."""
        self.before = self.progress
        self.step, self.tokens, self.validation_loss = self.step + 1, self.tokens + tokens, None

    def tick(self) -> float:
        """Count the time that has passed, of several processes what they last agreed on; returns the run's seconds."""
        self.seconds += self.clock.lap() if self.world.size == 1 else self.passed
        self.passed = 0.0
        return self.seconds

    @property
    def stopping(self) -> bool:
        """Whether the run is to stop: all processes say the same."""
        return self.stop() if self.world.size == 1 else self.agreed_to_stop

    def together(self, common: Tensor, own: Tensor) -> list[float]:
        """The numbers `common` (n,), which all processes have alike, and `own` (m,) summed over them.

        With the sum travel the time that has passed in the first process and whether any is to stop, so that all know
        the same of both. Alone nothing travels.
        """
        if self.world.size == 1:
            return torch.cat((common, own)).tolist()
        beside = (self.clock.lap() if self.world.first else 0.0, float(self.stop()))
        total = self.world.total(torch.cat((own.double(), torch.tensor(beside, dtype=torch.float64).to(own.device))))
        *values, seconds, stop = torch.cat((common.double(), total)).tolist()
        self.passed, self.agreed_to_stop = self.passed + seconds, self.agreed_to_stop or stop > 0
        return values

    def until_stopped(self, chunks: Iterable[T]) -> Iterator[T]:
        """The chunks of work, as long as the run is not to stop; several processes agree before each has the next."""
        for number, chunk in enumerate(chunks):
            if self.world.size > 1 and number % self.world.size == 0:
                self.together(torch.empty(0), torch.empty(0))
            if self.stopping:
                return
            yield chunk


FIRST, SETTLED = 3, 20  # steps that warm up and are not measured; steps, or
ENOUGH = 3.0  # seconds, after which the speed is known
WOBBLE = 0.2  # a new estimate of the length must differ by so much to replace the old one


class Length:
    """How many steps a run has. Where minutes end it they are estimated, and an estimate is kept while it is good."""

    def __init__(self, options: TrainOptions) -> None:
        self.most, self.minutes = options.max_iters, options.max_minutes
        self.start: tuple[int, float] | None = None  # (step, seconds) from which speed is measured
        self.first: int | None = None  # the first step of this process
        self.kept: int | None = None

    def steps(self, step: int, seconds: float) -> int:
        """The last step, after `step` steps in `seconds`."""
        if self.minutes is None:
            return self.most
        speed, left = self.speed(step, seconds), 60 * self.minutes - seconds
        if speed is None:
            return 0
        estimate = min(self.most, max(step + 1, round(step + speed * left)))
        if self.kept is None or self.kept <= step or abs(estimate - self.kept) > WOBBLE * self.kept:
            self.kept = min(self.most, rounded(estimate)) if estimate - step > 10 else estimate
        return max(self.kept, step + 1)

    def left(self, step: int, seconds: float) -> float | None:
        """Seconds left: of the minutes what remains of them, whatever the speed; of the steps at the mean speed."""
        speed = self.speed(step, seconds)
        limits = [] if self.minutes is None else [60 * self.minutes - seconds]
        limits += [(self.most - step) / speed] if speed else []
        return max(0.0, min(limits)) if limits else None

    def speed(self, step: int, seconds: float) -> float | None:
        """Steps per second since the first few, everything included; None as long as too little was measured."""
        self.first = step if self.first is None else self.first
        if step < self.first + FIRST:
            return None
        if self.start is None:
            self.start = (step, seconds)
        steps, passed = step - self.start[0], seconds - self.start[1]
        known = passed > 0 and (steps >= SETTLED or (passed >= ENOUGH and steps > 0))
        return steps / passed if known else None


def rounded(steps: int) -> int:
    """Two digits: an estimate is no count."""
    unit = 10 ** max(0, len(str(steps)) - 2)
    return -(-steps // unit) * unit


def new_model(config: ModelConfig, options: TrainOptions) -> Transformer:
    """A model whose weights follow from the seed."""
    if options.init == "zero-output" and config.residual == "off":
        raise FathomError("init='zero-output' without a residual stream can never learn; use init='scaled'")
    torch.manual_seed(options.seed)
    model = Transformer(config)
    if options.init == "zero-output":
        zero_outputs(model)
    if options.init == "by-width":
        scale_to_width(model, config.d_model)
    return model


GPT2_WIDTH = 768  # to which the deviation of 0.02 of all first weights belongs


@torch.no_grad()
def scale_to_width(model: Transformer, d_model: int) -> None:
    """Give every matrix the deviation of this width, so that layers compute numbers as large as in GPT-2."""
    for p in model.parameters():
        if p.ndim == 2:
            p.mul_((GPT2_WIDTH / d_model) ** 0.5)


def base_model(base: Opened, options: TrainOptions, tuning: FinetuneOptions, device: torch.device) -> Transformer:
    """The base in fp32 where all of it learns; else frozen, in the format it computes in, or packed."""
    if not tuning.adapted:
        return read(base, torch.float32, device).requires_grad_(True)
    if not optimizer_named(options.optimizer).trains_adapters:
        raise FathomError(f"optimizer={options.optimizer} trains whole matrices; use adamw, or --method full")
    dtype = choose(options, base.config, device).dtype
    return read(base, dtype, device, packing_named(tuning.packing))
