"""`fathom.load(path, adapter=...)`: a model, its tokenizer, and one or several adapters on it.

Does not know formats of models, nor that of adapters.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fathom.adapters import peft
from fathom.adapters.peft_config import CONFIG, read_said
from fathom.adapters.peft_config import CONFIG as ADAPTER
from fathom.errors import FathomError
from fathom.formats.config_file import CONFIG as RUN_CONFIG
from fathom.formats.config_file import read_config
from fathom.formats.load import load as load_model
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer

# A run of fine-tuning as a model: its base, wherever that lies, with the run's best adapter on it.
#
# Knows of the run what its config.yaml says, and not how it was trained.

BEST = "adapter"


@dataclass(frozen=True)
class AdaptedRun:
    """Where the parts of its model lie, and how the base was packed while the adapter learned."""

    base: str
    adapter: Path
    quantize: str | None


def adapted_run(path: str | Path) -> AdaptedRun | None:
    """The run in a folder, if an adapter was trained there; None: it is another kind of model."""
    folder = Path(path)
    if not (folder / RUN_CONFIG).is_file() or "base" not in (values := read_config(folder / RUN_CONFIG)):
        return None
    base, tuning = values["base"], values.get("finetune")
    if not isinstance(base, dict) or not isinstance(base.get("path"), str) or not isinstance(tuning, dict):
        raise FathomError(f"{folder / RUN_CONFIG}: base and finetune do not say what was trained; train anew")
    if tuning.get("method") == "full":
        return None
    if not (folder / BEST / ADAPTER).is_file():
        raise FathomError(f"{folder} has no adapter yet; train first: fathom finetune --resume --out-dir {folder}")
    return AdaptedRun(base["path"], folder / BEST, read_said(folder / BEST / ADAPTER).quantize or None)


Adapters = str | Path | Sequence[str | Path]


def load(
    path: str | Path,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str | None = None,
    rope_scaling: str | None = None,
    adapter: Adapters | None = None,
) -> tuple[Transformer, Tokenizer | None]:
    """The model at `path` in evaluation mode, and its tokenizer, None where the files hold none.

    path: a run folder or checkpoint (a run of fine-tuning is its base with its best adapter), a folder of Hugging Face
    or Meta, a .safetensors, .pth, .gguf or llama2c file, or a hub id. dtype: auto (as stored), fp32, bf16 or fp16.
    quantize: int8, int4 or nf4. rope_scaling: KIND:FACTOR. adapter: a folder of peft's, or several, which are then all
    enabled: their changes add up. FathomError where there is no such model or adapter, they are damaged, or do not
    belong together.
    """
    if not adapter and (run := adapted_run(path)) is not None:
        path, adapter, quantize = run.base, run.adapter, quantize or run.quantize
    model, tokenizer = load_model(path, dtype, device, quantize, rope_scaling)
    folders = [] if adapter is None else [adapter] if isinstance(adapter, str | Path) else list(adapter)
    for folder, name in named([Path(folder) for folder in folders]).items():
        said = read_said(folder / CONFIG)
        if said.quantize and said.quantize != quantize:
            warnings.warn(
                f"{folder} was trained on the model in {said.quantize}; load it with quantize {said.quantize} to get"
                " what was trained",
                stacklevel=2,
            )
        peft.load(model, folder, name, base=path)
    return model.eval(), tokenizer


def named(folders: Sequence[Path]) -> dict[Path, str]:
    """A name for each adapter: `default` where there is one, else what its folder, or the run it lies in, is called."""
    found: dict[Path, str] = {}
    for folder in folders:
        place = located(folder)
        own = folder.resolve()
        own = own.parent if own.name == BEST else own
        word = "".join(c if c.isalnum() else "_" for c in own.name)
        word = "default" if len(folders) == 1 else f"a_{word}" if word[:1].isdigit() else word
        if word in found.values() or place in found:
            raise FathomError(f"two adapters are called {word}; give them in folders of different names")
        found[place] = word
    return found


def located(folder: Path) -> Path:
    """The folder itself, or `adapter` in it, as runs keep theirs."""
    for place in (folder, folder / BEST):
        if (place / CONFIG).is_file():
            return place
    what = "does not exist" if not folder.exists() else f"holds no {CONFIG}"
    raise FathomError(f"{folder} {what}; give the folder of an adapter, as fathom finetune and peft write it")
