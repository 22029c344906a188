"""Layers packed by the libraries that define each layout, with what those libraries unpack them to.

`python -m tests.formats.packed_golden` writes tests/formats/packed/*.safetensors, each by the library that its metadata
names, where that is installed (bitsandbytes, auto-gptq, autoawq, compressed-tensors, mlx[cpu]). A file has the tensors
of one layer under `layer.`, the library's own numbers as `expected`, and its `quantization_config` in the metadata.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.quant.golden import weights

FOLDER = Path(__file__).with_name("packed")
OUT, WIDTH = 32, 128
Made = tuple[dict[str, Tensor], Tensor, dict[str, Any]]  # parts, expected numbers, settings


def bnb(kind: str, block: int, nested: bool) -> Made:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = weights(OUT, WIDTH)
    codes, state = quantize_4bit(weight, blocksize=block, quant_type=kind, compress_statistics=nested)
    parts = {"weight": codes} | {f"weight.{name}": x for name, x in state.as_dict(packed=True).items()}
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind,
                "bnb_4bit_use_double_quant": nested, "llm_int8_skip_modules": ["lm_head"]}  # fmt: skip
    return parts, dequantize_4bit(codes, state), settings


def bnb_int8() -> Made:
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    codes, scales, _ = int8_vectorwise_quant(weights(OUT, WIDTH).half())
    parts = {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 6.0}
    return parts, int8_vectorwise_dequant(codes, scales), settings


def file_of(package: str, path: str) -> Any:
    """A module of a package, without the package's own imports."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(package)
    spec = importlib.util.spec_from_file_location(path, Path(found.submodule_search_locations[0], path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def whole_numbers(bits: int, group: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero of each group of a row, (out, groups)."""
    x = weights(OUT, WIDTH).unflatten(1, (-1, group))
    most = 2**bits - 1
    if symmetric:
        return (x.abs().amax(-1) * 2 / most).half().float(), torch.full(x.shape[:2], (most + 1) / 2)
    low, high = x.amin(-1).clamp(max=0), x.amax(-1).clamp(min=0)
    scale = ((high - low) / most).half().float()
    return scale, (-low / scale).round().clamp(1, most)


def gptq(bits: int, group: int, symmetric: bool, order: bool) -> Made:
    library = file_of("auto_gptq", "nn_modules/qlinear/qlinear_cuda.py")
    linear = nn.Linear(WIDTH, OUT, bias=False).half()
    linear.weight.data = weights(OUT, WIDTH).half()
    layer = library.QuantLinear(bits, group, WIDTH, OUT, False)
    index = torch.arange(WIDTH) // group
    if order:
        index = index[torch.randperm(WIDTH, generator=torch.Generator().manual_seed(1))]
    scale, zero = whole_numbers(bits, group, symmetric)
    layer.pack(linear, scale, zero, index.int())
    with torch.no_grad():
        expected = layer.float()(torch.eye(WIDTH)).T
    layer.scales = layer.scales.half()
    parts = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales", "g_idx")}
    settings = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": symmetric,
                "static_groups": False, "true_sequential": True, "damp_percent": 0.1}  # fmt: skip
    return parts, expected, settings


def awq() -> Made:
    found = importlib.util.find_spec("awq")
    if found is None or not found.submodule_search_locations:
        raise ImportError("awq")
    package = type(sys)("awq")  # its own imports need the libraries of a GPU
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["awq"] = package
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    linear = nn.Linear(WIDTH, OUT, bias=False).half()
    linear.weight.data = weights(OUT, WIDTH).half()
    scale, zero = whole_numbers(4, 64, False)
    layer = WQLinear_GEMM.from_linear(linear, 4, 64, scales=scale.T.contiguous(), zeros=zero.T.contiguous())
    expected = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), 4, 64).T
    parts = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
    settings = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True,
                "modules_to_not_convert": None}  # fmt: skip
    return parts, expected, settings


def compressed(format: str, **arguments: Any) -> Made:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    arguments = {"dynamic": False, "actorder": None} | arguments
    args = QuantizationArgs(**arguments)
    weight = weights(OUT, WIDTH).bfloat16()
    if args.strategy == "group":
        parts = weight.unflatten(1, (-1, args.group_size))
        low, high = parts.amin(-1), parts.amax(-1)
    elif args.strategy == "block":
        height, width = args.block_structure
        parts = weight.unflatten(1, (-1, width)).unflatten(0, (-1, height))
        low, high = parts.amin((1, 3)), parts.amax((1, 3))
    elif args.strategy == "channel":
        low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
    else:
        low, high = weight.amin(), weight.amax()
    scale, zero = calculate_qparams(low, high, args)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    library = BaseCompressor.get_value_from_registry(format)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    packed = library.compress(state, scheme)
    expected = library.decompress(packed, scheme)["weight"]
    packed = {
        name: x for name, x in packed.items() if x is not None and (name != "weight_zero_point" or not args.symmetric)
    }
    settings = {"quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments}},
                "ignore": ["lm_head"], "kv_cache_scheme": None, "global_compression_ratio": None}  # fmt: skip
    return packed, expected, settings


def mlx(bits: int, group: int) -> Made:
    import mlx.core as mx
    import numpy as np

    weight = mx.array(weights(OUT, WIDTH).numpy())
    words, scales, biases = mx.quantize(weight, group_size=group, bits=bits)
    expected = mx.dequantize(words, scales, biases, group_size=group, bits=bits)
    parts = {
        name: torch.from_numpy(np.array(x)) for name, x in zip(("weight", "scales", "biases"), (words, scales, biases))
    }
    return parts, torch.from_numpy(np.array(expected)), {"group_size": group, "bits": bits, "mode": "affine"}


INT = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
FLOAT = {"num_bits": 8, "type": "float", "symmetric": True}
CASES: dict[str, tuple[str, Callable[[], Made]]] = {
    "bnb-nf4": ("bitsandbytes", lambda: bnb("nf4", 64, False)),
    "bnb-nf4-double": ("bitsandbytes", lambda: bnb("nf4", 64, True)),
    "bnb-nf4-128": ("bitsandbytes", lambda: bnb("nf4", 128, True)),
    "bnb-fp4": ("bitsandbytes", lambda: bnb("fp4", 64, False)),
    "bnb-int8": ("bitsandbytes", bnb_int8),
    "gptq-4": ("auto-gptq", lambda: gptq(4, 64, True, False)),
    "gptq-4-order": ("auto-gptq", lambda: gptq(4, 32, False, True)),
    "gptq-8": ("auto-gptq", lambda: gptq(8, 128, False, False)),
    "gptq-3": ("auto-gptq", lambda: gptq(3, 32, True, False)),
    "gptq-2": ("auto-gptq", lambda: gptq(2, 32, False, False)),
    "awq": ("autoawq", awq),
    "ct-int4": ("compressed-tensors", lambda: compressed("pack-quantized", **INT)),
    "ct-int4-zero": ("compressed-tensors", lambda: compressed("pack-quantized", **INT | {"symmetric": False})),
    "ct-int8-packed": ("compressed-tensors", lambda: compressed("pack-quantized", **INT | {"num_bits": 8})),
    "ct-int8": ("compressed-tensors", lambda: compressed(
        "int-quantized", num_bits=8, type="int", symmetric=True, strategy="channel")),
    "ct-int8-zero": ("compressed-tensors", lambda: compressed(
        "int-quantized", num_bits=8, type="int", symmetric=False, strategy="channel")),
    "ct-fp8": ("compressed-tensors", lambda: compressed("float-quantized", **FLOAT, strategy="tensor")),
    "ct-fp8-rows": ("compressed-tensors", lambda: compressed("float-quantized", **FLOAT, strategy="channel")),
    "ct-fp8-blocks": ("compressed-tensors", lambda: compressed(
        "float-quantized", **FLOAT, strategy="block", block_structure=[16, 64])),
    **{f"mlx-{bits}": ("mlx", lambda bits=bits: mlx(bits, 64)) for bits in (2, 3, 4, 5, 6, 8)},
    "mlx-4-32": ("mlx", lambda: mlx(4, 32)),
}  # fmt: skip


def main() -> None:
    """Write every file whose library is here; say which are not."""
    FOLDER.mkdir(exist_ok=True)
    for name, (library, make) in CASES.items():
        try:
            parts, expected, settings = make()
            source = f"{library} {version(library)}"
        except (ImportError, PackageNotFoundError) as problem:
            print(f"{name}: left as it is ({problem})")
            continue
        tensors = {f"layer.{part}": x.detach().contiguous() for part, x in parts.items()}
        tensors["expected"] = expected.detach().contiguous()
        save_file(tensors, FOLDER / f"{name}.safetensors", {"source": source, "settings": json.dumps(settings)})


if __name__ == "__main__":
    main()
