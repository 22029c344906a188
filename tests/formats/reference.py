"""The models of the `transformers` library that correspond to our configs; tests skip where it is not installed."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor, nn

from fathom.families.registry import of
from fathom.formats.convert import read_ours
from fathom.formats.opened import Opened, Stored
from fathom.model.config import ModelConfig


def reference(config: ModelConfig) -> nn.Module:
    """A GPT-2 or LLaMA of the reference library with the sizes of `config`, in evaluation mode."""
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    z = config.resolved()
    ends = {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": z.tie_embeddings}
    if z.position == "learned":
        sizes = library.GPT2Config(
            vocab_size=z.vocab_size, n_positions=z.context_length, n_embd=z.d_model, n_layer=z.n_layer, n_head=z.n_head,
            n_inner=z.d_ff, layer_norm_epsilon=z.norm_eps, **ends,
        )  # fmt: skip
        return library.GPT2LMHeadModel(sizes).eval()
    sizes = library.LlamaConfig(
        vocab_size=z.vocab_size, max_position_embeddings=z.context_length, hidden_size=z.d_model,
        num_hidden_layers=z.n_layer, num_attention_heads=z.n_head, num_key_value_heads=z.n_kv_head,
        head_dim=z.head_dim, intermediate_size=z.d_ff, rms_norm_eps=z.norm_eps,
        attention_bias="qkv" in z.bias, mlp_bias="mlp" in z.bias, rope_theta=z.rope.theta, **ends,
    )  # fmt: skip
    return library.LlamaForCausalLM(sizes).eval()


def to_ours(config: ModelConfig, tensors: Mapping[str, Tensor], format: str) -> dict[str, Tensor]:
    """The state dict of `Transformer(config)` from the tensors of a file of a format."""
    stored = {name: Stored(tuple(x.shape), str(x.dtype), x.nbytes, lambda x=x: x) for name, x in tensors.items()}
    family = of(config)
    opened = Opened(Path("x"), format, config, family, format, family.weights(format, stored), lambda: None)
    state = dict(read_ours(opened))
    return state | ({"unembed.weight": state["embed.weight"]} if config.tie_embeddings else {})
