"""P5: who wrote this logit. What every part of the model adds to it, for one token or for the difference of two."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.glass.panel import Panel, Series, checked
from fathom.glass.passes import Pass
from fathom.glass.snippet import looking
from fathom.inspect.attribute import Fault, before_cap, contributions, through_norm
from fathom.inspect.identities import named, off
from fathom.inspect.names import names

OFFERED = 5  # of the likeliest tokens at each position


@dataclass(frozen=True)
class Options:
    """token, other: ids whose logits are taken apart as well, besides the likeliest at each position. fault: a sum that
    is wrong on purpose."""

    token: int | None = None
    other: int | None = None
    fault: Fault = "none"


def panel(run: Pass, options: Options) -> Panel:
    chosen = [run_id(run, token) for token in (options.token, options.other) if token is not None]
    patterns = recorded(run)
    seen, tokens = run.seen(*patterns), offered(run, chosen)
    every = slice(None)
    parts = contributions(run.model, seen, tokens[None], every, options.fault)
    table = torch.stack(list(parts.values()))[:, 0]  # (parts, t, n)
    logits = before_cap(run.model, run.logits.gather(-1, tokens))  # (t, n)
    setup = (
        *looking(patterns, "from fathom.inspect.attribute import before_cap, contributions"),
        f"tokens = torch.tensor([{tokens.tolist()}])",
        f"parts = contributions(model, seen, tokens, slice(None), {options.fault!r})",
        "table = torch.stack(list(parts.values()))[:, 0]",
    )
    source = "part through final_norm, times the token's row of unembed"
    shown = "logits" + ", before the soft cap" * (run.model.config.scale.logit_cap is not None)
    pair = ("query", "token")
    logit = 'before_cap(model, seen["logits"][0, {0}])[tokens[0, {0}, {1}]]'
    series = {
        "contribution": Series(table, "computed", source, ("part", *pair), "table[{0}, {1}, {2}]", setup),
        "logit": Series(logits, "measured", shown, pair, logit, setup),
        "tokens": Series(tokens, "computed", "tokens by logit", pair, "tokens[0, {0}, {1}]", setup),
    }
    residuals = named("contributions_sum_to_logit", off(table.sum(0), logits))
    texts = {str(id): run.text_of(id) for id in sorted({*tokens.flatten().tolist()})}
    facts = {"parts": [described(name) for name in parts], "texts": texts}
    facts["faults"] = faults(run, list(parts))
    return Panel(series, checked("C5", "contributions_sum_to_logit", residuals), facts, (contributions, through_norm))


def kept(run: Pass) -> list[Options]:
    """Of an exported file: the sum as it is, and each that is wrong."""
    first = panel(run, Options())
    return [Options(), *(Options(fault=fault) for fault in first.facts["faults"])]


def run_id(run: Pass, token: int) -> int:
    """The id, where the model has it; FathomError."""
    if not 0 <= token < (size := run.model.config.vocab_size):
        raise FathomError(f"there is no token {token}; the ids of {run.subject.name} run from 0 to {size - 1:,}")
    return token


def recorded(run: Pass) -> list[str]:
    """The names that this panel needs of those that the model has."""
    last = f"blocks.{len(run.model.blocks) - 1}"
    wanted = re.compile(rf"embed|embed_norm|position|blocks\.\d+\.(attn\.z|mlp)|{re.escape(last)}|logits")
    return [name for name in names(run.model.config) if wanted.fullmatch(name)]


def offered(run: Pass, chosen: list[int]) -> Tensor:
    """Tokens (t, n) of each position: the likeliest ones of this model, then those of the model beside it, so that each
    token of either can be compared, then those of `chosen`."""
    every = [run.logits, *([run.beside.logits] if alike(run) else [])]  # type: ignore[union-attr]
    likely = [logits.topk(min(OFFERED, logits.shape[-1]), -1).indices for logits in every]
    return torch.cat((*likely, torch.tensor(chosen, dtype=torch.long, device=run.ids.device).expand(run.t, -1)), 1)


def alike(run: Pass) -> bool:
    """Whether the model beside this one, if there is one, has the same number of tokens."""
    return run.beside is not None and run.beside.model.config.vocab_size == run.model.config.vocab_size


def described(name: str) -> dict[str, object]:
    """What a part is: its kind, and its layer and head where it has them."""
    at = re.match(r"blocks\.(\d+)\.", name)
    head = re.search(r"\.head\.(\d+)$", name)
    kind = "bias" if name.endswith("bias") else "head" if head else "mlp" if name.endswith(".mlp") else name
    kind = "embed" if kind == "embed_norm" else kind
    return {"name": name, "kind": kind, "layer": int(at[1]) if at else None, "head": int(head[1]) if head else None}


def faults(run: Pass, parts: list[str]) -> list[str]:
    """The wrong sums that differ from the right one in this model."""
    normed = run.model.config.norm != "none" and len(parts) > 1
    return ["biases"] * any(name.endswith("bias") for name in parts) + ["norms"] * normed
