"""`fathom.load(path, adapter=...)`: a model, its tokenizer, and adapters on it.

A run of fine-tuning is opened as its base, wherever that lies, with the run's best adapter.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fathom.adapters import peft
from fathom.adapters.peft_config import CONFIG, read_config
from fathom.backend.inference import prepare_for_inference
from fathom.demos import located
from fathom.errors import FathomError
from fathom.formats import config_file
from fathom.formats.detect import require_path
from fathom.formats.huggingface import read_tokenizer
from fathom.formats.load import load as load_model
from fathom.model.transformer import Transformer
from fathom.quant.schemes import in_words
from fathom.tokenizer.load import FILE as TOKENIZER
from fathom.tokenizer.protocol import Tokenizer

BEST = "adapter"  # a run's folder for its best adapter
Adapters = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class AdaptedRun:
    """The parts of a fine-tuned model, and how the base was packed while the adapter was trained."""

    base: str
    adapter: Path
    quantize: str | None


def adapted_run(path: str | Path) -> AdaptedRun | None:
    """The run in a folder, if an adapter was trained there; None: it is another kind of model."""
    require_path(path)
    folder = located(path)
    file = folder / config_file.CONFIG
    if not file.is_file() or "base" not in (values := config_file.read_config(file)):
        return None
    base, tuning = values["base"], values.get("finetune")
    if not isinstance(base, dict) or not isinstance(base.get("path"), str) or not isinstance(tuning, dict):
        raise FathomError(f"{file}: base and finetune do not say what was trained; train again")
    if tuning.get("method") == "full":
        return None
    if not (folder / BEST / CONFIG).is_file():
        raise FathomError(f"{folder} has no adapter yet; train first: fathom finetune --resume --out-dir {folder}")
    return AdaptedRun(base["path"], folder / BEST, read_config(folder / BEST / CONFIG).quantize or None)


def load(
    path: str | Path,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str | None = None,
    rope_scaling: str | None = None,
    adapter: Adapters | None = None,
    for_inference: bool = False,
) -> tuple[Transformer, Tokenizer | None]:
    """A model and its tokenizer from files of any format.

        >>> model, tokenizer = fathom.load("runs/demo")
        >>> logits = model(torch.tensor([tokenizer.encode("The ")]))  # (1, 4) -> (1, 4, V)

    path: a run folder or checkpoint (a run of fine-tuning is its base with its best adapter), a folder of Hugging Face
    or Meta, a .safetensors, .pth, .gguf or llama2.c file, a hub id, or demo:NAME. dtype: auto (as stored; quantised
    files become fp32), fp32, bf16 or fp16. device: auto, cpu, cuda or mps. quantize: int8, int4 or nf4, for the
    matrices of the blocks; or keep: those that the file has packed stay as they are. rope_scaling: KIND:FACTOR such as
    yarn:4, for contexts FACTOR times longer. adapter: a folder of peft's, or several, whose deltas add up.

    Returns the Transformer in evaluation mode, and its tokenizer, None where the files hold none. It is the model that
    you can read: it can be looked into, edited and trained. `for_inference`: prepared to generate as fast as this
    machine can, equal up to rounding, and for nothing else; `generate`, `stream` and `chat` do so with a path.
    FathomError where there is no such model or adapter, they are damaged, or do not belong together.
    """
    if not adapter and (run := adapted_run(path)) is not None:
        path, adapter, quantize = run.base, run.adapter, quantize or run.quantize
    model, tokenizer = load_model(path, dtype, device, quantize, rope_scaling)
    size = model.config.vocab_size
    folders = [] if adapter is None else [adapter] if isinstance(adapter, str | Path) else list(adapter)
    for name, folder in adapter_names([Path(folder) for folder in folders]).items():
        trained_on = peft.load(model, folder, name, base=path).config.quantize
        if trained_on and trained_on != quantize:
            warnings.warn(
                f"{folder} was trained on the model in {in_words(trained_on)}; load it with quantize {trained_on} to"
                " get what was trained",
                stacklevel=2,
            )
        if model.config.vocab_size != size or (folder / TOKENIZER).is_file():  # it was trained with tokens of its own
            tokenizer = read_tokenizer(folder, model.config.vocab_size, tokenizer) or tokenizer
    return prepare_for_inference(model) if for_inference else model.eval(), tokenizer


def adapter_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Name -> folder: `default` where there is one, else what the folder, or the run that it belongs to, is called."""
    names: dict[str, Path] = {}
    for folder in folders:
        place, own = adapter_folder(folder), folder.resolve()
        own = own.parent if own.name == BEST else own
        word = "".join(c if c.isalnum() else "_" for c in own.name)
        word = "default" if len(folders) == 1 else f"a_{word}" if word[:1].isdigit() else word
        if word in names or place in names.values():
            raise FathomError(f"two adapters are called {word}; give them in folders of different names")
        names[word] = place
    return names


def adapter_folder(folder: Path) -> Path:
    """The folder itself, or `adapter` in it, as runs keep theirs."""
    for place in (folder, folder / BEST):
        if (place / CONFIG).is_file():
            return place
    problem = "does not exist" if not folder.exists() else f"holds no {CONFIG}"
    raise FathomError(f"{folder} {problem}; give the folder of an adapter, as fathom finetune and peft write it")
