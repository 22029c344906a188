"""`fathom.load(path, adapter=...)`: a model, its tokenizer, and one or several adapters on it.

Does not know formats of models, nor that of adapters.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

from fathom.adapters import peft
from fathom.adapters.peft_config import CONFIG, read_said
from fathom.adapters.run import BEST, adapted_run
from fathom.errors import FathomError
from fathom.formats.load import load as load_model
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer

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
