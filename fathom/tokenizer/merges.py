"""Which two tokens each token of a ranked vocabulary is joined from.

A rule "of the pairs that stand side by side, join the one whose token ranks first" (tiktoken, SentencePiece) becomes a
list of merges (the `tokenizers` library): what the rule does inside a token does not depend on what stands around it,
so the last pair joined in the token alone is the only one that ever makes it, and one merge per token is exact.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", str, bytes)


def merges_of(ranks: Mapping[T, float]) -> list[tuple[T, T]]:
    """A merge for each token that can be joined, in the order of the ranks; lower ranks are joined first.

    ranks: of all tokens that text may become, single letters (or bytes) too. Of longer ones two may only be equal where
    both are runs of one letter (LLaMA 2's spaces): the rule joins the leftmost, here the longest comes first, and as a
    run grows from its left that is the same.
    """
    found = []
    for token in sorted(ranks, key=lambda token: (ranks[token], -len(token))):
        if len(token) > 1 and (pair := _last_pair(token, ranks)):
            found.append(pair)
    return found


def _last_pair(token: T, ranks: Mapping[T, float]) -> tuple[T, T] | None:
    """The two tokens that are left before they become `token`; None: the rule never gets there."""
    splits = [at for at in range(1, len(token)) if token[:at] in ranks and token[at:] in ranks]
    if len(splits) <= 1:  # nothing to choose: the one pair, or none
        return (token[: splits[0]], token[splits[0] :]) if splits else None
    ends = _join(token, ranks)
    return (token[: ends[0]], token[ends[0] :]) if len(ends) == 2 else None


def _join(token: T, ranks: Mapping[T, float]) -> Sequence[int]:
    """Where the parts of `token` end after joining them until two are left, or no pair is a token."""
    never = float("inf")
    ends = list(range(1, len(token) + 1))
    costs = [ranks.get(token[at : at + 2], never) for at in range(len(token) - 1)]
    while len(ends) > 2 and (cost := min(costs)) < never:
        at = costs.index(cost)  # the parts at and at + 1 become one
        del ends[at], costs[at]
        if at < len(costs):
            costs[at] = ranks.get(token[_start(ends, at) : ends[at + 1]], never)
        if at:
            costs[at - 1] = ranks.get(token[_start(ends, at - 1) : ends[at]], never)
    return ends


def _start(ends: Sequence[int], part: int) -> int:
    return ends[part - 1] if part else 0
