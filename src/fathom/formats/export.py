"""A model in memory written in another format, read back and compared: what `fathom.export` does with every model.

What was written is opened like any other file, and every tensor is compared: bit for bit, or by its error where the
format keeps fewer bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from fathom.errors import FathomError, near
from fathom.families.names import split
from fathom.families.plain import require_plain
from fathom.families.shapes import weight_shapes
from fathom.formats.convert import read_ours
from fathom.formats.detect import open_model
from fathom.formats.gguf_mix import KINDS
from fathom.formats.tokenizer import tokenizer_of
from fathom.model.transformer import Transformer
from fathom.report.table import plain as as_text
from fathom.report.table import table
from fathom.tokenizer.protocol import Tokenizer

WRITERS = {  # imported when used
    "hf": ("fathom.formats.huggingface", "write_huggingface"),
    "meta": ("fathom.formats.meta", "write_meta"),
    "gguf": ("fathom.formats.gguf_model", "write_gguf"),
    "llama2c": ("fathom.formats.llama2c", "write_llama2c"),
    "llama2c-v1": ("fathom.formats.llama2c", "write_llama2c"),
}
QUANTIZE: dict[str, dict[str, dict[str, Any]]] = {  # values of --quantize -> arguments of the writer
    "gguf": {kind.lower(): {"kind": kind} for kind in KINDS},
    "llama2c": {"f32": {"version": 0}, "q8_0": {"version": 2}},
    "llama2c-v1": {"f32": {"version": 1}},
}
UNQUANTIZED = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
TEXTS = (  # one for each script, and for what tokenizers are known to differ in
    "Once upon a time, there was 1 café.\n", "  The 東京 tower is 333 m high 🙂", "x = [1, 2]\n\ty -= x",
    "Привет, мир! Γειά σου", "שלום עולם مرحبا بالعالم", "नमस्ते दुनिया สวัสดี", "こんにちは 안녕하세요 你好",
    "I'll DON'T 12345 2²\r\n\u00a0",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """All tensors of one kind, such as `blocks.N.attn.q.weight`: how many are equal to the bit, and the errors of the
    others. `relative` is the largest rms(written - model) / rms(model)."""

    name: str
    tensors: int
    equal: int
    max_error: float
    relative: float


@dataclass(frozen=True, repr=False)
class Exported:
    """What was written, and how it compares when read back. `tokenizer` None: there was none to write."""

    path: Path
    format: str
    nbytes: int
    parts: tuple[Part, ...]
    tokenizer: bool | None  # whether some texts give the same ids
    note: str = ""  # what other programs compute otherwise from this file

    @property
    def equal(self) -> bool:
        """Whether every tensor is equal to the bit."""
        return all(part.equal == part.tensors for part in self.parts)

    def __repr__(self) -> str:
        """As a terminal shows it."""
        lines = [f"{self.path}: {self.format}, {self.nbytes / 2**20:,.1f} MiB of weights"]
        if self.equal:
            lines.append(f"read back: all {sum(part.tensors for part in self.parts)} tensors equal to the bit")
        else:
            heads = ("read back", "tensors", "equal", "largest error", "relative error")
            rows = [
                (p.name, str(p.tensors), str(p.equal), f"{p.max_error:.2e}", f"{100 * p.relative:.3f}%")
                for p in self.parts
            ]
            lines.append(as_text(table(heads, rows, numbers=(1, 2, 3, 4))).rstrip())
        tokenizer = {None: "none", True: "gives the same ids", False: "DIFFERS: do not use it for text"}
        lines.append(f"tokenizer: {tokenizer[self.tokenizer]}")
        return "\n".join([*lines, *([f"note: {self.note}"] if self.note else [])])


def write_model(
    model: Transformer,
    tokenizer: Tokenizer | None,
    format: str,
    out: Path,
    quantize: str | None = None,
    source: Path | None = None,
) -> Exported:
    """Write the model and its tokenizer to `out`, which must not exist, and compare what was written.

    format, quantize: as in `fathom.export`. source: the Hugging Face folder that the model came from, if it did; what
    else it says is kept in a folder of the same format. FathomError where the format cannot hold this model, or where
    what is read back is another model.
    """
    write, settings = writer(format, quantize, model.embed.weight.dtype)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise FathomError(f"{out} exists; give another -o, or remove it first")
    if format == "hf" and source is not None:
        settings = settings | {"source": source}
    write(out, model.config, plain_state(model), tokenizer, **settings)
    return read_back(out, model, tokenizer)


def plain_state(model: Transformer) -> dict[str, torch.Tensor]:
    """The state dict. FathomError where a part computes something else, or layers are packed or have adapters: no file
    holds that."""
    require_plain(model)
    state = model.state_dict()
    if others := [name for name in state if name not in weight_shapes(model.config) and name != "unembed.weight"]:
        raise FathomError(
            f"the model holds {others[0]}, which is not a weight of a plain model; to export it, merge its adapters"
            " (fathom merge) and load it without quantize"
        )
    return state


def writer(format: str, quantize: str | None, dtype: torch.dtype) -> tuple[Callable[..., None], dict[str, Any]]:
    """The function that writes a format, and its arguments."""
    if format not in WRITERS:
        raise FathomError(f"format is {format!r}{near(format, WRITERS, then='choose')} one of {', '.join(WRITERS)}")
    module, name = WRITERS[format]
    function: Callable[..., None] = getattr(import_module(module), name)
    known = QUANTIZE.get(format, {})
    if quantize is not None and quantize.lower() not in known:
        means = (
            f"choose one of {', '.join(known)}" if known else "leave it out; --dtype decides the type of its numbers"
        )
        raise FathomError(f"quantize is {quantize!r}, which {format} files do not have; {means}")
    return function, known.get((quantize or UNQUANTIZED[dtype]).lower(), {})


def read_back(path: Path, model: Transformer, tokenizer: Tokenizer | None) -> Exported:
    """What was written to `path`, compared with the model."""
    opened = open_model(path)
    ours, kinds = plain_state(model), dict[str, list[tuple[bool, float, float]]]()
    for name, tensor in read_ours(opened):
        if name not in ours or ours[name].shape != tensor.shape:
            raise FathomError(f"{path} holds another tensor {name} than was written; do not use it")
        part, _, suffix = split(re.sub(r"\.experts\.\d+\.", ".experts.M.", name))  # of all experts as one
        kinds.setdefault(part + suffix, []).append(difference(tensor, ours[name]))
    parts = tuple(
        Part(name, len(rows), sum(row[0] for row in rows), max(row[1] for row in rows), max(row[2] for row in rows))
        for name, rows in kinds.items()
    )
    same = None if tokenizer is None else same_ids(tokenizer, tokenizer_of(opened), opened.config.vocab_size)
    return Exported(path, opened.format, opened.nbytes, parts, same, str(opened.metadata.get("note", "")))


def difference(written: torch.Tensor, ours: torch.Tensor) -> tuple[bool, float, float]:
    """(equal to the bit, largest error, relative rms error)"""
    ours = ours.detach().cpu()
    if torch.equal(written.to(ours.dtype), ours) and torch.equal(ours.to(written.dtype), written):
        return True, 0.0, 0.0
    error = written.float() - ours.float()
    return False, float(error.abs().max()), float(error.norm() / ours.float().norm().clamp(min=1e-30))


def same_ids(tokenizer: Tokenizer, written: Tokenizer | None, vocab_size: int) -> bool:
    """Whether both give the same ids for the same texts, as far as the vocabulary can encode them.

    Tried are texts of several scripts, each added token alone and among words, and each special token's name.
    """
    if written is None:
        return False
    names = {name: id for name, id in tokenizer.special.names.items() if id < vocab_size}  # as far as the model has ids
    known = written.special.names
    others = sorted(tokenizer.added_ids - {*names.values()})
    added = [tokenizer.decode([id]) for id in others if id < written.vocab_size]
    for text in (*TEXTS, *added, *(f"so {one} on" for one in added), *names):
        try:
            ids = tokenizer.encode(text)
        except FathomError:
            continue
        if written.encode(text) != ids or written.decode(ids) != tokenizer.decode(ids):
            return False
    same_names = all(known.get(name, id) == id < written.vocab_size for name, id in names.items())
    ends = (tokenizer.prefix, tokenizer.eos) == (written.prefix, written.eos)
    return same_names and ends and tokenizer.bos in (written.bos, None)
