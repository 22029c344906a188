"""Panels against torch: the matrix is read back unchanged, and its product equals that in fp64."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.native.panels import Arena, Panels, from_float, from_groups, panel_bytes, transposed
from fathom.quant.schemes import FORMATS, scheme_named
from tests.native.k_quants import K_QUANTS, in_blocks

SHAPES = [(1, 1), (5, 7), (16, 32), (33, 70), (48, 64), (100, 333)]
LONG = [(1, 256), (16, 512), (33, 256), (100, 768)]  # of rows that are whole blocks
KINDS = ["fp32", "bf16", "int8", "int4", *K_QUANTS]
CASES = [(kind, shape) for kind in KINDS for shape in (LONG if kind in K_QUANTS else SHAPES)]
COUNTS = [1, 2, 3, 7, 16, 21, 40]  # vectors: one tile, part of a tile, several tiles


def random_panels(kind: str, shape: tuple[int, int], bias: Tensor | None) -> tuple[Panels, Tensor]:
    """Panels of random weights, and the matrix they hold."""
    weight, arena = torch.randn(shape), Arena(panel_bytes(kind, shape))
    if kind in ("fp32", "bf16"):
        weight = weight.bfloat16() if kind == "bf16" else weight
        return from_float(weight, bias, arena), weight
    packed = in_blocks(weight, kind) if kind in K_QUANTS else scheme_named(kind).quantize(weight)
    return from_groups(kind, packed, shape, bias, arena), FORMATS[kind].dequantize(packed, shape, torch.float32)


def rounded_to_int8(x: Tensor) -> Tensor:
    """x with each group of 32 along a row rounded to integer multiples of its largest / 127."""
    groups = F.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
    largest = groups.abs().amax(-1, keepdim=True)
    codes = (groups * torch.where(largest > 0, 127 / largest, 0)).round()
    return (codes * (largest / 127)).flatten(-2)[..., : x.shape[-1]]


def input_of(kind: str, x: Tensor) -> Tensor:
    """x in the format that weights of this kind are multiplied in."""
    return {"fp32": x, "bf16": x.bfloat16().float()}.get(kind, rounded_to_int8(x))


@pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)
def test_matrix_is_unchanged(kind: str, shape: tuple[int, int]) -> None:
    panels, weight = random_panels(kind, shape, None)
    assert torch.equal(panels.matrix(), weight)


@pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)
def test_product(isa: str, kind: str, shape: tuple[int, int]) -> None:
    bias = torch.randn(shape[0])
    panels, weight = random_panels(kind, shape, bias)
    for count in COUNTS:
        x = torch.randn(count, shape[1])
        expected = F.linear(input_of(kind, x).double(), weight.double(), bias.double())
        assert (panels.product(x) - expected).abs().max() < 1e-5 * shape[1] ** 0.5 + 1e-5, count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("out", [16, 40, 150])  # one panel, some side by side, several times as many
def test_a_vector_has_the_same_product_whatever_is_beside_it(isa: str, kind: str, out: int) -> None:
    """To the bit: every sum is made in one order."""
    panels, _ = random_panels(kind, (out, 256 if kind in K_QUANTS else 333), torch.randn(out))
    for count in COUNTS:
        x = torch.randn(count, panels.shape[1])
        alone = torch.cat([panels.product(row) for row in x.split(1)])
        assert torch.equal(panels.product(x), alone), count


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_in_bf16_out(isa: str, kind: str) -> None:
    shape = (33, 256) if kind in K_QUANTS else (33, 70)
    panels, _ = random_panels(kind, shape, None)
    x = torch.randn(2, 3, shape[1]).bfloat16()
    y = panels.product(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, panels.product(x.float()).bfloat16())


def test_the_largest_codes_do_not_overflow(isa: str) -> None:
    """127 * 127 everywhere, and -128, which quantising never yields but a file may hold."""
    for code, x in ((127, 1.0), (-128, 1.0), (-128, -1.0)):
        codes = torch.full((16, 2, 32), code, dtype=torch.int8)
        packed = {"codes": codes, "scales": torch.ones(16, 2, dtype=torch.float16)}
        panels = from_groups("int8", packed, (16, 64), None, Arena(panel_bytes("int8", (16, 64))))
        assert torch.allclose(panels.product(torch.full((3, 64), x)), torch.full((3, 16), 64.0 * code * x))
    codes = torch.tensor([0x00, 0xFF], dtype=torch.uint8).repeat(16, 1, 8)  # the 16 bytes of a group
    packed = {"codes": codes, "scales": torch.ones(16, 1, dtype=torch.float16)}
    panels = from_groups("int4", packed, (16, 32), None, Arena(panel_bytes("int4", (16, 32))))
    assert torch.allclose(panels.product(torch.ones(1, 32)), torch.full((1, 16), 16.0 * -8 + 16.0 * 7))


@pytest.mark.parametrize("kind", K_QUANTS)
@pytest.mark.parametrize("shape", [(16, 256), (40, 1024)], ids=str)
def test_any_bytes_of_a_k_quant(isa: str, kind: str, shape: tuple[int, int]) -> None:
    """Every code and every step, the largest and the smallest of all too, which no packing may have made."""
    empty = FORMATS[kind].empty(shape, "cpu")
    packed = {name: torch.randint(-128, 128, x.shape).to(torch.int8).view(x.dtype) for name, x in empty.items()
              if x.dtype != torch.float16}  # fmt: skip
    if kind != "q6_k":
        packed["steps"] &= 63
    packed["scales"] = torch.randn(empty["scales"].shape).half()
    for name in ("codes", "upper"):
        if name in packed:
            packed[name][0] = 255
            packed[name][1] = 0
    packed["steps"][0] = 63 if kind != "q6_k" else -128
    panels = from_groups(kind, packed, shape, None, Arena(panel_bytes(kind, shape)))
    weight = FORMATS[kind].dequantize(packed, shape, torch.float32)
    assert torch.equal(panels.matrix(), weight)
    x = torch.cat((torch.randn(9, shape[1]), torch.ones(1, shape[1]), -torch.ones(1, shape[1])))
    expected = F.linear(rounded_to_int8(x).double(), weight.double())
    assert ((panels.product(x) - expected).abs().amax(0) <= 2e-6 * weight.abs().sum(1)).all()


def test_panels_of_k_quants_are_as_small_as_their_format() -> None:
    for kind in K_QUANTS:
        panels, _ = random_panels(kind, (48, 512), None)
        assert panels.nbytes == panel_bytes(kind, (48, 512)) == 48 * 512 * FORMATS[kind].bits / 8


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_in_its_row(isa: str, kind: str) -> None:
    panels, _ = random_panels(kind, (16, 256), None)
    x = torch.randn(3, 256)
    x[1, 5] = float("nan")
    y = panels.product(x)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_subnormal_and_large_scales(isa: str) -> None:
    """fp16 scales over their whole range."""
    scales = torch.tensor([6e-8, 3e-5, 6.1e-5, 1.0, 65504.0, -2.0, 0.0, 1e-3]).half().repeat(2)[:, None]
    packed = {"codes": torch.ones(16, 1, 32, dtype=torch.int8), "scales": scales}
    panels = from_groups("int8", packed, (16, 32), None, Arena(panel_bytes("int8", (16, 32))))
    assert torch.allclose(panels.product(torch.ones(1, 32))[0], 32 * scales[:, 0].float(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_codes_may_lie_apart(isa: str, kind: str) -> None:
    """As in a file, whose blocks have a scale before each group of codes."""
    for shape in SHAPES:
        packed = scheme_named(kind).quantize(torch.randn(shape))
        codes = packed["codes"]
        blocks = torch.full((*codes.shape[:2], codes.shape[2] + 2), 7, dtype=codes.dtype)
        blocks[..., 2:] = codes
        whole, apart = (
            from_groups(kind, packed | {"codes": x}, shape, None, Arena(panel_bytes(kind, shape)))
            for x in (codes, blocks[..., 2:])
        )
        assert torch.equal(whole.lines, apart.lines)


def test_rows_without_native_code_are_laid_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (torch.randn(33, 5).half(), torch.randint(-99, 99, (20, 3, 8), dtype=torch.int8)):
        native = transposed(rows, Arena(1 << 12))
        monkeypatch.setenv("FATHOM_NATIVE", "off")
        assert torch.equal(transposed(rows, Arena(1 << 12)), native)
        monkeypatch.delenv("FATHOM_NATIVE")


def test_sums_of_the_largest_codes_fit(isa: str) -> None:
    """Products of 4-bit codes may be added up in 16 bits: a group of the largest is the most that they hold."""
    codes = torch.tensor([0x00, 0xFF], dtype=torch.uint8).repeat(8)[:, None, None].expand(16, 8, 16).contiguous()
    packed = {"codes": codes, "scales": torch.ones(16, 8).half()}
    panels = from_groups("int4", packed, (16, 256), None, Arena(panel_bytes("int4", (16, 256))))
    x = torch.tensor([1.0, -1.0])[:, None].expand(2, 256)
    expected = F.linear(x, FORMATS["int4"].dequantize(packed, (16, 256), torch.float32))
    assert torch.allclose(panels.product(x), expected, rtol=1e-6)


LARGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not LARGE.exists() or "[never]" in LARGE.read_text(), reason="a system without large pages")
def test_weights_lie_on_large_pages() -> None:
    """As the kernel counts them for the process, which has no other memory that asks for them."""

    def large() -> int:
        found = re.search(r"^AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.M)
        assert found is not None
        return int(found[1]) << 10

    before, arena = large(), Arena(64 << 20)
    held = arena.take((64 << 20,), torch.uint8).fill_(1)
    moving = arena.filled()
    assert moving is not None
    moving.join()
    assert held.sum() == 64 << 20
    assert large() - before >= 32 << 20
