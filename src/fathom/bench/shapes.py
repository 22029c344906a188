"""Models of known shapes with random weights, built in seconds and never twice in memory.

Speed and memory depend on shapes alone, so one matrix of each shape is drawn and packed, and the others of that shape
are copies of it in memory of their own.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from fathom.anatomy.cost import parameters
from fathom.anatomy.skeleton import skeleton
from fathom.bench.options import Shape
from fathom.errors import FathomError
from fathom.machine import free_memory, release_freed_memory
from fathom.model.config import BIASES, Layers, ModelConfig, Rotary, Scale
from fathom.model.init import STD
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import linears, pack_layer
from fathom.quant.scheme import Scheme

SHAPES: dict[Shape, ModelConfig] = {
    "gpt2": GPT2,
    "110M": replace(LLAMA2_7B, d_model=768, n_layer=12, n_head=12, d_ff=2048, context_length=2048),
    "1.1B": replace(LLAMA2_7B, d_model=2048, n_layer=22, n_head=32, n_kv_head=4, d_ff=5632, context_length=2048),
    "7B": LLAMA2_7B,
    "qwen3-1.7B": replace(
        LLAMA2_7B, vocab_size=151936, context_length=40960, d_model=2048, n_layer=28, n_head=16, n_kv_head=8,
        head_dim=128, d_ff=6144, qk_norm="on", norm_eps=1e-6, tie_embeddings=True, rope=Rotary(theta=1e6),
    ),
    "gemma2-2.6B": replace(
        LLAMA2_7B, vocab_size=256000, context_length=8192, d_model=2304, n_layer=26, n_head=8, n_kv_head=4,
        head_dim=256, d_ff=9216, norm="rms_1p", mlp="geglu", residual="sandwich", norm_eps=1e-6, tie_embeddings=True,
        layers=Layers("lg", 4096), scale=Scale(embed=48, attn=1 / 16, attn_cap=50, logit_cap=30),
    ),
    "pythia-1.4B": replace(
        LLAMA2_7B, vocab_size=50304, context_length=2048, d_model=2048, n_layer=24, n_head=16, d_ff=8192, norm="layer",
        mlp="gelu_exact", residual="parallel_norms", bias=BIASES[:4], rope=Rotary(rotated=32),
    ),
}  # fmt: skip


def random_model(
    config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu", scheme: Scheme | None = None
) -> Transformer:
    """The model with random weights, the blocks' matrices packed by `scheme`. FathomError where memory is too small."""
    require_memory(config, dtype, torch.device(device), scheme)
    model, copies = skeleton(config), Copies(dtype, torch.device(device))
    if scheme is not None:
        for name in linears(model):
            copies.pack(model, name, scheme)
    drawn = {name: copies.drawn(p) for name, p in model.named_parameters() if p.is_meta}
    model.load_state_dict(drawn, strict=False, assign=True)
    if config.tie_embeddings:
        model.unembed.weight = model.embed.weight
    release_freed_memory()
    return model.to(device).eval()


class Copies:
    """The first tensor and the first packed layer of each shape, from which the others are copied."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.tensors: dict[torch.Size, Tensor] = {}
        self.layers: dict[torch.Size, QuantLinear] = {}

    def drawn(self, like: Tensor) -> Tensor:
        """Normal numbers for a matrix, ones for a vector."""
        if like.ndim < 2:
            return torch.ones(like.shape, dtype=self.dtype, device=self.device)
        if (first := self.tensors.get(like.shape)) is not None:
            return first.clone()
        return self.tensors.setdefault(like.shape, self.normal(like.shape))

    def normal(self, shape: torch.Size) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device).normal_(std=STD)

    def pack(self, model: nn.Module, name: str, scheme: Scheme) -> None:
        """Replace an empty layer by a packed one."""
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear)
        bias = None if old.bias is None else torch.zeros(old.bias.shape, dtype=self.dtype, device=self.device)
        if (first := self.layers.get(old.weight.shape)) is not None:
            packed = {field: tensor.clone() for field, tensor in first.packed.items()}
            model.set_submodule(name, QuantLinear(scheme, first.shape, packed, bias))
            return
        pack_layer(model, name, self.normal(old.weight.shape), bias, scheme)
        layer = model.get_submodule(name)
        assert isinstance(layer, QuantLinear)
        self.layers[old.weight.shape] = layer


def nbytes(config: ModelConfig, dtype: torch.dtype, scheme: Scheme | None = None) -> int:
    """Bytes of all weights."""
    count = parameters(config)
    inside = count["attn"] + count["mlp"]
    bits = 8 * dtype.itemsize if scheme is None else scheme.bits
    return round(inside * bits / 8) + (sum(count.values()) - inside) * dtype.itemsize


def require_memory(config: ModelConfig, dtype: torch.dtype, device: torch.device, scheme: Scheme | None) -> None:
    """FathomError where the weights are larger than the free memory."""
    needed, free = nbytes(config, dtype, scheme), free_memory(device)
    if free is not None and needed > free:
        raise FathomError(
            f"the weights take {needed / 2**30:,.1f} GiB as {str(dtype)[6:]} and {free / 2**30:,.1f} GiB are free on"
            f" {device}; choose a smaller shape, a narrower dtype, or quantize"
        )
