"""A small GPT-2 and a small LLaMA in folders, and adapters for them in peft's form."""

from dataclasses import replace
from pathlib import Path

import torch

from fathom.adapters import lora, peft
from fathom.adapters.options import LoraOptions
from fathom.formats.huggingface import write_huggingface
from fathom.model.transformer import Transformer
from fathom.quant.model import quantize_model
from tests.architectures import ARCHITECTURES, GPT, LLAMA, model_of

CONFIGS = {"gpt2": replace(GPT, n_layer=2, n_head=5), "llama": replace(LLAMA, n_layer=2, n_head=4, head_dim=6)}


def base_folder(folder: Path, name: str) -> tuple[Path, Transformer]:
    """A base as Hugging Face keeps it."""
    model = model_of(CONFIGS[name], std=0.2)
    write_huggingface(folder, model.config, model.state_dict(), None)
    return folder, model


def adapted(model: Transformer, options: LoraOptions, name: str = "default") -> Transformer:
    """With an adapter that has learned something."""
    lora.add(model, options, name)
    with torch.no_grad():
        for parameter in lora.parameters(model, name):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def adapter_folder(folder: Path, model: Transformer, options: LoraOptions, base: Path | None = None) -> Path:
    """The adapter alone, saved."""
    peft.save(adapted(model, options), folder, base=base)
    return folder


def small(name: str, packed: str | None = None) -> Transformer:
    model = model_of(ARCHITECTURES[name], std=0.2)
    if packed:
        quantize_model(model, packed)
    return model
