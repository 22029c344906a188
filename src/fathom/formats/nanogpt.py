"""ckpt.pt of nanoGPT (github.com/karpathy/nanoGPT, train.py): a dict of weights, `model_args`, optimizer and more.

GPT-2 with an exact GELU, biases or none, and matrices as (out, in). Files before `bias` was an argument have the
approximate GELU. A `meta.pkl` beside it, as of data/shakespeare_char, is its vocabulary of characters.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.families.names import columns, place
from fathom.families.values import Values
from fathom.formats.opened import Opened
from fathom.formats.other_names import under_our_names
from fathom.formats.pickle_machine import run
from fathom.formats.saved_names import unwrapped
from fathom.formats.torch_file import open_saved, views_in
from fathom.json_file import short
from fathom.model.config import ModelConfig
from fathom.tokenizer.characters import CharacterTokenizer
from fathom.tokenizer.load import read_folder
from fathom.tokenizer.protocol import Tokenizer

NAMES = columns(
    """
ours                 nanogpt
embed                transformer.wte
position.table       transformer.wpe
blocks.N.attn_norm   transformer.h.N.ln_1
blocks.N.attn.q      transformer.h.N.attn.c_attn[1/3]
blocks.N.attn.k      transformer.h.N.attn.c_attn[2/3]
blocks.N.attn.v      transformer.h.N.attn.c_attn[3/3]
blocks.N.attn.out    transformer.h.N.attn.c_proj
blocks.N.mlp_norm    transformer.h.N.ln_2
blocks.N.mlp.up      transformer.h.N.mlp.c_fc
blocks.N.mlp.down    transformer.h.N.mlp.c_proj
final_norm           transformer.ln_f
unembed              lm_head
""",
    place,
)["nanogpt"]
ARGUMENTS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
MASK = r"transformer\.h\.\d+\.attn\.bias"  # a buffer, without flash attention
META, LIMIT = "meta.pkl", 1 << 22  # bytes


def is_nanogpt(path: Path) -> bool:
    """Whether this file of torch.save is a checkpoint of nanoGPT; False where it cannot be read either."""
    try:
        value, _ = open_saved(path)
    except FathomError:
        return False
    return (
        isinstance(value, dict) and isinstance(value.get("model_args"), dict) and isinstance(value.get("model"), dict)
    )


def open_nanogpt(path: Path) -> Opened:
    """The model in a checkpoint. FathomError where a fork has arguments of its own, or the file is damaged."""
    value, read = open_saved(path)
    arguments = value["model_args"]
    for name, own in arguments.items():
        if name not in ARGUMENTS and own not in (None, False):
            raise FathomError(
                f"{path}: model_args.{str(name)[:40]} is {short(own)}; expected only {', '.join(ARGUMENTS)}"
            )
    config = config_of(Values(arguments, f"{path}: model_args"))
    try:
        views = views_in(unwrapped(value["model"], str(path)))
        tensors = read({name: view for name, view in views.items() if not re.fullmatch(MASK, name)})
    except FathomError as problem:
        raise FathomError(str(problem) if str(path) in str(problem) else f"{path}: {problem}") from None
    ours = under_our_names(config, NAMES, tensors, str(path))
    about = {key: value[key] for key in ("iter_num",) if isinstance(value.get(key), int)}
    return Opened(path, "nanoGPT", config, None, "ours", ours, partial(read_tokenizer, path.parent, config), about)


def config_of(values: Values) -> ModelConfig:
    """The model that `model_args` describe."""
    config = ModelConfig(
        vocab_size=values.count("vocab_size"),
        context_length=values.count("block_size"),
        d_model=values.count("n_embd"),
        n_layer=values.count("n_layer"),
        n_head=values.count("n_head"),
        position="learned",
        norm="layer",
        mlp="gelu_exact" if "bias" in values else "gelu",
        bias=("on",) if values.get("bias", bool, True) else (),
        tie_embeddings=True,
        dropout=values.get("dropout", float, 0.0),
    )
    try:
        config.resolved()
    except FathomError as problem:
        raise values.error(str(problem)) from None
    return config


def read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer | None:
    """Of meta.pkl, or of a tokenizer's own files; None where neither is beside the checkpoint."""
    file = folder / META
    if not file.is_file():
        return read_folder(folder, config.vocab_size, [])
    try:
        if file.stat().st_size > LIMIT:
            raise FathomError(f"it has {file.stat().st_size:,} bytes; expected at most {LIMIT:,}")
        return CharacterTokenizer("".join(characters(run(file.read_bytes()))))
    except OSError as problem:
        raise FathomError(f"{file} cannot be read: {problem.strerror or problem}") from None
    except FathomError as problem:
        raise FathomError(f"{file}: {problem}") from None


def characters(meta: Any) -> list[str]:
    """`itos` of a meta.pkl, in order."""
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if not isinstance(itos, dict) or sorted(map(str, itos)) != sorted(map(str, range(len(itos)))):
        raise FathomError("it has no itos with a character for each id from 0 on")
    found = [itos[id] for id in range(len(itos)) if id in itos]
    if len(found) != len(itos) or not all(isinstance(x, str) and len(x) == 1 for x in found):
        raise FathomError("its itos holds something else than characters")
    return found
