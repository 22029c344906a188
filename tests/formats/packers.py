"""Quantised folders of small LLaMAs, packed here from the published descriptions of each layout, in NumPy.

Nothing of Fathom is used but for NF4's codes. Every packer gives the tensors of one layer and, in float64, the matrix
that they stand for. Whole numbers come from a generator: what matters is where they are.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from fathom.quant.nf4 import DYNAMIC, NF4, NF4_VALUES, NF4Single

Array = NDArray[Any]
Packed = tuple[dict[str, Tensor], Array]

SIZES = {
    "vocab_size": 64,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}
CONFIG: dict[str, Any] = SIZES | {
    "model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "architectures": ["LlamaForCausalLM"],
}  # fmt: skip
MATRICES = {
    "self_attn.q_proj": (128, 128), "self_attn.k_proj": (64, 128), "self_attn.v_proj": (64, 128),
    "self_attn.o_proj": (128, 128), "mlp.gate_proj": (192, 128), "mlp.up_proj": (192, 128), "mlp.down_proj": (128, 192),
}  # fmt: skip


def bits_of(codes: Array, bits: int) -> Array:
    """(..., n) -> (..., n bits / 32) words: code i in bits i * bits and on, the lowest first."""
    flags = (codes[..., None].astype(np.uint64) >> np.arange(bits, dtype=np.uint64) & 1).astype(np.uint8)
    octets = np.packbits(flags.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")
    return np.ascontiguousarray(octets).view("<u4")


def ints(words: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(words).view("<i4").copy())


def gptq(out: int, width: int, chance: np.random.Generator, bits: int = 4, group: int = 64, version: str = "gptq",
         order: bool = False) -> Packed:  # fmt: skip
    codes = chance.integers(0, 1 << bits, (out, width))
    zeros = chance.integers(1, 1 << bits, (out, width // group))
    scales = chance.uniform(1e-3, 4e-3, (out, width // group)).astype(np.float16)
    groups = np.arange(width) // group
    groups = chance.permutation(groups) if order else groups
    matrix = (codes - zeros[:, groups]) * scales.astype(np.float64)[:, groups]
    kept = zeros - (version == "gptq")
    parts = {
        "qweight": ints(bits_of(codes, bits).T),
        "qzeros": ints(bits_of(np.ascontiguousarray(kept.T), bits)),
        "scales": torch.from_numpy(scales.T.copy()),
        "g_idx": torch.from_numpy(groups.astype(np.int32)),
    }
    return parts, matrix


def awq(out: int, width: int, chance: np.random.Generator, group: int = 64) -> Packed:
    codes = chance.integers(0, 16, (width, out))
    zeros = chance.integers(0, 16, (width // group, out))
    scales = chance.uniform(1e-3, 4e-3, (width // group, out)).astype(np.float16)
    matrix = (codes - zeros.repeat(group, 0)) * scales.astype(np.float64).repeat(group, 0)

    def words(x: Array) -> Tensor:
        """Of eight columns the even ones come first."""
        eights = x.reshape(len(x), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        return ints(bits_of(eights.reshape(len(x), -1), 4))

    return {"qweight": words(codes), "qzeros": words(zeros), "scales": torch.from_numpy(scales)}, matrix.T


def fp8(out: int, width: int, chance: np.random.Generator, block: tuple[int, int] | None = (128, 128)) -> Packed:
    """DeepSeek's: a scale for each block; blocks at the edges are smaller. Without a block, one scale."""
    q = torch.from_numpy(chance.normal(0, 40, (out, width))).to(torch.float8_e4m3fn)
    if block is None:
        scale = torch.tensor(chance.uniform(1e-4, 1e-3), dtype=torch.float32)
        return {
            "weight": q,
            "weight_scale": scale,
            "input_scale": torch.tensor(1.5),
        }, q.double().numpy() * scale.double().numpy()
    rows, columns = -(-out // block[0]), -(-width // block[1])
    scales = torch.from_numpy(chance.uniform(1e-4, 1e-3, (rows, columns)).astype(np.float32))
    whole = np.empty((out, width))
    for i in range(out):
        for j in range(width):
            whole[i, j] = scales[i // block[0], j // block[1]].double()
    return {"weight": q, "weight_scale_inv": scales}, q.double().numpy() * whole


def mlx(out: int, width: int, chance: np.random.Generator, bits: int = 4, group: int = 64) -> Packed:
    codes = chance.integers(0, 1 << bits, (out, width))
    scales, biases = (torch.from_numpy(chance.normal(0, 4e-3, (out, width // group))).bfloat16() for _ in range(2))
    matrix = codes * scales.double().numpy().repeat(group, 1) + biases.double().numpy().repeat(group, 1)
    words = torch.from_numpy(bits_of(codes, bits).astype("<u4"))
    return {"weight": words, "scales": scales, "biases": biases}, matrix


def nf4(out: int, width: int, chance: np.random.Generator, nested: bool = True, weight: Tensor | None = None) -> Packed:
    """As bitsandbytes saves it; tests/quant holds our codes against its own."""
    weight = torch.from_numpy(chance.normal(0, 0.05, (out, width))).float() if weight is None else weight
    scheme = NF4() if nested else NF4Single()
    packed = scheme.quantize(weight)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [out, width]}
    codes = packed["codes"].flatten()[: -(-out * width // 2)]  # ours go on to a whole block
    parts = {"weight": codes.reshape(-1, 1), "weight.quant_map": NF4_VALUES.clone()}
    if nested:
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": packed["scale_mean"].item()}
        parts |= {"weight.absmax": packed["scale_codes"], "weight.nested_absmax": packed["scale_ranges"]}
        parts["weight.nested_quant_map"] = DYNAMIC.clone()
    else:
        parts["weight.absmax"] = packed["scales"]
    parts["weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return parts, scheme.dequantize(packed, (out, width), torch.float32).double().numpy()


def int8(out: int, width: int, chance: np.random.Generator) -> Packed:
    q = chance.integers(-127, 128, (out, width))
    scales = chance.uniform(0.1, 0.2, out).astype(np.float32)
    parts = {"weight": torch.from_numpy(q.astype(np.int8)), "SCB": torch.from_numpy(scales),
             "weight_format": torch.tensor(0, dtype=torch.uint8)}  # fmt: skip
    return parts, q * scales.astype(np.float64)[:, None] / 127


def int4(out: int, width: int, chance: np.random.Generator, group: int = 64, order: bool = False) -> Packed:
    """compressed-tensors, pack-quantized; `order`: the group of each input is one of its own."""
    q = chance.integers(-8, 8, (out, width))
    scales = torch.from_numpy(chance.uniform(1e-3, 4e-3, (out, width // group))).bfloat16()
    parts = {
        "weight_packed": ints(bits_of(q + 8, 4)),
        "weight_scale": scales,
        "weight_shape": torch.tensor([out, width]),
    }
    groups = np.arange(width) // group
    groups = chance.permutation(groups) if order else groups
    parts |= {"weight_g_idx": torch.from_numpy(groups.astype(np.int32))} if order else {}
    return parts, q * scales.double().numpy()[:, groups]


GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": True},
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": False}
METHODS: dict[str, tuple[dict[str, Any], Callable[..., Packed], dict[str, Any]]] = {
    "gptq": (GPTQ, gptq, {}),
    "gptq, act-order": (GPTQ | {"desc_act": True}, gptq, {"order": True, "group": 32}),
    "gptq_v2, 3 bits": (GPTQ | {"bits": 3, "checkpoint_format": "gptq_v2"}, gptq, {"bits": 3, "version": "gptq_v2"}),
    "gptq, 8 bits": (GPTQ | {"bits": 8}, gptq, {"bits": 8}),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}, awq, {}),
    "fp8, blocks": ({"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                     "weight_block_size": [128, 128]}, fp8, {}),
    "fp8": ({"quant_method": "fp8", "activation_scheme": "static"}, fp8, {"block": None}),
    "mlx": ({"group_size": 64, "bits": 4}, mlx, {}),
    "mlx, 8 bits": ({"group_size": 32, "bits": 8, "mode": "affine"}, mlx, {"bits": 8, "group": 32}),
    "nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, nf4, {}),
    "nf4, single": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, nf4, {"nested": False}),
    "int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, int8, {}),
    "int4": ({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": GROUP},
              "ignore": ["lm_head", "re:.*gate"]}, int4, {}),
    "int4, act-order": ({"quant_method": "compressed-tensors", "format": "pack-quantized",
                         "config_groups": {"group_0": GROUP}}, int4, {"order": True}),
}  # fmt: skip


def write(folder: Path, method: str, config: dict[str, Any] | None = None) -> dict[str, Array]:
    """A folder packed in one of METHODS, and every tensor that it stands for, in float64."""
    settings, pack, arguments = METHODS[method]
    chance = np.random.default_rng(7)
    tensors: dict[str, Tensor] = {}
    floats = {"model.embed_tokens": (64, 128), "lm_head": (64, 128), "model.norm": (128,)}
    for layer in range(CONFIG["num_hidden_layers"]):
        floats |= {f"model.layers.{layer}.{name}_layernorm": (128,) for name in ("input", "post_attention")}
    for name, shape in floats.items():
        tensors[f"{name}.weight"] = torch.from_numpy(chance.normal(0.5, 0.2, shape)).half()
    expected = {name: x.double().numpy() for name, x in tensors.items()}
    for layer in range(CONFIG["num_hidden_layers"]):
        for name, (out, width) in MATRICES.items():
            parts, matrix = pack(out, width, chance, **arguments)
            whole = f"model.layers.{layer}.{name}"
            tensors |= {f"{whole}.{part}": x.contiguous() for part, x in parts.items()}
            expected[f"{whole}.weight"] = matrix
    folder.mkdir(exist_ok=True, parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    key = "quantization" if pack is mlx else "quantization_config"
    (folder / "config.json").write_text(json.dumps(CONFIG | {key: settings} | (config or {})))
    return expected
