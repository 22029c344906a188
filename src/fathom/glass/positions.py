"""P7: how a token knows its place. Rotated pairs of channels, a learned table, or a penalty on distance."""

from typing import cast

import torch

from fathom.glass.distance import over_heads, place
from fathom.glass.panel import Check, Panel, Series
from fathom.glass.passes import Pass
from fathom.glass.rotation import Options, positions_shown, rope
from fathom.inspect.group_view import read
from fathom.inspect.rope_view import cosines, score_before_alibi
from fathom.model.position import Alibi, LearnedPosition, alibi_slopes

__all__ = ["Options", "kept", "panel"]
ROWS = 96  # of a learned table that are compared
LEARNED = "This model learned a vector for each of its {:,} positions and adds it to the token's own."
ALIKE = (
    "The cosine of every two rows of the table. Where a band runs along the diagonal, neighbours are alike: the table "
    "has learned an order that nobody told it."
)
ALIBI = (
    "No position enters the stream. Each head subtracts the distance from its scores, times a slope of its own: some "
    "heads see far, some only what is near."
)
KEPT_BYTES = 400_000  # of the views that an exported file holds


def kept(run: Pass) -> list[Options]:
    """The first view, both faults, and as many heads as have room."""
    config = run.subject.config.resolved()
    views = [Options()]
    if config.position == "rope" and config.n_layer:
        views += [Options(fault="layout"), Options(fault="angles")]
    n = positions_shown(run.t)
    room = KEPT_BYTES // (4 * n * (n + 3 * config.head_dim))
    heads = [Options(layer, head) for head in range(config.n_head) for layer in range(config.n_layer)]
    return views + (heads[1 : 1 + room] if config.position != "none" else [])


def panel(run: Pass, options: Options) -> Panel:
    config = run.subject.config.resolved()
    if config.position == "learned":
        return learned(run, options)
    if not config.n_layer:
        return Panel(absent="There are no positions here: a bigram reads one token alone, wherever that stands.")
    if config.position == "none":
        return Panel(
            absent="This model is told no positions. Only the mask has an order: each token sees those before it, "
            "as a bag without order."
        )
    return alibi(run, options) if config.position == "alibi" else rope(run, options)


def learned(run: Pass, options: Options) -> Panel:
    """A vector for each position: which of them are alike."""
    model, config = run.model, run.subject.config.resolved()
    rows = torch.linspace(0, config.context_length - 1, min(ROWS, config.context_length)).long()
    table = cast(LearnedPosition, model.position).table
    setup = (
        "from fathom.inspect.rope_view import cosines",
        f"vectors = model.position.table.weight[torch.tensor({rows.tolist()})].detach()",
    )
    vectors = table.weight[rows.to(run.ids.device)].detach().cpu()
    series = {
        "cosine": Series(
            cosines(vectors), "computed", "cosine of rows of position.table", ("row", "other"),
            "cosines(vectors)[{0}, {1}]", setup,
        ),
        "norm": Series(
            vectors.float().norm(dim=-1), "computed", "norm of rows of position.table", ("row",),
            "vectors.float().norm(dim=-1)[{0}]", setup,
        ),
    }  # fmt: skip
    names = ["embed", "position"] + ["embed_norm"] * config.scale.embed_norm
    first = ["blocks.0.resid_pre"] * bool(config.n_layer)
    seen = run.seen(*names, *first)
    off = (seen["position"][0] - table(torch.arange(run.t, device=run.ids.device))).abs().max().item()
    checks = [Check("C3", "each token gets the row of its position", off, 0.0)]
    if first:
        start = seen["embed_norm" if config.scale.embed_norm else "embed"] + seen["position"]
        checks.append(Check("C3", "embed + position = resid_pre", (start - seen[first[0]]).abs().max().item(), 0.0))
    layer = place("layer", options.layer, config.n_layer) if config.n_layer else None
    if layer is not None:
        series |= over_heads(run, layer)
    facts = {"kind": "learned", "rows": rows.tolist(), "context_length": config.context_length, "layer": layer}
    facts |= {"lead": LEARNED.format(config.context_length), "alike": ALIKE}
    return Panel(series, checks, facts, (LearnedPosition, cosines))


def alibi(run: Pass, options: Options) -> Panel:
    """A penalty that grows with distance, by a slope of each head."""
    config = run.subject.config.resolved()
    layer, n = place("layer", options.layer, config.n_layer), positions_shown(run.t)
    slopes = alibi_slopes(config.n_head)
    setup = ("from fathom.model.position import alibi_slopes", f"slopes = alibi_slopes({config.n_head})")
    series = {
        "slopes": Series(slopes, "computed", "2^(-8 i / h)", ("head",), "slopes[{0}]", setup),
        "penalty": Series(
            -slopes[:, None] * torch.arange(n), "computed", "-slope · distance", ("head", "distance"),
            "-slopes[{0}] * {1}", setup,
        ),
    }  # fmt: skip
    names = read(run.model, layer)
    scores = f"blocks.{layer}.attn.scores"
    seen = run.seen(names["q"], names["k"], scores)
    plain = score_before_alibi(seen[names["q"]][0], seen[names["k"]][0], run.model.blocks[layer].attn.cap)
    back = torch.arange(run.t, device=plain.device)
    expected = plain - slopes.to(plain.device)[:, None, None] * (back[:, None] - back)
    there = seen[scores][0].isfinite()
    size = max(1.0, expected[there].abs().max().item())
    off = (seen[scores][0] - expected)[there].abs().max().item() / size
    checks = [Check("C8", "score = q · k / √c - slope · distance", off, 1e-4)]
    facts = {"kind": "alibi", "layer": layer, "positions": n, "context_length": config.context_length, "lead": ALIBI}
    return Panel(series | over_heads(run, layer), checks, facts, (Alibi, alibi_slopes))
