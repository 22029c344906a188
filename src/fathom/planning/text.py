"""A plan as text: tables whose last column is the arithmetic of each number."""

from collections.abc import Callable
from typing import Any

from fathom.anatomy.amounts import Amount
from fathom.planning.plan import ONE, Plan
from fathom.report.table import plain, table
from fathom.words import counted, duration

PASSES = {
    "forward": "one sequence forward",
    "backward": "and backward",
    "adapter": "adapter, both ways",
    "recomputed": "computed again",
}


def text(plan: Plan) -> str:
    """All of it."""
    pieces = [heading(plan), parameters(plan), memory(plan), fits(plan), work(plan), time(plan)]
    return "\n".join(piece.rstrip() + "\n" for piece in (*pieces, traffic(plan), found(plan)) if piece).rstrip()


def heading(plan: Plan) -> str:
    about = plan.about
    how = {"full": "all weights learn", "lora": f"LoRA of rank {about['rank']} on frozen weights"}
    how["qlora"] = f"LoRA of rank {about['rank']} on weights in NF4"
    lines = [
        f"{about['model']}: {about['kind']}; {how[about['method']]}, {about['optimizer']}, {about['dtype']}",
        f"{about['devices']}; {counted(about['batch'], 'sequence')} of {about['context_length']:,} tokens a step",
        *plan.notes,
    ]
    return "\n".join(lines)


def parameters(plan: Plan) -> str:
    rows = [(part, f"{one.n:,}", one.formula) for part, one in plan.parameters.items() if one.n]
    n = sum(one.n for one in plan.parameters.values())
    tied = "unembed is embed" if not plan.parameters["unembed"].n else ""
    rows.append(("all", f"{n:,}", tied))
    if plan.about["active"] < n:
        rows.append(("of a token", f"{plan.about['active']:,}", "without the experts that it does not use"))
    return plain(table(("parameters", "number", "how"), rows, (1,)))


def memory(plan: Plan) -> str:
    """A column for each way; the arithmetic of the first, and of the others where it differs in kind."""
    ways, about = list(plan.memory), plan.about
    rows = []
    kinds = dict.fromkeys(kind for kinds in plan.memory.values() for kind in kinds if kind != "at once")
    for kind in (*kinds, "at once"):
        amounts = [each.get(kind) for each in plan.memory.values()]
        if any(one is not None and one.n for one in amounts):
            shown = next((one for one in amounts if one is not None and one.n), Amount(0))
            rows.append((kind, *(size(one.n) if one else "" for one in amounts), shown.formula))
        if kind == "activations":
            other = "not recomputed" if about["recompute"] else "recomputed"
            rows.append((other, *(size(plan.instead.n) for _ in ways), f"instead: {plan.instead.formula}"))
    heads = [way if way != ONE else "bytes" for way in ways]
    again = ", blocks recomputed" if about["recompute"] else ""
    what = f"memory of a device, {counted(about['micro_batch'], 'sequence')} a pass{again}"
    lines = [what + ":", plain(table(("", *heads, "how"), rows, tuple(range(1, 1 + len(ways)))))]
    if "fsdp" in plan.memory and about["n"] > 1:
        copies = plan.memory["fsdp"]["copies"]
        of = f"; copies are of unembed alone, {copies.formula}" if copies.n else ""
        lines.append(f"fsdp: each holds 1 / {about['n']} of weights, gradients and optimizer{of}")
    lines.append(f"to write with it: {size(plan.cache.n)} of keys and values for one text of"
                 f" {about['context_length']:,} tokens in 16 bits: {plan.cache.formula}")  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def fits(plan: Plan) -> str:
    usable = plan.about["usable"]
    rows = [
        (way.words, size(way.least), counted(way.rows, "sequence") if way.rows else "does not fit") for way in plan.ways
    ]
    room = f" of {size(usable)}" if usable < 1 << 60 else ""
    lines = [plain(table((f"what fits{room}", "one sequence", "largest micro-batch"), rows, (1, 2)))]
    return "\n".join([*lines, plan.problem] if plan.problem else lines)


def work(plan: Plan) -> str:
    """FLOPs of a sequence, of a step and of the run."""
    about, each = plan.about, sum(one.n for one in plan.flops.values())
    rows = [(PASSES[name], quantity(one.n, "FLOP"), one.formula) for name, one in plan.flops.items()]
    whole = each * about["batch"]
    rows.append(("a step", quantity(whole, "FLOP"), f"{about['batch']:,} × {each:,}"))
    if plan.time["steps"]:
        rows.append(("the run", quantity(plan.time["steps"] * whole, "FLOP"), f"{plan.time['steps']:,} × {whole:,}"))
    return plain(table(("work", "FLOP", "how"), rows, (1,)))


def time(plan: Plan) -> str:
    given, about = plan.time, plan.about
    rows = [("a step", seconds(given["seconds"]), given["how"])]
    if given.get("travel"):
        rows[0] = ("products of a step", seconds(given["compute"]), given["how"])
        rows.append(("traffic of a step", seconds(given["travel"]), "bytes below / GB a second; at the same time"))
        rows.append(("a step", seconds(given["seconds"]), "the longer of the two"))
    speed = f"{about['batch']:,} × {about['context_length']:,} / {seconds(given['seconds'])}"
    rows.append(("tokens a second", f"{given['tokens_per_second']:,.0f}", speed))
    if given["steps"]:
        tokens = f"{given['tokens']:,} tokens / {about['tokens_per_step']:,}"
        rows.append(("steps", f"{given['steps']:,}", tokens))
        rows.append(("the run", duration(3600 * given["hours"]), f"{given['steps']:,} × {seconds(given['seconds'])}"))
        if about["n"] > 1:
            hours = f"{about['n']} × {hundreds(given['hours'])} hours"
            rows.append(("device hours", hundreds(about["n"] * given["hours"]), hours))
    lines = [plain(table(("time", "", "how"), rows, (1,)))]
    if "gflop_s" in given:
        pieces = "a block, all else; the update of a block, of all else" if given["pieces"] else TOO_LARGE
        lines.append(f"measured here: {given['product']}: {given['gflop_s']:,.0f} GFLOP/s, of which a step reaches"
                     f" {given['mfu']:.0%}; {pieces}")  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


TOO_LARGE = "too large to try, so that share is assumed"


def traffic(plan: Plan) -> str:
    if not plan.traffic:
        return ""
    rows = [(name, size(one.n), one.formula) for name, one in plan.traffic.items()]
    heads = (f"traffic ({plan.about['parallel']})", "sent", "how: of each device in a step")
    return plain(table(heads, rows, (1,)))


def found(plan: Plan) -> str:
    """What a run measured, beside what was planned."""
    if (run := plan.measured) is None:
        return ""
    name = next(iter(plan.memory))
    learns = plan.memory[name]["gradients"].n // 4
    rows = [
        beside("numbers that learn", learns, run.learned, "{:,}".format),
        beside("peak memory", plan.memory[name]["at once"].n, run.peak_bytes, size),
        beside("a step", plan.time["seconds"], run.seconds, seconds),
        beside("tokens a second", plan.time["tokens_per_second"], run.tokens_per_second, "{:,.0f}".format),
    ]
    heads = (f"after {counted(run.steps, 'step')}", "planned", "measured", "planned / measured")
    return plain(table(heads, rows, (1, 2, 3)))


def beside(name: str, planned: Any, measured: Any, shown: Callable[[Any], str]) -> tuple[str, ...]:
    """A row: both, and their ratio."""
    if not measured:
        return name, shown(planned), "not recorded", ""
    return name, shown(planned), shown(measured), f"{planned / measured:.2f}"


def size(n: int) -> str:
    """Bytes in the unit that leaves three or four digits."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n >= 1 << power:
            return f"{n / 2**power:,.4g} {unit}" if n < 1000 << power else f"{n / 2**power:,.0f} {unit}"
    return f"{n} B"


def quantity(n: float, unit: str) -> str:
    """1.23e15: FLOPs are compared by their powers."""
    return f"{n:.3e}".replace("e+", "e") if n >= 1e4 else f"{n:,.0f}"


def hundreds(value: float) -> str:
    """Four digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.4g}"


def seconds(value: float) -> str:
    return f"{value:,.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"
