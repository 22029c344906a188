"""A tokenizer of the `tokenizers` library from JSON that a stranger may have written.

The library trusts its files: some make it panic, loop over four billion ids or treat text as a special token. Here is
refused, before and after it reads them, what would do that, and what would make a token's bytes unknown. The format is
the library's own (`Tokenizer.save`).
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from fathom.errors import FathomError

# Which two tokens each token of a ranked vocabulary is joined from.
#
# A rule "of the pairs that stand side by side, join the one whose token ranks first" (tiktoken, SentencePiece)
# becomes a list of merges (the `tokenizers` library): what the rule does inside a token does not depend on what
# stands around it, so the last pair joined in the token alone is the only one that ever makes it, and one merge per
# token is exact.

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


LIMIT = 1 << 28  # bytes of a JSON file; LLaMA 3's has 17 million
KNOWN = {  # what is understood of each part; whatever else there is would change text in ways that are not
    "normalizer": ("normalizers", {"Sequence", "Prepend", "Replace", "NFC"}),
    "pre_tokenizer": ("pretokenizers", {"Sequence", "ByteLevel", "Split", "Metaspace"}),
    "post_processor": ("processors", {"Sequence", "ByteLevel", "TemplateProcessing"}),
    "decoder": ("decoders", {"Sequence", "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}),
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}  # GPT-2's words


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. FathomError where there is none."""
    try:
        if (size := path.stat().st_size) > LIMIT:
            raise FathomError(f"{path} has {size:,} bytes; expected a JSON file of at most {LIMIT:,}")
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror}); expected a tokenizer file") from None
    except (ValueError, RecursionError) as problem:
        raise FathomError(f"{path}: not a tokenizer file: expected JSON ({problem})") from None
    if not isinstance(values, dict):
        raise FathomError(f"{path}: a tokenizer is {type(values).__name__}; expected an object")
    return values


def parse(values: Any) -> tokenizers.Tokenizer:
    """The tokenizer that these values describe; FathomError: they are damaged, or more than is known here."""
    if not isinstance(values, Mapping) or not isinstance(values.get("model"), Mapping):
        raise FathomError(f"not a tokenizer of the tokenizers library: {str(values)[:80]!r} has no 'model'")
    for part in KNOWN:
        for found in steps(values.get(part), part):
            if not isinstance(found.get("type"), str) or found["type"] not in KNOWN[part][1]:
                raise FathomError(
                    f"{part} is {str(found.get('type'))[:40]!r}; known are {', '.join(sorted(KNOWN[part][1]))}"
                )
    added = _added(values)
    model = _model(values["model"], {token["content"] for token in added if token.get("special")})
    with one_line():
        hf = tokenizers.Tokenizer.from_str(json.dumps({**values, "model": model, "truncation": None, "padding": None}))
    for token in added:
        if (id := hf.token_to_id(token["content"])) != token.get("id"):
            wrong = f"{token['content'][:40]!r} has id {str(token.get('id'))[:40]}"
            raise FathomError(f"added token {wrong}; in its place {id} was expected")
    return hf


def describe(
    model: Mapping[str, Any],
    special: Mapping[str, int],
    words: Mapping[str, Any] | None,
    normalizer: Mapping[str, Any] | None = None,
    decoder: Mapping[str, Any] = BYTE_LEVEL,
) -> dict[str, Any]:
    """The values of a `tokenizer.json`. `words` splits a text into what merges stay within: its pre_tokenizer."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": id, "content": name, **flags} for name, id in sorted(special.items(), key=lambda item: item[1])]
    parts = {"normalizer": normalizer, "pre_tokenizer": words, "post_processor": None, "decoder": decoder}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts, "model": model}


def steps(part: Any, name: str) -> list[Mapping[str, Any]]:
    """The part itself, or what a Sequence of such parts is made of, however deep."""
    if part is None:
        return []
    if not isinstance(part, Mapping):
        raise FathomError(f"{name} is {str(part)[:40]!r}; expected an object with 'type'")
    if part.get("type") != "Sequence":
        return [part]
    inner = part.get(KNOWN[name][0])
    if not isinstance(inner, list):
        raise FathomError(f"{name}: {KNOWN[name][0]!r} is {str(inner)[:40]!r}; expected a list")
    return [step for one in inner for step in steps(one, name)]


def parts(hf: tokenizers.Tokenizer, name: str) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer that the library has read."""
    part = getattr(hf, name)
    return [dict(step) for step in steps(json.loads(part.__getstate__()) if part else None, name)]


def _added(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    added = values.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, Mapping) and isinstance(token.get("content"), str) for token in added
    ):
        raise FathomError("'added_tokens' is damaged; expected a list of objects with 'content' and 'id'")
    return added


def _model(model: Mapping[str, Any], special: set[str]) -> dict[str, Any]:
    """The model without merges into a special token, which text could become by them."""
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise FathomError(
                f"model: {name!r} is {str(model[name])[:40]!r}; expected none: its texts would not come back"
            )
    merges = model.get("merges", [])
    if not isinstance(merges, list):
        raise FathomError(f"model: 'merges' is {str(merges)[:40]!r}; expected a list")
    kept = [merge for merge in merges if joined(merge) not in special]
    return {**model, "merges": kept} if "merges" in model else dict(model)


def joined(merge: Any) -> str:
    """The token that a merge makes: `["a", "b"]`, or `"a b"` as older files have it."""
    if isinstance(merge, str):
        return merge.replace(" ", "", 1)
    return "".join(map(str, merge)) if isinstance(merge, list) else ""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Whatever the library raises, its panics too, as one FathomError."""
    try:
        yield
    except (FathomError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as problem:  # the library raises Exception itself, and its panics are not even that
        raise FathomError(f"not a tokenizer of the tokenizers library ({str(problem)[:200]})") from None
