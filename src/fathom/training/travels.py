"""To which formats a run or a preset can be exported: those that hold both its model and its tokenizer.

Does not import torch.
"""

from fathom.families.family import Family
from fathom.families.registry import formats
from fathom.model.config import ModelConfig

TOKENIZERS = {  # kinds that each format holds; those that are not here hold all
    "gguf": ("sentencepiece", "bpe", "byte"),
    "meta": ("sentencepiece",),
    "llama2c": ("sentencepiece",),
    "llama2c-v1": ("sentencepiece",),
}


def travels(config: ModelConfig, tokenizer: str) -> tuple[Family, list[str]] | None:
    """The family in whose files the model is written, and the formats that hold it with its tokenizer.

    tokenizer: its kind, such as bpe. None: no other format holds the model.
    """
    if (found := formats(config)) is None:
        return None
    family, names = found
    return family, [name for name in names if tokenizer in TOKENIZERS.get(name, (tokenizer,))]
