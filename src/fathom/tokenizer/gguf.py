"""The vocabulary inside a GGUF file, read and written: SentencePiece's ("llama") and byte-level BPE ("gpt2").

The keys are those of the GGUF specification (ggml/docs/gguf.md, "Tokenizer"), the defaults those of llama.cpp
(src/llama-vocab.cpp). The metadata are a mapping of plain values; files are read elsewhere.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from fathom.errors import FathomError, near
from fathom.tokenizer.bpe import BPETokenizer, byte_letters
from fathom.tokenizer.bpe_files import split_by
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.gguf_added import refuse_added
from fathom.tokenizer.gguf_sampling import read_sampling, write_sampling
from fathom.tokenizer.hf_library import BYTE_LEVEL, build_json, parse, steps_of
from fathom.tokenizer.pieces import CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED, Pieces, filler
from fathom.tokenizer.protocol import Special, Tokenizer, check_size
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer, as_sentencepiece, refuse_parts
from fathom.tokenizer.words import ALIASES, GPT2_PATTERN, PATTERNS, WHOLE_WORDS
from fathom.words import article

G = "tokenizer.ggml."
TEMPLATE, TEMPLATES = "tokenizer.chat_template", "tokenizer.chat_templates"  # and the names of others
T = TypeVar("T")


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer that the metadata of a GGUF file describe; None: there is none."""
    model = _get(metadata, G + "model", str, "none")
    if model in ("none", "no_vocab"):
        return None
    if model not in READERS:
        raise FathomError(f"{G}model is {model[:40]!r}; supported are {', '.join(READERS)}{near(model, READERS)}")
    return READERS[model](metadata)


def to_gguf(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The metadata of a tokenizer for a model with `vocab_size` ids: ids without a token get a filler.

    Added tokens beyond the model's ids are left out. Numbers are uint32, lists of numbers int32 or float32.
    FathomError: GGUF, as llama.cpp reads it, does not support this tokenizer.
    """
    if isinstance(tokenizer, BPETokenizer):
        refuse_added(tokenizer.hf)
    tokenizer = as_sentencepiece(tokenizer)
    if type(tokenizer) not in WRITERS:
        supported = ", ".join(str(kind.kind) for kind in WRITERS)
        kind = type(tokenizer.hf.model).__name__ if isinstance(tokenizer, BPETokenizer) else tokenizer.kind
        raise FathomError(f"{article(kind)} tokenizer; GGUF, as llama.cpp reads it, supports only {supported}")
    values = _cut(WRITERS[type(tokenizer)](tokenizer), vocab_size)
    return _padded(values, vocab_size) | _special_values(tokenizer.special, vocab_size)


def _read_llama(metadata: Mapping[str, Any]) -> Tokenizer:
    texts, types = _tokens(metadata)
    scores = _list(metadata, "scores", float)[: len(texts)]
    prefix = _get(metadata, G + "add_space_prefix", bool, True)
    squeeze = _get(metadata, G + "remove_extra_whitespaces", bool, False)
    pieces = Pieces(tuple(texts), tuple(scores), tuple(types), prefix, squeeze, apart=True)
    return SentencePieceTokenizer(pieces, _special(metadata, pieces.special, first=(1, 2), adds_bos=True))


def _read_gpt2(metadata: Mapping[str, Any]) -> Tokenizer:
    texts, types = _tokens(metadata)
    pre = _get(metadata, G + "pre", str, "default")
    pre = ALIASES.get(pre, pre)
    if pre not in PATTERNS:
        raise FathomError(f"{G}pre is {pre[:40]!r}; supported are {', '.join([*PATTERNS, *ALIASES])}")
    merges = _list(metadata, "merges", str)
    if not merges and texts == _letters():
        return ByteTokenizer()
    ids = {text: id for id, text in enumerate(texts)}
    if len(ids) < len(texts):
        twice = next(id for id, text in enumerate(texts) if ids[text] != id)
        raise FathomError(f"{G}tokens: {texts[twice][:40]!r} is token {twice} and again {ids[texts[twice]]}")
    names = {text: id for id, (text, type) in enumerate(zip(texts, types)) if type == CONTROL}
    others = {text: id for id, (text, type) in enumerate(zip(texts, types)) if type == USER_DEFINED}
    model = {"type": "BPE", "vocab": ids, "merges": merges, "ignore_merges": pre in WHOLE_WORDS}
    hf = parse(build_json(model, names, _pre_tokenizer(PATTERNS[pre]), others=others))
    return BPETokenizer(hf, _special(metadata, names, first=(None, None), adds_bos=pre in WHOLE_WORDS))


def _tokens(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Tokens and types without those that only fill the vocabulary up to the model's."""
    texts, types = _list(metadata, "tokens", str), _list(metadata, "token_type", int)
    if len(texts) != len(types):
        raise FathomError(f"{G}tokens has {len(texts)} entries, token_type {len(types)}; expected as many")
    while texts and types[-1] == UNUSED and texts[-1] == filler(len(texts) - 1):
        texts, types = texts[:-1], types[:-1]
    return texts, types


def _special(
    metadata: Mapping[str, Any], names: Mapping[str, int], first: tuple[int | None, int | None], adds_bos: bool
) -> Special:
    """The special tokens; `first`: bos and eos where the metadata name none."""
    bos, eos, eot, eom = (_id(metadata, name) for name in ("bos", "eos", "eot", "eom"))
    bos, eos = first[0] if bos is None else bos, first[1] if eos is None else eos
    adds_bos = _get(metadata, G + "add_bos_token", bool, adds_bos)
    ends = tuple(id for id in (eot, eom) if id is not None and id != eos)
    prefix = (bos,) if adds_bos and bos is not None else ()
    template = _get(metadata, TEMPLATE, str, "") or None
    named = {key.removeprefix(f"{TEMPLATE}."): text for key, text in metadata.items() if key.startswith(f"{TEMPLATE}.")}
    own = {} if template is None else {"default": template}
    settings, generation = {"chat_template": named | own} if named else {}, read_sampling(metadata)
    return Special(bos, eos, ends, names, template, prefix, settings, generation=generation)


def _id(metadata: Mapping[str, Any], name: str) -> int | None:
    key, size = f"{G}{name}_token_id", len(metadata[G + "tokens"])
    id = _get(metadata, key, int, -1)
    if key in metadata and not 0 <= id < size:
        raise FathomError(f"{key} is {id}; ids run from 0 to {size - 1}")
    return id if key in metadata else None


def _get(metadata: Mapping[str, Any], key: str, kind: type[T], default: T) -> T:
    value = metadata.get(key, default)
    if type(value) is not kind:
        raise FathomError(f"{key} is {repr(value)[:40]}; expected {kind.__name__}")
    return value


def _list(metadata: Mapping[str, Any], name: str, kind: type[T]) -> list[T]:
    items = metadata.get(G + name)
    items = items.tolist() if isinstance(items, np.ndarray) else items
    if not isinstance(items, list) or not all(type(item) is kind for item in items):
        raise FathomError(f"{G}{name} is {repr(items)[:40]}; expected a list of {kind.__name__}")
    return items


def _write_llama(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    pieces = tokenizer.pieces
    if not pieces.apart and pieces.dummy_prefix:
        refuse_parts(pieces, apart=True)
    defined = {} if pieces.apart else {text: text.replace(SPACE, " ") for text in pieces.defined}
    squeeze = {G + "remove_extra_whitespaces": True} if pieces.squeeze_spaces else {}
    return squeeze | {
        G + "model": "llama",
        G + "pre": "default",
        G + "tokens": [defined.get(text, text) for text in pieces.texts],  # where text is not yet written with ▁
        G + "scores": list(pieces.scores),
        G + "token_type": list(pieces.types),
        G + "add_space_prefix": pieces.dummy_prefix,
        G + "unknown_token_id": pieces.types.index(UNKNOWN),
    }


def _write_gpt2(tokenizer: BPETokenizer) -> dict[str, Any]:
    model = tokenizer.to_json()["tokenizer"]["model"]
    own, whole = _patterns(steps_of(tokenizer.hf, "pre_tokenizer")), bool(model["ignore_merges"])
    pre = next((pre for pre, patterns in PATTERNS.items() if patterns == own and (pre in WHOLE_WORDS) == whole), None)
    normalizers = [step["type"] for step in steps_of(tokenizer.hf, "normalizer")]  # texts are composed (NFC) already
    if pre is None or set(normalizers) - {"NFC"}:
        raise FathomError(f"GGUF has no name for how this BPE splits words; supported are {', '.join(PATTERNS)}")
    if missing := [letter for letter in _letters() if letter not in model["vocab"]]:
        byte = byte_letters()[missing[0]]
        raise FathomError(f"no token for the byte {byte:#04x}; llama.cpp, unlike the tokenizers library, needs all 256")
    added = tokenizer.hf.get_added_tokens_decoder()
    control = {*tokenizer.special.names.values(), *(id for id, token in added.items() if token.special)}
    texts = [filler(id) for id in range(tokenizer.vocab_size)]  # where ids have gaps, these stay
    types = [UNUSED] * tokenizer.vocab_size
    for text, id in tokenizer.hf.get_vocab(with_added_tokens=True).items():
        texts[id], types[id] = text, CONTROL if id in control else USER_DEFINED if id in added else NORMAL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return _bpe_values(pre, texts, types, merges)


def _write_bytes(tokenizer: ByteTokenizer) -> dict[str, Any]:
    """A byte-level BPE that has learned nothing."""
    return _bpe_values("gpt-2", _letters(), [NORMAL] * tokenizer.vocab_size, [])


def _bpe_values(pre: str, texts: list[str], types: list[int], merges: list[str]) -> dict[str, Any]:
    lists = {G + "tokens": texts, G + "token_type": types, G + "merges": merges}
    return {G + "model": "gpt2", G + "pre": pre, **lists}


def _special_values(special: Special, vocab_size: int) -> dict[str, Any]:
    ends = dict(zip(("eot", "eom"), (id for id in special.ends if id != special.eos and id < vocab_size)))
    ids = {"bos": special.bos, "eos": special.eos, **ends}
    for name, id in ids.items():
        if id is not None and id >= vocab_size:
            raise FathomError(f"the {name} token is {id}; expected one of the model's {vocab_size} ids")
    values: dict[str, Any] = {f"{G}{name}_token_id": id for name, id in ids.items() if id is not None}
    values |= {G + "add_bos_token": bool(special.prefix), G + "add_eos_token": False}
    values |= write_sampling(special.generation)
    named = {n: t for n, t in special.settings.get("chat_template", {}).items() if n != "default"}
    values |= {TEMPLATES: list(named)} if named else {}
    values |= {f"{TEMPLATE}.{name}": template for name, template in named.items()}
    return values | ({TEMPLATE: special.template} if special.template is not None else {})


def _cut(values: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The same without added tokens beyond the model's ids, which it never reads. FathomError: others lie there."""
    texts, types = values[G + "tokens"], values[G + "token_type"]
    if not {*types[vocab_size:]} <= {CONTROL, USER_DEFINED, UNUSED}:
        check_size(len(texts), vocab_size)
    lists = {key: value[:vocab_size] for key, value in values.items() if isinstance(value, list)}
    beyond = {*texts[vocab_size:]}
    merges = [merge for merge in values.get(G + "merges", ()) if merge.replace(" ", "", 1) not in beyond]
    return values | lists | ({G + "merges": merges} if G + "merges" in values else {})


def _padded(values: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The same with tokens that no text becomes, up to `vocab_size`."""
    fill = range(len(values[G + "tokens"]), vocab_size)
    lists = {"tokens": [filler(id) for id in fill], "token_type": [UNUSED] * len(fill), "scores": [-1e9] * len(fill)}
    return {**values, **{G + name: values[G + name] + more for name, more in lists.items() if G + name in values}}


def _letters() -> list[str]:
    """The 256 letters of the bytes, in the order of the bytes."""
    return sorted(byte_letters(), key=byte_letters().__getitem__)


def _pre_tokenizer(patterns: tuple[str, ...]) -> Mapping[str, Any]:
    """What splits by one pattern after another; GPT-2's alone is ByteLevel's own."""
    return BYTE_LEVEL if patterns == (GPT2_PATTERN,) else {"type": "Sequence", "pretokenizers": split_by(*patterns)}


def _patterns(steps: list[dict[str, Any]]) -> tuple[str, ...]:
    """The patterns by which these steps split; empty where one of them does something else."""
    *splits, level = steps
    patterns = tuple(split["pattern"].get("Regex", "") for split in splits if split["type"] == "Split")
    if level["add_prefix_space"] or splits != split_by(*patterns)[:-1]:
        return ()
    return (*patterns, GPT2_PATTERN) if level["use_regex"] else patterns


READERS: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {"llama": _read_llama, "gpt2": _read_gpt2}
WRITERS: dict[Any, Callable[[Any], dict[str, Any]]] = {
    SentencePieceTokenizer: _write_llama,
    BPETokenizer: _write_gpt2,
    ByteTokenizer: _write_bytes,
}
