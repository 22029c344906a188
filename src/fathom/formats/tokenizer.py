"""The tokenizer of a model of any format, or in a file or folder of its own. Does not import torch itself."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.demos import located
from fathom.errors import FathomError
from fathom.formats.config_file import CONFIG, read_config
from fathom.formats.detect import is_model, open_model
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import MATCHING, Tokenizer, check_surplus

if TYPE_CHECKING:
    from fathom.formats.opened import Opened


def tokenizer_of(opened: "Opened") -> Tokenizer | None:
    """The tokenizer in the model's files. Where it cannot be read a line says why, and this is None."""
    try:
        return tokenizer_in(opened)
    except FathomError as problem:
        warnings.warn(f"{problem}; the model opens without a tokenizer", stacklevel=3)
        return None


def tokenizer_in(opened: "Opened") -> Tokenizer | None:
    """The tokenizer in the model's files; None: there is none. FathomError: it cannot be read, or is another's."""
    tokenizer, size = opened.tokenizer(), opened.config.vocab_size
    if tokenizer is None:
        return None
    try:
        check_surplus(tokenizer, size)
        fits = MATCHING * size <= tokenizer.vocab_size
    except FathomError:
        fits = False
    if not fits:
        raise FathomError(
            f"{opened.path}: the tokenizer has {tokenizer.vocab_size:,} tokens and the model {size:,}; put the right"
            " tokenizer beside it"
        )
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model, or in a tokenizer's own file or folder."""
    place = located(path)
    own = place / tokenizers.FILE
    if own.is_file() and (place / CONFIG).is_file() and "finetune" in read_config(place / CONFIG):
        return tokenizers.load(own)  # the run may hold an adapter alone
    if not is_model(path):
        return tokenizers.load(place)
    opened = open_model(path)
    return require_tokenizer(tokenizer_in(opened), opened.path)


def require_tokenizer(tokenizer: Tokenizer | None, path: str | Path) -> Tokenizer:
    """The tokenizer itself; FathomError where there is none."""
    if tokenizer is None:
        raise FathomError(f"{path} holds a model and no tokenizer; put its tokenizer.json or tokenizer.model beside it")
    return tokenizer
