"""What bitsandbytes makes of weights that any machine can work out for itself: golden.json holds it.

`python -m tests.quant.golden > tests/quant/golden.json` writes it, where bitsandbytes is installed.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GOLDEN = Path(__file__).with_name("golden.json")
SHAPES = [(160, 128), (37, 101), (3, 64)]
FACTORS = (1103515245, 1664525, 22695477, 134775813)  # of well-known generators


def weights(out: int, width: int) -> Tensor:
    """Close to normal: sums of four even numbers, from whole-number arithmetic alone; no two rows equally large."""
    i = torch.arange(out * width) ** 2 % 1_000_003
    even = sum((((i * factor + 12345) % 2**31).double() for factor in FACTORS), torch.zeros(()).double()) / 2**31 - 2
    return (even.view(out, width) * torch.arange(1, out + 1).double()[:, None] / 64).float()


def digest(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def facts(out: int, width: int) -> dict[str, Any]:
    """Codes, scales, and both steps of the scales' own packing, by bitsandbytes."""
    from bitsandbytes.functional import create_dynamic_map, dequantize_4bit, quantize_4bit

    codes, state = quantize_4bit(weights(out, width).flatten(), blocksize=64, quant_type="nf4")
    mean = state.absmax.mean()
    # in fp64, because for narrower numbers its build for CPUs finds the nearest by a table that is coarser than that
    scale_codes, ranges = torch.ops.bitsandbytes.quantize_blockwise(
        (state.absmax - mean).double(), create_dynamic_map(), 256
    )
    return {
        "codes": digest(codes),
        "scales": digest(state.absmax),
        "numbers": dequantize_4bit(codes, state).flatten()[::97].tolist(),
        "scale_codes": scale_codes.tolist(),
        "scale_ranges": ranges.tolist(),
        "scale_mean": mean.item(),
    }


if __name__ == "__main__":
    json.dump({f"{out} x {width}": facts(out, width) for out, width in SHAPES}, sys.stdout)
