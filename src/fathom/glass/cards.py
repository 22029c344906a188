"""The ladder as cards: what each idea bought, its interval, what changes in the config and in the source; and what each
is worth in the finished models. JSON values, from one LadderResult.
"""

import dataclasses
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import lru_cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from fathom.anatomy.cost import flops_per_token, n_active_parameters, n_parameters
from fathom.anatomy.words import word
from fathom.experiments.result import Estimate, LadderResult
from fathom.experiments.rungs import Rung, difference
from fathom.experiments.tables import BOUGHT, WORTH, reason, summary, verdict
from fathom.experiments.take_aways import FINISHED, TAKE_AWAYS, TakeAway
from fathom.glass.panel import lines_of
from fathom.model.attention import attend


@lru_cache(maxsize=8)
def cards(result: LadderResult) -> dict[str, Any]:
    """The whole ladder: its set-up, a card for each rung and for each idea that is left out."""
    o = result.options
    return {
        "text": Path(result.text.name).name,
        "steps": result.steps,
        "seeds": o.seeds,
        "tokens": result.tokens,
        "machine": result.machine,
        "complete": result.complete,
        "references": result.references.named(),
        "findings": summary(result),
        "rungs": [rung_card(rung, result) for rung in (*result.ladder, *result.beside) if rung.idea],
        "take_aways": [card for idea in TAKE_AWAYS if (card := take_away_card(idea, result))["models"]],
    }


def rung_card(rung: Rung, result: LadderResult) -> dict[str, Any]:
    """One rung, beside the one that it is compared with."""
    assert rung.idea is not None
    below, curve = result.below(rung.key), next((run for run in result.runs(rung.key) if len(run.steps) > 2), None)
    source, was = lines_of(thing(rung.idea.source)), replaced(rung, result)
    return {
        "key": rung.key,
        "title": rung.title,
        "about": rung.idea.about,
        "page": rung.page,
        "beside": rung.whole is not None,
        "below": below and below.title,
        "parameters": n_parameters(rung.config),
        "active": n_active_parameters(rung.config),
        "flops": flops_per_token(rung.config, rung.config.context_length),
        "loss": estimated(result.loss(rung.key)),
        "bought": estimated(result.gain(rung.key), BOUGHT),
        "change": changes(below, rung) if below else [],
        "source": source,
        "was": was,
        "lines": compared(was["text"], source["text"])
        if was
        else [[" ", line] for line in source["text"].splitlines()],
        "curve": {"steps": curve.steps, "losses": curve.losses} if curve else None,
        "sample": next((run.sample for run in result.runs(rung.key) if run.sample), None),
        "runs": [{"seed": run.seed, "loss": run.loss, "folder": run.folder} for run in result.runs(rung.key)],
    }


def take_away_card(idea: TakeAway, result: LadderResult) -> dict[str, Any]:
    """One idea, and what GPT and LLaMA are without it."""
    own = {f"{key}-{idea.key}": (key, title) for key, (_, title) in FINISHED.items()}
    found = [rung for rung in result.take_aways if rung.key in own]
    whole = {rung.key: rung for rung in result.ladder}
    lines, source = [], None
    if idea.attend is not None:
        source = lines_of(idea.attend)
        lines = compared(lines_of(attend)["text"], source["text"])
    return {
        "key": idea.key,
        "title": idea.title,
        "about": idea.without,
        "page": idea.page,
        "source": source,
        "lines": lines,
        "change": changes(whole[found[0].whole or ""], found[0]) if found and not idea.attend else [],
        "models": [
            {"key": rung.key, "title": own[rung.key][1], "loss": estimated(result.loss(rung.key)),
             "worth": estimated(worth, WORTH), "peeking": result.peeking(rung.key)}
            for rung in found if (worth := result.worth(rung))
        ],
    }  # fmt: skip


def estimated(one: Estimate | None, words: dict[int, str] | None = None) -> dict[str, Any] | None:
    """A mean and its interval, with the verdict where there are words for one."""
    if one is None:
        return None
    values = dataclasses.asdict(one)
    return values | ({"verdict": verdict(one, words), "sign": one.sign, "reason": reason(one)} if words else {})


def changes(below: Rung, above: Rung) -> list[dict[str, Any]]:
    """The declared fields that differ."""
    pairs = difference(below.config, above.config).items()
    return [{"field": name, "old": value(old), "new": value(new)} for name, (old, new) in pairs]


def value(one: Any) -> Any:
    """As JSON; a choice that is made of several, in the config's own words."""
    return one if one is None or isinstance(one, str | int | float | bool) else word(one)


def thing(reference: str) -> Any:
    """What "fathom/model/attention.py:attend" or "…:Class.method" names."""
    path, _, name = reference.partition(":")
    found: Any = import_module(".".join(PurePosixPath(path).with_suffix("").parts))
    for part in name.split("."):
        found = getattr(found, part)
    return found


def replaced(rung: Rung, result: LadderResult) -> dict[str, Any] | None:
    """The lines that ran in the place of this rung's: those of the last rung before it that chose another value of the
    same field. None where the same lines run with another number."""
    below = result.below(rung.key)
    if below is None or rung.idea is None:
        return None
    fields = difference(below.config, rung.config).items()
    for name, (old, new) in fields:
        if not (isinstance(old, str) and (isinstance(new, str) or dataclasses.is_dataclass(new))):
            continue
        for earlier in earlier_than(rung, result):
            own = result.below(earlier.key)
            chose = own is not None and name in difference(own.config, earlier.config)
            if chose and earlier.idea and getattr(earlier.config, name) == old:
                return lines_of(thing(earlier.idea.source))
    return None


def earlier_than(rung: Rung, result: LadderResult) -> Iterator[Rung]:
    """The rungs of the ladder below this one, the nearest first."""
    place = next((at for at, one in enumerate(result.ladder) if one.key == rung.key), len(result.ladder))
    yield from reversed(result.ladder[:place])


def compared(old: str, new: str) -> list[list[str]]:
    """Two texts line by line: " " in both, "-" in the old one alone, "+" in the new one alone."""
    before, after = old.splitlines(), new.splitlines()
    lines = []
    for what, i, j, k, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if what == "equal":
            lines += [[" ", line] for line in before[i:j]]
        else:
            lines += [["-", line] for line in before[i:j]] + [["+", line] for line in after[k:end]]
    return lines
