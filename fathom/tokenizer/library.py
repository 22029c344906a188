"""A tokenizer of the `tokenizers` library from JSON that a stranger may have written.

The library trusts its files: some make it panic, loop over four billion ids or treat text as a special token. Here is
refused, before and after it reads them, what would do that, and what would make a token's bytes unknown. The format is
the library's own (`Tokenizer.save`).
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from fathom.errors import FathomError

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
