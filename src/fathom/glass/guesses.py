"""The answers that one may guess among before a panel answers its question, and which of them its numbers give."""

import math
import re
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from torch import Tensor

from fathom.glass.panel import Panel
from fathom.glass.passes import Pass

Answer = tuple[int, str]  # which choice is right, from 0, and a sentence that says so; -1: none can be told
FEW = 0.1  # nats of KL that one notices


def guess(id: str, panel: Panel, run: Pass) -> dict[str, Any] | None:
    """The choices of a panel, the right one and what it says; None where the panel has nothing to show."""
    if panel.absent is not None:
        return None
    choices, answer = GUESSES[id]
    choice, says = answer(panel, run)
    return {"choices": choices, "choice": choice, "says": says}


def next_token(panel: Panel, run: Pass) -> Answer:
    most = panel.series["p"].values[0].item()
    return (0 if most < 0.5 else 1 if most <= 0.9 else 2), f"{word(panel.facts['tokens'][0]['text'])} has {most:.1%}."


def microscope(panel: Panel, run: Pass) -> Answer:
    pattern, at = panel.series["pattern"].values, panel.facts["at"]
    most = int(pattern.argmax())
    choice = 2 if most == at else 1 if most == at - 1 else 0 if most == 0 else 3
    text = word(run.text_of(int(run.ids[0, most])))
    return choice, f"Token {most}, {text}, has {pattern[most].item():.1%} of its attention."


def heads(panel: Panel, run: Pass) -> Answer:
    start, before = (panel.series[name].values.double().mean().item() for name in ("sink", "previous"))
    choice = 2 if max(start, before) < 0.25 else 0 if start > before else 1
    return (
        choice,
        f"Over all heads {start:.1%} of attention goes to the first token and {before:.1%} to the one just before.",
    )


def lens(panel: Panel, run: Pass) -> Answer:
    words: list[int] = panel.series["top"].values[:, -1].tolist()
    last = len(words) - 1
    first = last + 1 - sum(1 for _ in takewhile(lambda one: one == words[-1], reversed(words)))
    choice = 2 if first == last and last else 1 if first > last / 2 else 0
    text = word(panel.facts["texts"].get(str(words[-1]), str(words[-1])))
    return choice, f"{text} is the first choice from row {first} of 0 to {last} on."


def attribution(panel: Panel, run: Pass) -> Answer:
    values = panel.series["contribution"].values[:, -1, 0]
    most = int(values.argmax())
    part = panel.facts["parts"][most]
    kind = {"embed": 0, "head": 1, "mlp": 2}.get(part["kind"], 3)
    name = {"embed": "the embedding", "head": f"layer {part['layer']} head {part['head']}"}.get(part["kind"])
    return kind, f"Most comes from {name or part['name']}: {values[most].item():+.3g}."


def ablation(panel: Panel, run: Pass) -> Answer:
    heads = [c for c, name in enumerate(panel.facts["columns"]) if re.fullmatch(r"\.attn\.head\.\d+", name)]
    effects: Tensor = panel.series["sweep_kl"].values[:, heads, -1].flatten()
    if not effects.isfinite().any():
        return 0, "The sweep was not computed; ask for it below."
    count, strongest = int((effects > FEW).sum()), panel.facts["strongest"]
    most = ", most of all layer {} head {}".format(*re.findall(r"\d+", strongest)) if strongest else ""
    says = f"{count} of {len(effects)} heads move the next token by more than {FEW} nats{most}."
    return (0 if not count else 1 if count <= len(effects) / 2 else 2), says


def positions(panel: Panel, run: Pass) -> Answer:
    kind = panel.facts["kind"]
    if "scores" not in panel.series:
        says = "A learned table has other vectors there, and nothing makes the score stay."
        return int(
            kind == "learned"
        ), "Only the distance is taken from the score, and that stays." if kind == "alibi" else says
    scores = panel.series["scores"].values
    return 0, f"At 5 and 2 the score is {scores[5, 2].item():.4g}, at 15 and 12 it is {scores[15, 12].item():.4g}."


def generation(panel: Panel, run: Pass) -> Answer:
    rows = panel.facts["rows"]
    kept, again = sum(row["made"] for row in rows), sum((row["twin"] or {}).get("made", 0) for row in rows)
    says = (
        f"For {len(rows)} tokens after {panel.facts['prompt_tokens']}, {kept} keys and values are computed in each head"
    )
    return 2, f"{says}, and {again} without a cache." if again else f"{says}."


def groups(panel: Panel, run: Pass) -> Answer:
    heads, own, choices = (panel.facts[name] for name in ("n_head", "n_kv_head", "choices"))
    sizes = panel.series["bytes"].values.tolist()
    ours, most = (f"{sizes[at] / 2**10:,.4g} KiB" for at in (choices.index(own), -1))
    return (
        1,
        f"One key head for every two query heads: half. This model has {own} for {heads}: {ours} instead of {most}.",
    )


def runs(panel: Panel, run: Pass) -> Answer:
    rungs = [one for one in panel.facts["ladder"]["rungs"] if one["bought"]]
    if not rungs:
        return -1, "This ladder has no two rungs to compare."
    best = max(rungs, key=lambda one: one["bought"]["mean"])
    choices = GUESSES["runs"][0]
    says = f"{best['title']} lowers the loss by {best['bought']['mean']:.3f}, more than any other idea here."
    return choices.index(best["title"]) if best["title"] in choices else -1, says


def lora(panel: Panel, run: Pass) -> Answer:
    losses = next(
        (panel.series[name] for name in ("cut_full", "cut_lora", "cut_weights") if name in panel.series), None
    )
    if losses is None or "ranks" not in panel.series:
        return -1, "These matrices are too large to be cut while one waits."
    rank, full = enough(panel.series["ranks"].values, losses.values), panel.facts["full_rank"]
    what = "what was added" if panel.facts["changes"] else "the weights themselves"
    says = (
        f"{rank} of {full} directions of {what} give nine tenths of the way from rank 0 to the full rank, on this text."
    )
    return (0 if rank < 0.1 * full else 1 if rank <= 0.5 * full else 2), says


def enough(ranks: Tensor, losses: Tensor) -> int:
    """The smallest rank from which on at most a tenth of the way from rank 0 to the full rank is missing."""
    missing = (losses - losses[-1]).abs() > 0.1 * (losses[0] - losses[-1]).abs()
    return int(ranks[int(missing.nonzero().max()) + 1 if missing.any() else 0])


def packing(panel: Panel, run: Pass) -> Answer:
    error = panel.facts["error"]
    choice = 0 if error < 0.03 else 1 if error < 0.25 else 2
    return choice, f"{error:.1%} of the size of the weights, in {panel.facts['scheme']}."


def cost(panel: Panel, run: Pass) -> Answer:
    row = panel.series["memory"].values[panel.facts["uses"].index("full")].double()
    times = (row.sum() / row[0]).item() if row[0] else math.nan
    tokens = f"{panel.facts['batch'] * panel.facts['tokens']:,}"
    says = f"the weights, their gradients, two moments of AdamW, and what {tokens} tokens leave for the backward pass."
    return (0 if times < 3 else 1 if times < 6 else 2), f"{times:.1f} times: {says}"


def word(text: str) -> str:
    """A token as the page shows it: a space as a dot, line ends and other characters that one cannot see by name."""
    shown = "".join({" ": "·", "\n": "⏎"}.get(one, one if one.isprintable() else repr(one)[1:-1]) for one in text)
    return shown or "∅"


GUESSES: dict[str, tuple[list[str], Callable[[Panel, Pass], Answer]]] = {
    "next-token": (["under half", "half to 90%", "over 90%"], next_token),
    "microscope": (["the first token", "the token just before", "itself", "another one"], microscope),
    "heads": (["the first token", "the token just before", "something else"], heads),
    "lens": (["in the first half of them", "in the second half", "only with the last"], lens),
    "attribution": (["the embedding", "a head", "an MLP", "something else"], attribution),
    "ablation": (["yes, whichever it is", "unless it is one of a few", "no, most matter"], ablation),
    "positions": (["it stays", "it may change"], positions),
    "generation": (["all of it", "about half", "none: it is kept"], generation),
    "groups": (["a quarter smaller", "half as large", "as large as before"], groups),
    "runs": (["one attention head", "learned positions", "MLP", "SwiGLU"], runs),
    "lora": (["under a tenth", "a tenth to a half", "over half"], lora),
    "packing": (["about 1%", "about 10%", "about half"], packing),
    "cost": (["about twice", "about four times", "more than six times"], cost),
}
