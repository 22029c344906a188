"""Packed layers of random shapes and settings, against their descriptions in float64 (packers.py)."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fathom.formats.opened import DTYPES, Stored
from fathom.formats.quantized import settings_of, unpacked
from fathom.formats.safetensors_file import open_safetensors
from fathom.quant.linear import checked
from fathom.quant.schemes import scheme_named
from tests.formats import packers


def opened(path: Path, parts: dict[str, torch.Tensor], settings: dict[str, Any]) -> Stored:
    save_file({f"layer.{name}": x.contiguous() for name, x in parts.items()}, path)
    known = settings_of(
        {"quantization_config" if "quant_method" in settings else "quantization": settings}, "config.json"
    )
    assert known is not None
    (stored,) = unpacked(known, open_safetensors(path, DTYPES), str(path)).values()
    return stored


def layer(kind: str, chance: random.Random) -> tuple[packers.Packed, dict[str, Any]]:
    """A layer of this kind, and settings that describe it."""
    numbers, group = np.random.default_rng(chance.randrange(1 << 30)), chance.choice((32, 64, 128))
    out, width, order = 32 * chance.randint(1, 6), group * chance.randint(1, 4), chance.random() < 0.5
    if kind == "gptq":
        bits = chance.choice((2, 3, 4, 8))
        version = "gptq_v2" if bits == 3 else chance.choice(("gptq", "gptq_v2"))
        parts, matrix = packers.gptq(out, width, numbers, bits, group, version, order)
        if not order and chance.random() < 0.3:
            del parts["g_idx"]
        return (parts, matrix), packers.GPTQ | {"bits": bits, "group_size": group, "checkpoint_format": version}
    if kind == "awq":
        return packers.awq(out, width, numbers, group), packers.METHODS["awq"][0] | {"group_size": group}
    if kind == "mlx":
        bits = chance.choice((2, 3, 4, 5, 6, 8))
        return packers.mlx(out, width, numbers, bits, group), {"bits": bits, "group_size": group}
    if kind == "int4":
        return packers.int4(out, width, numbers, group, order), packers.METHODS["int4"][0]
    out, width = chance.randint(1, 300), chance.randint(1, 300)
    if kind == "int8":
        return packers.int8(out, width, numbers), packers.METHODS["int8"][0]
    if kind == "nf4":
        return packers.nf4(out, width, numbers, order), packers.METHODS["nf4"][0]
    block = chance.choice(((128, 128), (64, 32), (1, 16), (7, 5)))
    settings = {"quant_method": "fp8", "weight_block_size": list(block)}
    if block == (128, 128) and order:
        del settings["weight_block_size"]  # the size that everybody uses
    return packers.fp8(out, width, numbers, block), settings


@pytest.mark.parametrize("kind", ["gptq", "awq", "mlx", "int4", "int8", "nf4", "fp8"])
def test_numbers_and_rows(tmp_path: Path, kind: str) -> None:
    chance = random.Random(kind)
    for case in range(12):
        (parts, matrix), settings = layer(kind, chance)
        stored = opened(tmp_path / f"{case}.safetensors", parts, settings)
        whole = stored.read()
        assert np.abs(whole.double().numpy() - matrix).max() <= 2**-22 * np.abs(matrix).max(), (settings, stored.shape)
        start, stop = sorted(chance.randint(0, len(matrix)) for _ in range(2))
        assert torch.equal(stored.rows(start, stop), whole[start:stop])


def test_nf4_of_any_shape_is_kept(tmp_path: Path) -> None:
    """Codes of bitsandbytes end with the last number, ours with its block; rows may begin within a block."""
    chance = random.Random(0)
    for case in range(20):
        (parts, _), settings = layer("nf4", chance)
        if case % 3 == 0 and parts["weight"].numel() % 2 == 0:
            parts["weight"] = parts["weight"].flatten().view(torch.bfloat16)[:, None]  # bnb_4bit_quant_storage
        stored = opened(tmp_path / f"{case}.safetensors", parts, settings)
        whole, shape = stored.read(), (stored.shape[0], stored.shape[1])
        for name in ("nf4", "nf4-single"):
            scheme, packed = scheme_named(name), stored.packed[name]()
            if packed is None:
                assert name == "nf4" and "weight.nested_absmax" not in parts
                continue
            assert torch.equal(scheme.dequantize(checked(scheme, shape, packed), shape, torch.float32), whole)
            start = chance.randrange(shape[0])
            rows = scheme.rows(packed, shape[1], torch.arange(start, shape[0]))
            if rows is not None:
                part = (shape[0] - start, shape[1])
                assert torch.equal(scheme.dequantize(rows, part, torch.float32), whole[start:])
