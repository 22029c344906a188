"""Models that the `transformers` library makes and saves, for tests to read; they skip where it is not installed."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from fathom.families.registry import families

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 256,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS: dict[str, dict[str, Any]] = {
    "gqa": LLAMA,
    "mha": LLAMA | {"num_key_value_heads": 6},
    "mqa": LLAMA | {"num_key_value_heads": 1},
    "head_dim": LLAMA | {"head_dim": 8},
    "tied": LLAMA | {"tie_word_embeddings": True},
    "theta": LLAMA | {"rope_theta": 500_000.0},
    "biases": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama3": LLAMA | {"rope_theta": 500_000.0, "rope_scaling": LLAMA3},
    "linear": LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "yarn": LLAMA | {"rope_scaling": YARN | {"beta_fast": 16.0, "beta_slow": 2.0}},
    "yarn, warm": LLAMA | {"rope_scaling": YARN | {"attention_factor": 1.3}},
    "gpt2": GPT2,
    "gpt2, untied": GPT2 | {"tie_word_embeddings": False},
    "gpt2, n_inner": GPT2 | {"n_inner": 50, "layer_norm_epsilon": 1e-3},
}


def make(values: dict[str, Any]) -> nn.Module:
    """The library's model of a config.json, every number random, norms and biases too."""
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    names = families()[values["model_type"]].classes
    config, model = (getattr(library, name) for name in names)
    made = model(config.from_dict(deepcopy(values))).eval()  # which writes into rope_scaling
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.normal_(std=0.3)
        for name, tensor in made.named_buffers():
            if name.endswith("e_score_correction_bias"):
                tensor.normal_(std=0.3)
    return made
