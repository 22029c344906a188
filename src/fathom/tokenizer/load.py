"""Tokenizers from a word (`char`, `byte`, `bpe:SIZE`), and from and to files and folders, recognised by content.

Our own are one JSON file. Of others are read: Hugging Face's folders and `tokenizer.json`, both kinds of
`tokenizer.model`, GPT-2's `merges.txt`, llama2.c's `tokenizer.bin`. In a folder, `tokenizer_config.json` names the
token that ends a text and holds the chat template; published folders lack one file or another.
"""

import codecs
import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fathom.errors import FathomError, near
from fathom.files import read_bytes, refuse_pipes, replacing
from fathom.json_file import read_object
from fathom.tokenizer import bpe_files, llama2c
from fathom.tokenizer.added_tokens import Entry, added_entries, flags_of_entries, with_added, with_pieces
from fathom.tokenizer.bpe import END_OF_TEXT, BPETokenizer
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from fathom.tokenizer.hf_library import MAX_BYTES, parse
from fathom.tokenizer.protocol import Special, Tokenizer, check_surplus
from fathom.tokenizer.sentencepiece import (
    SentencePieceTokenizer,
    as_sentencepiece,
    is_sentencepiece,
    read_sentencepiece,
    to_sentencepiece,
)
from fathom.tokenizer.template import named_templates
from fathom.tokenizer.tokenizer_json import read_json, special_name, to_library_json

FILE, MODEL, TEMPLATE = "tokenizer.json", "tokenizer.model", "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"  # a folder: of several templates those that are not the default
CONFIG, SPECIAL_MAP = "tokenizer_config.json", "special_tokens_map.json"
FILE_NAME = re.compile(r"[\w-]{1,64}")  # of a template: nothing that leads out of its folder
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
CARRIED = (  # settings that no code here needs, for those who read what is written
    "pad_token", "unk_token", "sep_token", "cls_token", "mask_token", "additional_special_tokens", "padding_side",
    "truncation_side", "model_max_length", "clean_up_tokenization_spaces", "model_input_names",
)  # fmt: skip
MAX_TEMPLATE = 1 << 20  # bytes
MAX_VOCABULARY = 1 << 20  # ids, where no model gives the number: four times the largest vocabulary in use


def make(spec: str, chunks: Iterable[str]) -> Tokenizer:
    """The tokenizer that `spec` names: learned from the text in `chunks`, or loaded from a file or folder."""
    kind, _, size = spec.partition(":")
    if is_learned(spec) and kind == "bpe":
        return BPETokenizer.train(chunks, int(size))
    if spec == "char":
        return CharacterTokenizer.train(chunks)
    if spec == "byte":
        return ByteTokenizer()
    if spec and Path(spec).exists():
        return load(Path(spec))
    expected = "char, byte, bpe:SIZE (such as bpe:4096) or a file"
    raise FathomError(f"tokenizer {spec!r}: expected {expected}{near(kind, ('char', 'byte', 'bpe:4096'))}")


def is_learned(spec: str) -> bool:
    """Whether the tokenizer that `spec` names hangs on the text."""
    kind, _, size = spec.partition(":")
    return spec == "char" or (kind == "bpe" and size.isdecimal())


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokenizer as JSON; the file is complete or not there."""
    with replacing(path) as file:
        file.write(json.dumps(tokenizer.to_json(), ensure_ascii=False).encode("utf-8"))


def load(path: Path) -> Tokenizer:
    """The tokenizer in a file or a folder, whatever its name."""
    refuse_pipes(path)
    if path.is_dir():
        if (tokenizer := read_folder(path, MAX_VOCABULARY)) is None:
            raise FathomError(f"{path} holds no tokenizer; expected {FILE}, {MODEL} or {bpe_files.MERGES} in it")
        return tokenizer
    head = _head(path)
    if bpe_files.is_ranks(head) or is_sentencepiece(head):
        return read_model_file(path, MAX_VOCABULARY)
    if bpe_files.is_merges(head):
        return bpe_files.from_merges(path)
    if b"\0" in head:
        return llama2c.read_tokenizer_bin(path, MAX_VOCABULARY)
    if not head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        raise FathomError(f"{path}: not a tokenizer file; expected JSON, a {MODEL} or a {bpe_files.MERGES}")
    return read_json(path)


def read_model_file(path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a `tokenizer.model`, SentencePiece's or LLaMA 3's ranks, of at most `vocab_size` ids."""
    if bpe_files.is_ranks(_head(path)):
        return bpe_files.from_ranks(path, vocab_size)
    return read_sentencepiece(path, vocab_size)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 14)
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror}); expected a tokenizer file") from None


def to_model_file(tokenizer: Tokenizer) -> bytes:
    """The bytes of a `tokenizer.model`. FathomError: neither of its two formats can express this tokenizer."""
    tokenizer = as_sentencepiece(tokenizer)
    if isinstance(tokenizer, SentencePieceTokenizer):
        return to_sentencepiece(tokenizer)
    return bpe_files.to_ranks(tokenizer)


def read_folder(folder: Path, vocab_size: int, ends: Sequence[int] = ()) -> Tokenizer | None:
    """The tokenizer of a folder; None: it holds none. `ends`: ids besides eos after which generation ends."""
    settings = _read_settings(folder)
    tokenizer = _read_vocabulary(folder, vocab_size, settings)
    if tokenizer is None:
        return None
    try:
        check_surplus(tokenizer, vocab_size)
        return _with_special(tokenizer, _special(tokenizer, settings, ends))
    except FathomError as problem:
        raise FathomError(f"{folder}: {problem}") from None


def _read_vocabulary(folder: Path, vocab_size: int, settings: Mapping[str, Any]) -> Tokenizer | None:
    """From the first of the supported files that exists. A `tokenizer.json` itself says what goes before a text."""
    added = added_entries(folder, settings)
    if (folder / FILE).exists():
        return read_json(folder / FILE, added)
    if (folder / MODEL).exists():
        tokenizer = read_model_file(folder / MODEL, vocab_size)
        if added and isinstance(tokenizer, SentencePieceTokenizer):
            tokenizer = _with_pieces(tokenizer, added)
        return _with_prefix(tokenizer, settings)
    if not (folder / bpe_files.MERGES).exists():
        return None
    if not (folder / bpe_files.VOCABULARY).exists():
        return _with_prefix(bpe_files.from_merges(folder / bpe_files.MERGES), settings)
    prefix = settings.get("add_prefix_space") is True
    tokenizer = bpe_files.from_files(folder, [*settings["names"], END_OF_TEXT], prefix)
    if added:
        tokenizer = BPETokenizer(parse(with_added(tokenizer.to_json()["tokenizer"], added)), tokenizer.special)
        names = {one["content"]: one["id"] for one in added if one["special"]}
        flags = flags_of_entries(added)
        tokenizer.special = replace(tokenizer.special, names={**tokenizer.special.names, **names}, flags=flags)
    return _with_prefix(tokenizer, settings)


def _with_pieces(tokenizer: SentencePieceTokenizer, added: Sequence[Entry]) -> SentencePieceTokenizer:
    """The same with added tokens, those of them that are special known by name."""
    pieces = with_pieces(tokenizer.pieces, added)
    special = replace(tokenizer.special, names=pieces.special, flags=flags_of_entries(added))
    return SentencePieceTokenizer(pieces, special)


def _read_settings(folder: Path) -> dict[str, Any]:
    """The settings beside a vocabulary: `tokenizer_config.json` wins over `special_tokens_map.json`."""
    settings: dict[str, Any] = {}
    for name in (SPECIAL_MAP, CONFIG):
        if (folder / name).exists():
            values = read_object(folder / name, MAX_BYTES)
            settings |= {key: value for key, value in values.items() if value is not None}
    kinds = [key for key in settings if key in NAMED]
    named = {key: _content(settings[key], f"{folder}: {key}") for key in kinds}
    more = settings.get("additional_special_tokens")
    others = [_content(token, f"{folder}: {key}") for key, token in enumerate(more if isinstance(more, list) else [])]
    names = list(dict.fromkeys([*named.values(), *others]))
    carried = {key: value for key, value in (settings | named).items() if key in CARRIED and _is_short(value)}
    templates = _read_templates(folder, settings.get("chat_template"))
    if templates.keys() - {"default"}:
        carried["chat_template"] = templates
    return settings | named | {"names": names, "template": templates.get("default"), "carried": carried}


def _is_short(value: Any) -> bool:
    return len(json.dumps(value)) < 10_000


def _content(token: Any, where: str) -> str:
    """The text of a token: itself, or the content of an object."""
    text = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(text, str):
        raise FathomError(f"{where} is {str(token)[:80]!r}; expected text, or an object with 'content'")
    return text


def _read_templates(folder: Path, configured: Any) -> dict[str, str]:
    """The chat templates by name: files of their own win over the configuration; one without a name is `default`."""
    listed = configured if isinstance(configured, list) else [{"name": "default", "template": configured}]
    if configured is None:
        listed = []
    templates = {}
    for one in listed:
        name, text = (one.get("name"), one.get("template")) if isinstance(one, Mapping) else (None, one)
        if not isinstance(name, str) or not isinstance(text, str):
            shown = one if isinstance(configured, list) else configured
            raise FathomError(
                f"{folder / CONFIG}: chat_template is {str(shown)[:80]!r}; expected text, or names and templates"
            )
        templates[name] = text
    files = {path.stem: path for path in sorted((folder / MORE_TEMPLATES).glob("*.jinja"))}
    files |= {"default": folder / TEMPLATE} if (folder / TEMPLATE).exists() else {}
    return templates | {name: read_template(path) for name, path in files.items()}


def read_template(path: Path) -> str:
    """The chat template in a file. FathomError: it is not UTF-8."""
    try:
        return read_bytes(path, MAX_TEMPLATE, "a chat template").decode("utf-8")
    except UnicodeDecodeError as problem:
        raise FathomError(f"{path}: byte {problem.start} is not UTF-8; expected a chat template") from None


def _special(tokenizer: Tokenizer, settings: Mapping[str, Any], ends: Sequence[int]) -> Special:
    special = tokenizer.special
    bos, eos = (_id(tokenizer, settings[key]) if key in settings else None for key in ("bos_token", "eos_token"))
    named = {settings[key]: id for key, id in (("bos_token", bos), ("eos_token", eos)) if id is not None}
    return replace(
        special,
        bos=special.bos if bos is None else bos,
        eos=special.eos if eos is None else eos,
        ends=tuple(dict.fromkeys([*special.ends, *ends])),
        names={**special.names, **{name: id for name, id in named.items() if not _spells(tokenizer, name, id)}},
        template=settings["template"] or special.template,
        settings={**special.settings, **settings["carried"]},
    )


def _spells(tokenizer: Tokenizer, name: str, id: int) -> bool:
    """Whether a text becomes this token, which then ends texts without being special."""
    try:
        return id in tokenizer.encode(name)
    except FathomError:
        return False


def _id(tokenizer: Tokenizer, name: str) -> int | None:
    """The id of a special token; None: the vocabulary has none of that name."""
    known = tokenizer.hf.token_to_id(name) if isinstance(tokenizer, BPETokenizer) else None
    return tokenizer.special.names.get(name, known)


def _with_prefix(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Tokenizer:
    """With or without a bos before every text, where the configuration has `add_bos_token`."""
    match settings.get("add_bos_token"):
        case True if "bos_token" in settings:
            bos = _id(tokenizer, settings["bos_token"])
            return _with_special(tokenizer, replace(tokenizer.special, prefix=() if bos is None else (bos,)))
        case False:
            return _with_special(tokenizer, replace(tokenizer.special, prefix=()))
    return tokenizer


def _with_special(tokenizer: Tokenizer, special: Special) -> Tokenizer:
    """The same tokenizer with other special tokens."""
    if special == tokenizer.special:
        return tokenizer
    changed = copy.copy(tokenizer)
    changed.special = special.check(tokenizer.vocab_size)
    return changed


def with_generation(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Tokenizer:
    """The same tokenizer with what is recommended for generation, as long as that is short."""
    return _with_special(tokenizer, replace(tokenizer.special, generation=settings if _is_short(settings) else {}))


def to_folder(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of a Hugging Face folder, by name, from which transformers' AutoTokenizer makes the same tokenizer."""
    special = tokenizer.special
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {key: value for key, value in special.settings.items() if key in CARRIED}
    for key, id in (("bos_token", special.bos), ("eos_token", special.eos)):
        if id is not None:
            settings[key] = special_name(tokenizer, id)
    own = {} if special.template is None else {"default": special.template}
    named = {name: text for name, text in named_templates(tokenizer).items() if FILE_NAME.fullmatch(name)}
    templates = named | own
    if templates:
        listed = [{"name": name, "template": template} for name, template in templates.items()]
        settings["chat_template"] = listed if templates.keys() - {"default"} else special.template
    values = {FILE: to_library_json(tokenizer), CONFIG: settings}
    files = {name: json.dumps(value, ensure_ascii=False).encode("utf-8") for name, value in values.items()}
    for name, template in templates.items():  # where transformers looks first
        files[TEMPLATE if name == "default" else f"{MORE_TEMPLATES}/{name}.jinja"] = template.encode("utf-8")
    if isinstance(tokenizer, SentencePieceTokenizer):
        with suppress(FathomError):  # of added tokens that it would find elsewhere tokenizer.json alone is right
            files[MODEL] = to_sentencepiece(tokenizer)
    return files
