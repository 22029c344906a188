"""What a Hugging Face folder keeps of the folder that its model came from: settings that no code here needs.

The tokenizer's own files are kept as they are where the tokenizer is the same, so that transformers makes the same
tokenizer from them, and a tokenizer.json beside a tokenizer.model, of which it makes other ids; generation settings,
and entries of config.json that say nothing about the computation, always.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.families.registry import from_hf
from fathom.files import read_bytes
from fathom.json_file import read_object
from fathom.tokenizer.load import CONFIG as TOKENIZER_CONFIG
from fathom.tokenizer.load import FILE as LIBRARY_FILE
from fathom.tokenizer.load import NAMED, read_folder, to_folder
from fathom.tokenizer.protocol import Tokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"
TEMPLATES = "additional_chat_templates"
FILES = (  # of a tokenizer, whichever transformers reads
    "tokenizer.json", "tokenizer.model", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "tekken.json",
)  # fmt: skip
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
WRITTEN = {  # entries of config.json that the writer decides, under this name or another
    "model_type", "architectures", "auto_map", "text_config", "quantization_config", "compression_config", "dtype",
    "torch_dtype", "tie_word_embeddings", "transformers_version", "_name_or_path",
}  # fmt: skip
OF_THE_CLASS = {  # entries of tokenizer_config.json that belong to one vocabulary, or to one class of transformers
    *NAMED, "additional_special_tokens", "extra_special_tokens", "added_tokens_decoder", "tokenizer_class", "auto_map",
    "chat_template", "add_bos_token", "add_eos_token", "add_prefix_space", "legacy", "sp_model_kwargs", "backend",
    "tokenizer_file", "name_or_path", "is_local",
}  # fmt: skip
LARGEST = 1 << 28  # bytes of one file
Files = dict[str, bytes]


def with_carried(files: Mapping[str, bytes], source: Path, tokenizer: Tokenizer | None, vocab_size: int) -> Files:
    """The files of a new folder with what is kept of `source`, the folder that the model was read from.

    Where another tokenizer is written than `source` holds, its files and token ids stay as they are.
    """
    theirs = read_object(source / CONFIG)
    generation = read_object(source / GENERATION) if (source / GENERATION).is_file() else picked(theirs, IDS)
    values, ids = json.loads(files[CONFIG]), json.loads(files[GENERATION])
    new = dict(files)
    if holds(source, tokenizer, vocab_size, [*ends(theirs), *ends(generation)]):
        own, kept = to_folder(tokenizer) if tokenizer is not None else {}, tokenizer_files(source)
        new = {name: data for name, data in new.items() if name not in own or name == LIBRARY_FILE} | kept
        values |= {**dict.fromkeys(IDS[:2]), **picked(theirs, IDS)}
        ids = generation or ids
    else:
        ids = generation | ids
        if TOKENIZER_CONFIG in new and (source / TOKENIZER_CONFIG).is_file():
            settings = read_object(source / TOKENIZER_CONFIG, LARGEST)
            kept = {key: value for key, value in settings.items() if key not in OF_THE_CLASS}
            new[TOKENIZER_CONFIG] = as_json(kept | json.loads(new[TOKENIZER_CONFIG]))
    return new | {CONFIG: as_json(with_entries(values, theirs)), GENERATION: as_json(ids)}


def with_entries(values: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the entries of another for the same kind of model, as long as the model remains the same."""
    if values["model_type"] != theirs.get("model_type"):
        return dict(values)
    kept = {key: x for key, x in theirs.items() if key not in WRITTEN and not key.startswith("rope")}
    kept |= values
    try:
        same = from_hf(kept, CONFIG) == from_hf(values, CONFIG)
    except FathomError:
        same = False
    return kept if same else dict(values)


def holds(source: Path, tokenizer: Tokenizer | None, vocab_size: int, ends: list[int]) -> bool:
    """Whether the folder's tokenizer is this one; one that cannot be read was not read into a tokenizer either."""
    known = list(dict.fromkeys(id for id in ends if 0 <= id < vocab_size))
    try:
        theirs = read_folder(source, vocab_size, known)
    except FathomError:
        theirs = None
    if tokenizer is None or theirs is None:
        return tokenizer is theirs
    same = set(theirs.special.end_ids) == set(tokenizer.special.end_ids)
    return same and theirs.prefix == tokenizer.prefix and to_folder(theirs) == to_folder(tokenizer)


def tokenizer_files(source: Path) -> Files:
    """The tokenizer's files as they are, without the names of code, which is not copied."""
    paths = [source / name for name in FILES] + sorted((source / TEMPLATES).glob("*.jinja"))
    found = {
        path.relative_to(source).as_posix(): read_bytes(path, LARGEST, "a file of a tokenizer")
        for path in paths
        if path.is_file()
    }
    if TOKENIZER_CONFIG in found and "auto_map" in (settings := read_object(source / TOKENIZER_CONFIG, LARGEST)):
        found[TOKENIZER_CONFIG] = as_json({key: x for key, x in settings.items() if key != "auto_map"})
    return found


def ends(values: Mapping[str, Any]) -> list[int]:
    """The ids after which a text ends."""
    value = values.get("eos_token_id")
    return [id for id in (value if isinstance(value, list) else [value]) if type(id) is int]


def picked(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the entries that are there."""
    return {name: values[name] for name in names if name in values}


def as_json(values: Mapping[str, Any]) -> bytes:
    """As transformers writes it."""
    return (json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")
