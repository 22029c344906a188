"""Folders of Hugging Face's with a tokenizer in them, for tests that read or damage them."""

import json
from pathlib import Path
from typing import Any

import pytest

from fathom.tokenizer.bpe import BPETokenizer

TEXT = "To be, or not to be: that is the question — whether 'tis nobler in the mind to suffer 😀\n" * 20
ANY = 1 << 20
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def put(folder: Path, **files: Any) -> Path:
    """A folder of these files; double underscores are dots in their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in files.items():
        text = values if isinstance(values, str) else json.dumps(values)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def template(name: str, *ids: int) -> dict[str, Any]:
    steps = [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {name: {"id": name, "ids": [*ids], "tokens": [name] * len(ids)}}
    return {"type": "TemplateProcessing", "single": steps, "pair": steps, "special_tokens": special}


def small(**changes: Any) -> dict[str, Any]:
    """A small `tokenizer.json` whose end token is id 0."""
    return {**BPETokenizer.train([TEXT], 300).to_json()["tokenizer"], **changes}


def added(name: str) -> dict[str, Any]:
    """A special token as published configurations have it."""
    return {"__type": "AddedToken", "content": name, **FLAGS}


def auto(folder: Path, **options: Any) -> Any:
    """What transformers makes of the folder."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")
    return transformers.AutoTokenizer.from_pretrained(folder, **options)
