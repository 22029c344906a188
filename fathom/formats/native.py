"""Our own format: a folder with config.yaml, tokenizer.json and model.safetensors, as every checkpoint of a run is.

Nothing in it is pickled. Weights are memory-mapped and placed into a model built without memory of its own. Does not
know how the model was trained.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fathom.errors import FathomError
from fathom.formats.tensors import write_tensors
from fathom.model.transformer import Transformer

WEIGHTS = "model.safetensors"


def weights(model: Transformer) -> dict[str, Tensor]:
    """Every tensor of the model by name; a tied unembedding is the embedding and is left out."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_embeddings:
        del tensors["unembed.weight"]
    return tensors


def write_weights(model: Transformer, path: Path) -> None:
    """model.safetensors with our names."""
    write_tensors(path, weights(model))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped; FathomError where it is damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise FathomError(f"{path} does not exist; the checkpoint is incomplete") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise FathomError(f"{path} is not a readable safetensors file: {error}") from None


def place(model: Transformer, tensors: Mapping[str, Tensor], where: str) -> None:
    """Give the model these tensors as its weights. FathomError names what is missing, unexpected or of another shape.

    A model without memory of its own (on the meta device) takes the tensors as they are; another copies their values.
    """
    wanted = weights(model)
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is not a weight of this model" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, the config says {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        raise FathomError(f"{where}: {'; '.join(problems[:4])}{f' and {len(problems) - 4} more' * (len(problems) > 4)}")
    model.load_state_dict(dict(tensors), strict=False, assign=model.embed.weight.is_meta)
    if model.config.tie_embeddings:
        model.unembed.weight = model.embed.weight
