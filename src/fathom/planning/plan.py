"""`fathom.plan`: what a training run will need, before it costs money: memory, work, time and traffic.

All of it is arithmetic on a config, and each number comes with the arithmetic. Only the speed of this machine is
measured; that of others is from a table of what their makers say, times a share of it that is assumed and said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fathom.anatomy import training
from fathom.anatomy.amounts import Amount, Work, cache, parts
from fathom.anatomy.cost import n_active_parameters
from fathom.anatomy.training import Step
from fathom.errors import FathomError
from fathom.fields import build
from fathom.planning.devices import Devices, parse
from fathom.planning.measured import Measured, measured
from fathom.planning.options import Method, PlanOptions
from fathom.planning.place import Place, here
from fathom.planning.subject import Subject, step_of, subject
from fathom.training.tuning import micro_batch
from fathom.words import counted

LARGEST = 1 << 20  # rows of a pass that are tried
ROWS = 8  # of a step, where nothing says how many
ONE = "one device"


@dataclass(frozen=True)
class Way:
    """One way to train it: bytes of a device with one row, and the most rows of a pass that fit; 0: not one."""

    parallel: str
    recompute: bool
    least: int
    rows: int

    @property
    def words(self) -> str:
        return self.parallel + (", blocks recomputed" if self.recompute else "")


@dataclass(frozen=True)
class Plan:
    """What a run will need. Amounts are numbers with the arithmetic that gives them; memory is by way and kind."""

    about: Mapping[str, Any]
    parameters: Mapping[str, Amount]
    memory: Mapping[str, Mapping[str, Amount]]
    ways: tuple[Way, ...]
    flops: Mapping[str, Amount]
    time: Mapping[str, Any]
    traffic: Mapping[str, Amount]
    cache: Amount
    instead: Amount  # activations with blocks recomputed, or where they are, without
    notes: tuple[str, ...] = ()
    problem: str = ""  # why it does not fit, and what would
    measured: Measured | None = field(default=None)

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def __repr__(self) -> str:
        from fathom.planning.text import text

        return text(self)


def plan(model: str, **options: Any) -> Plan:
    """What training a model will need: memory by kind, FLOPs, hours, traffic, and what fits.

        >>> print(fathom.plan("gpt2", devices="8xH100-80GB", tokens="10B"))

    model: a preset, a known model such as llama-2-7b, a config.json, a recipe in YAML, a model or a run. options: those
    of `fathom plan`: method (full, lora, qlora), devices (default: this machine, measured for two seconds), tokens,
    batch, micro_batch, context_length, parallel (auto, ddp, fsdp), recompute, optimizer, rank, dtype, mfu.

    Returns a Plan; printed, it is what `fathom plan` shows. FathomError: an unknown model or device, or options that
    contradict each other.
    """
    chosen = build(PlanOptions, {"model": str(model), **options}, "plan")
    return planned(subject(chosen.model, chosen.method, chosen.context_length), chosen)


def planned(what: Subject, options: PlanOptions) -> Plan:
    devices = None if options.devices is None else parse(options.devices)
    place = here(what, options) if devices is None else Place.of(devices, options)
    batch, notes = batch_of(what, options, place.n)
    first = first_step(what, options, place)
    parallels = ways_of(options, first, place.n)
    ways = tuple(
        way(what, replace(first, recompute=again), parallel, place)
        for parallel in parallels
        for again in (False, True)
    )  # fmt: skip
    chosen = best(ways, options)
    step, problem = sized(what, options, first, chosen, batch // place.n), ""
    if chosen.rows < step.rows:
        problem = does_not_fit(what, options, place, ways, chosen, step)
    kinds = {name: memory(what, step, name, place) for name in parallels}
    flops = training.flops(what.config, step)
    sent = training.traffic(what.config, step, chosen.parallel, place.n)
    time = place.time(what, step, flops, sent, batch)
    if slack := time.get("slack"):
        kinds[ONE] = with_slack(kinds[ONE], slack)
    about = facts(what, options, place, step, batch, chosen.parallel)
    time |= whole_run(what, options, time["seconds"], about["tokens_per_step"])
    return Plan(
        about, parts(what.config), kinds, ways, flops, time, sent,
        cache(what.config, Work(what.length, itemsize=2)),
        training.activations(what.config, replace(step, recompute=not step.recompute)), (*notes, *place.notes), problem,
        None if what.run is None else measured(what.run),
    )  # fmt: skip


def batch_of(what: Subject, options: PlanOptions, n: int) -> tuple[int, list[str]]:
    """Rows of a step over all devices. FathomError where they cannot be shared out."""
    own = what.train.batch_size if what.train else None
    batch = options.batch or own or max(ROWS, n)
    if batch % n == 0:
        return batch, [] if options.batch or own else [f"--batch was not given: {batch} sequences a step"]
    whose = "--batch" if options.batch else f"the batch of {what.name}"
    if batch < n:
        raise FathomError(f"{whose} is {batch} sequences, fewer than {n} devices; give --batch {n} or a multiple of it")
    lower = batch // n * n
    raise FathomError(f"{whose} is {batch}, not a multiple of {n} devices; give --batch {lower} or {lower + n}")


def first_step(what: Subject, options: PlanOptions, place: Place) -> Step:
    """A step of one row."""
    method = options.method or what.method
    optimizer = options.optimizer or (what.train.optimizer if what.train and method == "full" else "adamw")
    rank = what.tuning.rank if what.tuning and what.tuning.adapted else options.rank
    recompute = options.recompute or bool(what.train and what.train.checkpoint_blocks)
    return step_of(
        what, optimizer, method=method, itemsize=place.itemsize, fused=place.fused, recompute=recompute, rank=rank
    )


def ways_of(options: PlanOptions, step: Step, n: int) -> tuple[str, ...]:
    """In which ways devices may share the work. FathomError where the one that was asked for is none."""
    if n == 1:
        if options.parallel == "fsdp":
            raise FathomError("parallel is fsdp with one device, which has nobody to share with; leave it out, or name"
                              " several --devices")  # fmt: skip
        return (ONE,)
    packs = options.optimizer == "adamw8bit"
    if packs and options.parallel == "fsdp":
        raise FathomError("optimizer is adamw8bit, whose blocks would lie across two devices; use adamw or muon with"
                          " fsdp, or --parallel ddp")  # fmt: skip
    return ("ddp",) if packs else ("ddp", "fsdp")


def memory(what: Subject, step: Step, parallel: str, place: Place) -> dict[str, Amount]:
    """Bytes of one device by kind, and `at once`."""
    kinds = {**({"process": place.process} if place.process.n else {}), **training.memory(what.config, step)}
    if parallel == "fsdp":
        kinds |= training.shared(what.config, step, kinds, place.n)
    return kinds | {"at once": training.peak(kinds, step, keeps=parallel == "ddp")}


def with_slack(kinds: dict[str, Amount], slack: int) -> dict[str, Amount]:
    """With what the allocator of a CPU holds besides, measured on small models of the same widths."""
    most = kinds["at once"]
    found = {"slack": Amount(slack, f"{slack:,}"), "at once": Amount(most.n + slack, f"{most.formula} + slack")}
    return kinds | found


def way(what: Subject, step: Step, parallel: str, place: Place) -> Way:
    """How much of it fits, with the gradients of an earlier pass of the step beside each pass."""

    def needs(rows: int) -> int:
        return memory(what, replace(step, rows=rows, passes=2), parallel, place)["at once"].n

    least, rows = needs(1), 1
    if least > place.usable:
        return Way(parallel, step.recompute, least, 0)
    while rows < LARGEST and needs(2 * rows) <= place.usable:
        rows *= 2
    low, high = rows, 2 * rows
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needs(middle) <= place.usable else (low, middle)
    return Way(parallel, step.recompute, least, low)


def best(ways: tuple[Way, ...], options: PlanOptions) -> Way:
    """The way that is taken: as asked for, and ddp where it fits."""
    asked = [one for one in ways if one.recompute == options.recompute]
    asked = [one for one in asked if options.parallel in ("auto", one.parallel) or one.parallel == ONE]
    return next((one for one in asked if one.rows), asked[-1])


def sized(what: Subject, options: PlanOptions, step: Step, chosen: Way, rows: int) -> Step:
    """The step with its rows: as asked for, or as the recipe has them, or the most that fit and divide the batch."""
    most = max(1, chosen.rows)
    asked = options.micro_batch or (what.train.micro_batch_size if what.train else None)
    if options.micro_batch and rows % options.micro_batch:
        raise FathomError(
            f"--micro-batch is {options.micro_batch}, which does not divide the {rows} sequences of a device; give one"
            f" that does, such as {max(n for n in range(1, min(rows, options.micro_batch) + 1) if rows % n == 0)}"
        )
    if step.fused and step.method != "full" and asked is None:
        most = min(most, micro_batch(rows, what.length * what.config.d_model))
    if not options.micro_batch and (asked is None or rows % asked or asked > most):
        asked = max(n for n in range(1, min(rows, most) + 1) if rows % n == 0)
    assert asked is not None
    return replace(step, rows=asked, passes=rows // asked)


def facts(what: Subject, options: PlanOptions, place: Place, step: Step, batch: int, parallel: str) -> dict[str, Any]:
    """What is planned, as plain values."""
    active = n_active_parameters(what.config)
    return {
        "model": what.name, "kind": what.about, "method": step.method, "devices": place.title, "n": place.n,
        "parallel": parallel, "optimizer": options.optimizer or (what.train.optimizer if what.train else "adamw"),
        "dtype": {2: "bf16", 4: "fp32"}[step.itemsize], "batch": batch, "micro_batch": step.rows,
        "passes": step.passes, "context_length": what.length, "recompute": step.recompute, "rank": step.rank,
        "usable": place.usable, "active": active, "tokens_per_step": batch * what.length, "source": place.source,
    }  # fmt: skip


def whole_run(what: Subject, options: PlanOptions, seconds: float, tokens: int) -> dict[str, Any]:
    """Steps, tokens and hours of the run, where it is said how long it is."""
    asked = options.n_tokens
    if asked is None and (what.train is None or what.train.max_minutes is not None):
        return {"steps": None, "tokens": None, "hours": None}
    steps = what.train.max_iters if asked is None and what.train else -(-(asked or 0) // tokens)
    return {"steps": steps, "tokens": asked or steps * tokens, "hours": steps * seconds / 3600}


def does_not_fit(
    what: Subject, options: PlanOptions, place: Place, ways: tuple[Way, ...], chosen: Way, step: Step
) -> str:
    """One line: what it needs, and what would do."""
    if chosen.rows:
        return f"a micro-batch of {step.rows} does not fit; at most {counted(chosen.rows, 'sequence')} do"
    would = [
        f"{f'--parallel {one.parallel} ' * (place.n > 1)}{'--recompute' * one.recompute}".strip()
        for one in ways
        if one.rows
    ] or others(what, options, place)
    least, usable = (f"{n / 2**30:,.1f} GiB" for n in (chosen.least, place.usable))
    what_would = " or ".join(would) or "a smaller model or a shorter context"
    return f"it does not fit: one sequence needs {least} of a device that has {usable}; {what_would} would"


def others(what: Subject, options: PlanOptions, place: Place) -> list[str]:
    """Another method on the same devices, and more devices of the kind."""
    found: list[str] = []
    full = first_step(what, options, place).method == "full"
    methods: tuple[Method, ...] = ("lora", "qlora") if full else ("qlora",)
    ways = [(method, again) for method in methods for again in (False, True) if options.method != method]
    for method, again in ways:
        if not found and fits(what, replace(options, method=method, optimizer=None), place, again):
            found.append(f"--method {method}{' --recompute' * again}")
    if place.devices is not None:
        kind = place.devices.kind
        more = (Place.of(Devices(2**k, kind), options) for k in range(1, 15) if 2**k > place.n)
        if (enough := next((one.n for one in more if fits(what, options, one, again=True)), 0)) > 0:
            found.append(f"--devices {enough}x{kind.name} --parallel fsdp --recompute")
    return found


def fits(what: Subject, options: PlanOptions, place: Place, again: bool) -> bool:
    """Whether one row does, in some way; again: with blocks recomputed."""
    step = replace(first_step(what, options, place), recompute=again)
    return any(way(what, step, parallel, place).rows for parallel in ways_of(options, step, place.n))
