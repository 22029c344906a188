"""The tokenizer of a folder as Hugging Face has it: `tokenizer.json`, or the files that came before it.

What a text begins with is asked of the file itself (its post_processor); `tokenizer_config.json` names the token that
ends a text and holds the chat template. Published folders lack one or another of these. Does not know models.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers

from fathom.errors import FathomError
from fathom.tokenizer import bpe, library
from fathom.tokenizer import load as files
from fathom.tokenizer.bpe import END, BPETokenizer, byte_letters
from fathom.tokenizer.byte_fallback import PREPEND, REPLACE, SPACE, ByteFallbackTokenizer
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from fathom.tokenizer.library import BYTE_LEVEL, describe, merges_of
from fathom.tokenizer.pieces import NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from fathom.tokenizer.protocol import Special, Tokenizer
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer, to_sentencepiece

# What each of our tokenizers is in the words of the `tokenizers` library: the values of a `tokenizer.json`.
#
# Encoding with it gives the same ids, and its bos goes before every text as ours does. Does not know files.

FIRST_SPACE = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SPACES = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}


def as_library(tokenizer: Tokenizer) -> dict[str, Any]:
    """The values of a `tokenizer.json`. FathomError where the library has no words for what this tokenizer does."""
    values = WORDS[tokenizer.kind](tokenizer)
    known = {token["content"] for token in values["added_tokens"]}
    missing = {name: id for name, id in tokenizer.special.names.items() if name not in known}
    added = sorted([*values["added_tokens"], *describe({}, missing, None)["added_tokens"]], key=lambda one: one["id"])
    return values | {"added_tokens": added, "post_processor": begin_with(tokenizer)}


def begin_with(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The step that puts bos before a text, and between nothing else."""
    if tokenizer.bos is None:
        return None
    name = spelled(tokenizer, tokenizer.bos)
    start, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = [{"SpecialToken": {"id": name, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {name: {"id": name, "ids": [tokenizer.bos], "tokens": [name]}}
    pair = [start, text, *second]
    return {"type": "TemplateProcessing", "single": [start, text], "pair": pair, "special_tokens": special}


def spelled(tokenizer: Tokenizer, id: int) -> str:
    """How a special token is written."""
    for name, known in tokenizer.special.names.items():
        if known == id:
            return name
    raise FathomError(f"special token {id} has no name; expected one to write it by")


def _byte(tokenizer: Tokenizer) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": byte_letters(), "merges": []}
    return describe(model, {}, {**BYTE_LEVEL, "use_regex": False})


def _character_values(tokenizer: CharacterTokenizer) -> dict[str, Any]:
    """A word for each; others are an error of the library too, which knows no unknown word here."""
    model = {"type": "WordLevel", "vocab": {c: id for id, c in enumerate(tokenizer.characters)}, "unk_token": "<unk>"}
    each = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    return describe(model, {}, each, decoder={"type": "Fuse"})


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """A BPE whose merges follow from the scores."""
    pieces = tokenizer.pieces
    if pieces.squeeze_spaces or UNUSED in pieces.types:
        raise FathomError(
            "SentencePiece with runs of spaces made one, or unused pieces; a tokenizer.json has no such rule"
        )
    ranks = {
        text: -score
        for text, score, type in zip(pieces.texts, pieces.scores, pieces.types)
        if type == NORMAL or (type == USER_DEFINED and len(text) == 1)
    }
    _refuse_ties(ranks)
    unknown = pieces.texts[pieces.types.index(UNKNOWN)]
    model = {
        "type": "BPE",
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {text: id for id, text in enumerate(pieces.texts)},
        "merges": merges_of(ranks),
    }
    spaces = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]} if pieces.dummy_prefix else REPLACE
    steps = [SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}, *([FIRST_SPACE] if pieces.dummy_prefix else [])]
    special = {**tokenizer.special.names, unknown: pieces.texts.index(unknown)}
    return describe(model, special, None, spaces, {"type": "Sequence", "decoders": steps})


def _refuse_ties(ranks: Mapping[str, float]) -> None:
    """FathomError where of two different pairs SentencePiece joins the leftmost, which no order of merges says."""
    seen: dict[float, str] = {}
    for text, rank in ranks.items():
        if len(text) > 1 and len(set(seen.setdefault(rank, text)) | set(text)) > 1 and seen[rank] != text:
            raise FathomError(
                f"pieces {seen[rank][:40]!r} and {text[:40]!r} have the same score; a tokenizer.json needs an order"
            )


WORDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    ByteTokenizer.kind: _byte,
    CharacterTokenizer.kind: _character_values,
    BPETokenizer.kind: lambda tokenizer: tokenizer.to_json()["tokenizer"],
    ByteFallbackTokenizer.kind: lambda tokenizer: tokenizer.to_json()["tokenizer"],
    SentencePieceTokenizer.kind: _sentencepiece,
}


FILE, CONFIG, SPECIAL_MAP, TEMPLATE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
MODEL = "tokenizer.model"
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>")  # what published tokenizers end a document with
TEMPLATE_LIMIT = 1 << 20  # bytes


def read_folder(folder: Path, vocab_size: int, ends: Sequence[int] = ()) -> Tokenizer | None:
    """The tokenizer of a folder; None: it holds none. `ends`: ids after which generation ends, besides its eos."""
    settings = read_settings(folder)
    tokenizer = _read(folder, vocab_size, settings)
    if tokenizer is None:
        return None
    if tokenizer.vocab_size > vocab_size:
        raise FathomError(f"{folder}: a tokenizer of {tokenizer.vocab_size} tokens; the model has {vocab_size} ids")
    try:
        return marked(tokenizer, _special(tokenizer, settings, ends))
    except FathomError as problem:
        raise FathomError(f"{folder}: {problem}") from None


def _read(folder: Path, vocab_size: int, settings: Mapping[str, Any]) -> Tokenizer | None:
    """From the first of the files that is there."""
    if (folder / FILE).exists():
        return files.load(folder / FILE)
    if (folder / MODEL).exists():
        return _with_bos(files.read_model_file(folder / MODEL, vocab_size), settings)
    if not (folder / bpe.MERGES).exists():
        return None
    if not (folder / bpe.VOCABULARY).exists():
        return _with_bos(bpe.from_merges(folder / bpe.MERGES), settings)
    return _with_bos(bpe.from_files(folder, [*settings["names"], END], settings), settings)


def read_settings(folder: Path) -> dict[str, Any]:
    """What the files beside the vocabulary say: `tokenizer_config.json` wins over `special_tokens_map.json`."""
    found: dict[str, Any] = {}
    for name in (SPECIAL_MAP, CONFIG):
        if (folder / name).exists():
            found |= {key: value for key, value in library.read_object(folder / name).items() if value is not None}
    named = {key: _content(found[key], f"{folder}: {key}") for key in ("bos_token", "eos_token") if key in found}
    names = list(dict.fromkeys(named.values()))
    return found | named | {"names": names, "template": _template(folder, found.get("chat_template"))}


def _content(token: Any, where: str) -> str:
    """How a token is written: text, or an object with its content."""
    text = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(text, str):
        raise FathomError(f"{where} is {str(token)[:80]!r}; expected text, or an object with 'content'")
    return text


def _template(folder: Path, configured: Any) -> str | None:
    """The chat template: a file of its own wins; of several in the configuration, the one called default."""
    path = folder / TEMPLATE
    if path.exists():
        try:
            if (size := path.stat().st_size) > TEMPLATE_LIMIT:
                raise FathomError(f"{path} has {size:,} bytes; expected a chat template of at most {TEMPLATE_LIMIT:,}")
            return path.read_bytes().decode("utf-8")
        except OSError as problem:
            raise FathomError(f"{path}: cannot be read ({problem.strerror})") from None
        except UnicodeDecodeError as problem:
            raise FathomError(f"{path}: byte {problem.start} is not UTF-8; expected a chat template") from None
    if isinstance(configured, list):
        named = {str(one.get("name")): one.get("template") for one in configured if isinstance(one, Mapping)}
        configured = named.get("default")
    if not isinstance(configured, str | None):
        raise FathomError(f"{folder / CONFIG}: chat_template is {str(configured)[:80]!r}; expected text or a list")
    return configured


def _special(tokenizer: Tokenizer, settings: Mapping[str, Any], ends: Sequence[int]) -> Special:
    special = tokenizer.special
    eos = _id(tokenizer, settings["eos_token"]) if "eos_token" in settings else None
    return replace(
        special,
        eos=special.eos if eos is None else eos,
        ends=tuple(dict.fromkeys([*special.ends, *ends])),
        names={**special.names, **({} if eos is None else {settings["eos_token"]: eos})},
        template=settings["template"] or special.template,
    )


def _id(tokenizer: Tokenizer, name: str) -> int | None:
    """The id of a special token, None where the vocabulary has none of that name."""
    known = tokenizer.hf.token_to_id(name) if isinstance(tokenizer, BPETokenizer) else None
    return tokenizer.special.names.get(name, known)


def _with_bos(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Tokenizer:
    """With a bos before every text where the configuration says so, and without where it says it is not."""
    match settings.get("add_bos_token"):
        case True if "bos_token" in settings:
            return marked(tokenizer, replace(tokenizer.special, bos=_id(tokenizer, settings["bos_token"])))
        case False:
            return marked(tokenizer, replace(tokenizer.special, bos=None))
    return tokenizer


def marked(tokenizer: Tokenizer, special: Special) -> Tokenizer:
    """The same tokenizer with other special tokens."""
    if special == tokenizer.special:
        return tokenizer
    again: Any = copy.copy(tokenizer)
    again.special = special.check(tokenizer.vocab_size)
    return again


def from_values(values: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that the values of a `tokenizer.json` describe."""
    model = values.get("model")
    if isinstance(model, Mapping) and model.get("type") == "WordLevel":
        return _character(model)
    hf = library.parse(values)
    names = {token.content: id for id, token in hf.get_added_tokens_decoder().items() if token.special}
    eos = next((hf.token_to_id(name) for name in ENDS if hf.token_to_id(name) is not None), None)
    names |= {name: eos for name in ENDS if eos is not None and hf.token_to_id(name) == eos}
    kind = ByteFallbackTokenizer if isinstance(model, Mapping) and model.get("byte_fallback") else BPETokenizer
    return kind(hf, Special(_before(hf), eos, names=names))


def _before(hf: tokenizers.Tokenizer) -> int | None:
    """The id that the library puts before every text."""
    with library.one_line():
        plain, whole = hf.encode("a", add_special_tokens=False).ids, hf.encode("a").ids
    count = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    if count > 1:
        raise FathomError(f"{count} tokens go before every text; expected at most one")
    return whole[0] if count else None


def _character(model: Mapping[str, Any]) -> CharacterTokenizer:
    """Words of one character each, as `to_folder` writes a vocabulary of characters."""
    ids = model.get("vocab")
    if not isinstance(ids, Mapping) or [*ids.values()] != [*range(len(ids))] or any(len(word) != 1 for word in ids):
        raise FathomError("a WordLevel tokenizer; expected a BPE, or a word for each character")
    return CharacterTokenizer("".join(ids))


def to_folder(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of a tokenizer, by name, from which transformers' AutoTokenizer makes the same one."""
    special = tokenizer.special
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for key, id in (("bos_token", special.bos), ("eos_token", special.eos)):
        if id is not None:
            settings[key] = spelled(tokenizer, id)
    if special.template is not None:
        settings["chat_template"] = special.template
    files = {FILE: as_library(tokenizer), CONFIG: settings}
    written = {name: json.dumps(values, ensure_ascii=False).encode("utf-8") for name, values in files.items()}
    if isinstance(tokenizer, SentencePieceTokenizer):
        written[MODEL] = to_sentencepiece(tokenizer)
    return written
