"""The `tokenizers` library, given only checked values: it trusts a `tokenizer.json`, and some make it panic.

Others make it loop over four billion ids or turn text into a special token. What would do that, or would make a
token's bytes unknown, is refused before and after the library reads it. The format is the library's own.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import tokenizers

from fathom.errors import FathomError

MAX_BYTES = 1 << 28  # of a vocabulary's file; LLaMA 3's tokenizer.json has 17 million
NORMALIZERS = "Sequence Prepend Replace NFC NFD NFKC NFKD Lowercase Strip StripAccents Nmt BertNormalizer Precompiled"
WORDS = "Sequence ByteLevel Split Metaspace Digits Punctuation Whitespace WhitespaceSplit BertPreTokenizer"
WORDS += " CharDelimiterSplit UnicodeScripts FixedLength"
PROCESSORS = "Sequence ByteLevel TemplateProcessing BertProcessing RobertaProcessing"
DECODERS = "Sequence ByteLevel Replace ByteFallback Fuse Strip Metaspace WordPiece BPEDecoder CTC"
SUPPORTED = {  # the name of each part's list of steps, and the steps that are known
    "normalizer": ("normalizers", set(NORMALIZERS.split())),
    "pre_tokenizer": ("pretokenizers", set(WORDS.split())),
    "post_processor": ("processors", set(PROCESSORS.split())),
    "decoder": ("decoders", set(DECODERS.split())),
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}  # GPT-2's


def parse(values: Any) -> tokenizers.Tokenizer:
    """The library's tokenizer from the values of a `tokenizer.json`. FathomError: they are damaged or unsupported."""
    if not isinstance(values, Mapping) or not isinstance(values.get("model"), Mapping):
        raise FathomError(f"not a tokenizer of the tokenizers library: {str(values)[:80]!r} has no 'model'")
    for part, (_, supported) in SUPPORTED.items():
        for step in steps(values.get(part), part):
            kind = step.get("type")
            if not isinstance(kind, str) or kind not in supported:
                raise FathomError(f"{part} is {str(kind)[:40]!r}; supported are {', '.join(sorted(supported))}")
    added = _added_tokens(values)
    model = _checked_model(values["model"], {token["content"] for token in added if token.get("special")})
    with library_errors():
        hf = tokenizers.Tokenizer.from_str(json.dumps({**values, "model": model, "truncation": None, "padding": None}))
    for token in added:
        if (id := hf.token_to_id(token["content"])) != token.get("id"):
            name = token["content"][:40]
            raise FathomError(f"added token {name!r} has id {str(token.get('id'))[:40]}; expected {id} in its place")
    return hf


def build_json(
    model: Mapping[str, Any],
    special: Mapping[str, int],
    pre_tokenizer: Mapping[str, Any] | None,
    normalizer: Mapping[str, Any] | None = None,
    decoder: Mapping[str, Any] = BYTE_LEVEL,
    others: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """The values of a `tokenizer.json` with these parts.

    special, others: ids of the special tokens by their texts, and of added tokens that text may become.
    """
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    ids = sorted([*special.items(), *others.items()], key=lambda item: item[1])
    added = [{"id": id, "content": name, **flags, "special": name in special} for name, id in ids]
    parts = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts, "model": model}


def steps(part: Any, name: str) -> list[Mapping[str, Any]]:
    """The steps of a part: itself, or those of a Sequence, however deeply nested."""
    if part is None:
        return []
    if not isinstance(part, Mapping):
        raise FathomError(f"{name} is {str(part)[:40]!r}; expected an object with 'type'")
    if part.get("type") != "Sequence":
        return [part]
    inner = part.get(SUPPORTED[name][0])
    if not isinstance(inner, list):
        raise FathomError(f"{name}: {SUPPORTED[name][0]!r} is {str(inner)[:40]!r}; expected a list")
    return [step for one in inner for step in steps(one, name)]


def steps_of(hf: tokenizers.Tokenizer, name: str) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer that the library has read."""
    part = getattr(hf, name)
    return [dict(step) for step in steps(json.loads(part.__getstate__()) if part else None, name)]


def _added_tokens(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    added = values.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, Mapping) and isinstance(token.get("content"), str) for token in added
    ):
        raise FathomError("'added_tokens' is damaged; expected a list of objects with 'content' and 'id'")
    return added


def _checked_model(model: Mapping[str, Any], special: set[str]) -> dict[str, Any]:
    """The model without merges into a special token, by which text could become one."""
    if model.get("dropout"):
        raise FathomError(f"model: 'dropout' is {str(model['dropout'])[:40]!r}; expected none: ids would be random")
    merges = model.get("merges", [])
    if not isinstance(merges, list):
        raise FathomError(f"model: 'merges' is {str(merges)[:40]!r}; expected a list")
    kept = [merge for merge in merges if merged(merge) not in special]
    return {**model, "merges": kept} if "merges" in model else dict(model)


def merged(merge: Any) -> str:
    """The token that a merge results in: of `["a", "b"]`, or of `"a b"` as older files have it."""
    if isinstance(merge, str):
        return merge.replace(" ", "", 1)
    return "".join(map(str, merge)) if isinstance(merge, list) else ""


@contextlib.contextmanager
def library_errors() -> Iterator[None]:
    """Whatever the library raises, its panics included, as one FathomError."""
    try:
        yield
    except (FathomError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as problem:  # the library raises Exception itself, and its panics are not even that
        raise FathomError(f"not a tokenizer of the tokenizers library ({str(problem)[:200]})") from None
