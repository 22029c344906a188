"""Tokens that a folder adds to its vocabulary: `added_tokens_decoder` in tokenizer_config.json, and added_tokens.json.

Each becomes an entry as in the `added_tokens` of a tokenizer.json, with the flags that transformers gives it. A token
named as bos, eos, pad and the like is special.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.json_file import read_object, short
from fathom.tokenizer.pieces import CONTROL, UNUSED, USER_DEFINED, Pieces, filler
from fathom.tokenizer.protocol import FLAGS

ADDED = "added_tokens.json"
DECODER = "added_tokens_decoder"
MOST = 1 << 17  # ids that may be added; the most in use are a few thousand
RENAMED = (CONTROL, USER_DEFINED, UNUSED)  # pieces that no text becomes by itself
RESERVED = re.compile(r"unused|reserved", re.IGNORECASE)  # InternLM2's [UNUSED_TOKEN_141] is its <|plugin|>
Entry = dict[str, Any]


def added_entries(folder: Path, settings: Mapping[str, Any]) -> list[Entry]:
    """The added tokens of a folder, in the order of their ids. FathomError: they are damaged."""
    ids = read_object(folder / ADDED, 1 << 26) if (folder / ADDED).exists() else {}
    decoder = settings.get(DECODER) or {}
    if not isinstance(decoder, Mapping):
        raise FathomError(f"{folder}: {DECODER} is {short(decoder)}; expected an object of tokens by id")
    named = set(settings["names"])
    entries = [entry(id, {"content": text, "special": text in named}, f"{folder / ADDED}") for text, id in ids.items()]
    if len({one["id"] for one in entries}) < len(entries):
        raise FathomError(f"{folder / ADDED}: two of its tokens have one id; expected an id for each")
    entries += [entry(id, token, f"{folder}: {DECODER}") for id, token in decoder.items()]
    by_id = {one["id"]: one for one in entries}  # the configuration says more, and wins
    if len({one["content"] for one in by_id.values()}) < len(by_id) or len(by_id) > MOST:
        raise FathomError(f"{folder}: {len(by_id)} added tokens, one of them twice; expected each text once")
    return [by_id[id] | {"special": by_id[id]["special"] or by_id[id]["content"] in named} for id in sorted(by_id)]


def entry(id: Any, token: Any, where: str) -> Entry:
    """A token as in a tokenizer.json; flags that are not given are as in transformers."""
    number = int(id) if isinstance(id, str) and id.isdecimal() and len(id) < 10 else id
    values = token if isinstance(token, Mapping) else {"content": token}
    text = values.get("content")
    if type(number) is not int or not 0 <= number < 1 << 31 or not isinstance(text, str) or not text:
        raise FathomError(f"{where}: {short(id)} is {short(token)}; expected an id, and a token's text")
    special = values.get("special") is True
    flags = {flag: values.get(flag) is True for flag in FLAGS}
    return {"id": number, "content": text, **flags, "special": special}


def with_added(values: Mapping[str, Any], added: Iterable[Entry]) -> dict[str, Any]:
    """The values of a tokenizer.json with the added tokens that it lacks; ids between them get fillers."""
    own = values.get("added_tokens")
    present = [token for token in own if isinstance(token, Mapping)] if isinstance(own, list) else []
    known = {token.get("content") for token in present}
    more = [one for one in added if one["content"] not in known]
    model = values.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if not more or not isinstance(model, Mapping) or not isinstance(vocabulary, Mapping):
        return dict(values)
    taken = {*vocabulary.values(), *(token.get("id") for token in present), *(one["id"] for one in more)}
    fillers = {filler(id): id for id in range(len(vocabulary), max(one["id"] for one in more)) if id not in taken}
    if len(fillers) > MOST:
        raise FathomError(f"added tokens leave {len(fillers):,} ids without a token; expected ids without gaps")
    if fillers:  # the library numbers added tokens from the size of the vocabulary on, but for those within it
        model = {**model, "vocab": {**vocabulary, **fillers, **{one["content"]: one["id"] for one in more}}}
    tokens = sorted([*present, *more], key=lambda token: int(token.get("id", 0)))
    return {**values, "added_tokens": tokens, "model": model}


def with_pieces(pieces: Pieces, added: Iterable[Entry]) -> Pieces:
    """A SentencePiece vocabulary with the added tokens that it lacks; special ones are control pieces.

    A piece that is there already becomes what the folder says it is.
    """
    texts, scores, types = list(pieces.texts), list(pieces.scores), list(pieces.types)
    for one in added:
        id, text, type = one["id"], one["content"], CONTROL if one["special"] else USER_DEFINED
        if id >= len(texts) + MOST:
            raise FathomError(
                f"added token {text[:40]!r} has id {id}; expected ids without gaps after {len(texts) - 1}"
            )
        fill = range(len(texts), id + 1)
        texts += map(filler, fill)
        scores += [0.0] * len(fill)
        types += [UNUSED] * len(fill)
        if id in fill or (texts[id] != text and (types[id] in RENAMED or RESERVED.search(texts[id]))):
            texts[id], types[id] = text, type
        elif texts[id] != text:
            raise FathomError(f"added token {text[:40]!r} has id {id}, which is {texts[id][:40]!r}; expected a free id")
        elif texts[id] == text and types[id] in (CONTROL, USER_DEFINED):
            types[id] = type
    return replace(pieces, texts=tuple(texts), scores=tuple(scores), types=tuple(types), apart=True)


def flags_of_entries(added: Iterable[Entry]) -> dict[str, list[str]]:
    """The flags of the special ones, as `Special.flags` has them."""
    flags = {one["content"]: [flag for flag in FLAGS if one[flag]] for one in added if one["special"]}
    return {name: found for name, found in flags.items() if found}
