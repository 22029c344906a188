"""P8: a text grows by a token a pass: with a cache of keys and values, and beside it without one."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.fields import build
from fathom.generation.options import SamplingOptions
from fathom.generation.sampling import Samplers, draw
from fathom.glass.panel import Check, Panel, Series, checked
from fathom.glass.passes import Pass
from fathom.inspect.cache_view import (
    CACHES,
    Choose,
    Fault,
    Step,
    bytes_off,
    cache_for,
    cached_equals_uncached,
    no_effect,
    room_after,
    side_by_side,
    steps,
)
from fathom.inspect.identities import named
from fathom.model.cache import KVCache

SECONDS = 10.0  # that a panel may take; the stream takes as long as somebody reads it
MOST = 4096  # tokens in one call


@dataclass(frozen=True)
class Options:
    """How tokens are chosen, and how many. cache: keep keys and values; twin: run a second text without one beside it.
    fault: which mistake the cache makes. seed: None is that of the pass."""

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    cache: bool = True
    twin: bool = True
    fault: Fault | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= MOST:
            raise FathomError(f"max_new_tokens is {self.max_new_tokens}; expected 1 to {MOST:,}")
        if self.seed is not None and not 0 <= self.seed < 2**62:
            raise FathomError(f"seed is {self.seed}; expected a whole number from 0 to below 2**62")
        if self.fault and not self.cache:
            raise FathomError(f"the fault {self.fault!r} is one of the cache, which is off; leave one of the two out")
        self.sampling()

    def sampling(self) -> SamplingOptions:
        return SamplingOptions(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)

    @property
    def compared(self) -> bool:
        return self.cache and self.twin


@dataclass(frozen=True)
class Chooser:
    """The next token out of the logits, as the samplers draw it. Two of one seed choose the same from the same."""

    options: SamplingOptions
    generator: torch.Generator

    def __call__(self, logits: Tensor) -> int:
        seen = torch.zeros(1, len(logits), dtype=torch.bool, device=logits.device)
        return int(draw(Samplers(self.options)(logits[None], seen), [self.generator]).clamp(max=len(logits) - 1))


def chooser(options: SamplingOptions, seed: int) -> Choose:
    return Chooser(options, torch.Generator().manual_seed(seed))


def kept(run: Pass) -> list[Options]:
    """The first view, and one of each mistake that changes something here."""
    faults = [fault for fault in CACHES if fault and not no_effect(run.model, fault, run.t)]
    return [Options(), *(Options(fault=fault) for fault in faults)]


def pairs_of(run: Pass, options: Options) -> Iterator[tuple[Step, Step | None, float]]:
    """The steps of the text, those of its twin, and how far their logits are apart; NaN where nothing is compared."""
    seed = run.seed if options.seed is None else options.seed

    def text(cached: bool) -> Iterator[Step]:
        fault = options.fault if cached else None
        return steps(run.model, run.ids, options.max_new_tokens, chooser(options.sampling(), seed), cached, fault)

    if options.compared:
        yield from side_by_side(text(True), text(False))
    else:
        yield from ((step, None, float("nan")) for step in text(options.cache))


def stream(run: Pass, values: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """A JSON object for each token as it is chosen, and a last one, with `done`, for the checks.

    values: fields of Options. Any FathomError about them is raised here, before the first token. Closing the iterator
    stops within a token.
    """
    options = build(Options, values or {}, "generate")
    return streamed(run, options)


def streamed(run: Pass, options: Options) -> Iterator[dict[str, Any]]:
    past: list[tuple[Step, Step | None, float]] = []
    done = "length" if options.max_new_tokens <= room_after(run.model, run.t) else "context"
    for step, twin, off in pairs_of(run, options):
        past.append((small(step), twin and small(twin), off))
        yield row(run, len(past) - 1, step, twin, off)
        if ends(run, step.id):
            done = "end"
            break
    yield {"done": done, "checks": [check.__dict__ | {"ok": check.ok} for check in checks(run, options, past)]}


def row(run: Pass, n: int, step: Step, twin: Step | None, off: float) -> dict[str, Any]:
    """One token as JSON values."""
    told = {
        "step": n, "id": step.id, "text": run.text_of(step.id), "logprob": step.logprob, "seconds": step.seconds,
        "made": step.made, "reused": step.reused, "bytes": step.n_bytes, "residual": off if off == off else None,
    }  # fmt: skip
    beside = twin and {
        "id": twin.id, "text": run.text_of(twin.id), "logprob": twin.logprob, "seconds": twin.seconds,
        "made": twin.made,
    }  # fmt: skip
    return told | {"twin": beside}


def small(step: Step) -> Step:
    """The step without its logits, which nobody needs any more."""
    return replace(step, logits=step.logits[:0])


def ends(run: Pass, id: int) -> bool:
    tokenizer = run.subject.tokenizer
    return tokenizer is not None and id in tokenizer.special.end_ids


def checks(run: Pass, options: Options, past: list[tuple[Step, Step | None, float]]) -> list[Check]:
    """C9: logits and tokens with a cache and without, and the bytes of the cache."""
    off = bytes_off(allocated(run, options), run.subject.config)
    compared = [(step, twin, residual) for step, twin, residual in past if twin is not None]
    if not compared:
        says = "cache bytes"
        return [one for one in checked("C9", "cache_equals_recompute", {says: off}) if options.cache]
    equal = cached_equals_uncached(compared)
    return checked("C9", "cache_equals_recompute", named("cache_equals_recompute", *equal.values(), off))


def allocated(run: Pass, options: Options) -> KVCache:
    """A cache as large as that of this text."""
    return cache_for(run.model, run.t + min(options.max_new_tokens, room_after(run.model, run.t)))


def panel(run: Pass, options: Options) -> Panel:
    room = room_after(run.model, run.t)
    if not room:
        return Panel(
            absent=f"The prompt fills the context of {run.subject.config.context_length:,} tokens: nothing can follow "
            "it. Choose a shorter text."
        )
    past, done, began = [], "length" if options.max_new_tokens <= room else "context", time.perf_counter()
    for step, twin, off in pairs_of(run, options):
        past.append((small(step), twin and small(twin), off))
        if ends(run, step.id) or time.perf_counter() - began > SECONDS:
            done = "end" if ends(run, step.id) else "time"
            break
    rows = [row(run, n, *one) for n, one in enumerate(past)]
    cache = allocated(run, options)
    config, note = run.subject.config.resolved(), no_effect(run.model, options.fault, run.t)
    facts = {
        "prompt_tokens": run.t, "rows": rows, "done": done, "note": note, "sampler": options.sampling().describe(),
        "allocated": cache.nbytes if options.cache else 0, "capacity": cache.capacity, "windowed": config.windowed,
        "sizes": {
            "n_layer": config.n_layer, "n_kv_head": config.n_kv_head, "head_dim": config.head_dim,
            "itemsize": cache.store.dtype.itemsize,
        },
    }  # fmt: skip
    source: list[Callable[..., Any]] = [steps, KVCache.append]
    source += [CACHES[options.fault]] if options.fault else []
    return Panel(series(run, options, past), checks(run, options, past), facts, source)


def series(run: Pass, options: Options, past: list[tuple[Step, Step | None, float]]) -> dict[str, Series]:
    """What is counted and compared at each step."""
    seed, dims = run.seed if options.seed is None else options.seed, ("step",)
    n, call = options.max_new_tokens, f"model, ids, {options.max_new_tokens}, chooser(options, {seed})"
    setup = [
        "from fathom.generation.options import SamplingOptions",
        "from fathom.glass.generation import chooser",
        "from fathom.inspect.cache_view import cache_for, room_after, side_by_side, steps",
        f"options = {options.sampling()!r}",
        f"own = list(steps({call}, {options.cache}, {options.fault!r}))",
    ]
    own = tuple(setup)
    kept = [step for step, _, _ in past]
    made = torch.tensor([step.made for step in kept])
    found = {
        "ids": Series(torch.tensor([step.id for step in kept]), "computed", options.sampling().describe(), dims,
                      "own[{0}].id", own),
        "logprobs": Series(torch.tensor([step.logprob for step in kept], dtype=torch.float64), "measured",
                           "ln softmax(logits) of the chosen token", dims, "own[{0}].logprob", own),
        "made": Series(made, "measured", "tokens that the pass read", dims, "own[{0}].made", own),
        "reused": Series(torch.tensor([step.reused for step in kept]), "measured", "tokens in the cache before it",
                         dims, "own[{0}].reused", own),
    }  # fmt: skip
    if options.cache:
        held = torch.tensor([step.n_bytes for step in kept])
        found["bytes"] = Series(
            held, "measured", "bytes of keys and values in the cache", dims, "own[{0}].n_bytes", own
        )
        whole = torch.tensor([allocated(run, options).nbytes])
        code = f"cache_for(model, {run.t} + min({n}, room_after(model, {run.t}))).nbytes"
        found["allocated"] = Series(whole, "measured", "cache.nbytes", ("cache",), code, own[2:3])
    if options.compared:
        both = (*own, f"both = list(side_by_side(own, steps({call}, False)))")
        twins = [twin for _, twin, _ in past if twin is not None]
        off = torch.tensor([residual for _, _, residual in past], dtype=torch.float64)
        found["residual"] = Series(off, "computed", "largest |cached - uncached| logit", dims, "both[{0}][2]", both)
        found["twin_ids"] = Series(torch.tensor([twin.id for twin in twins]), "computed", "without a cache", dims,
                                   "both[{0}][1].id", both)  # fmt: skip
        found["twin_made"] = Series(torch.tensor([twin.made for twin in twins]), "measured",
                                    "tokens that the pass read", dims, "both[{0}][1].made", both)  # fmt: skip
    return found
