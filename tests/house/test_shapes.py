"""Each shape comment in the model room is evaluated against the tensor of its line, in models of distinct sizes."""

import pytest

from tests.house.shapecheck import Check
from tests.house.sizes import fits, size
from tests.house.source import PACKAGE
from tests.house.worlds import SIZES, WORLDS

MODEL = sorted((PACKAGE / "model").glob("*.py"))


def test_every_shape_comment_is_true() -> None:
    check = Check(MODEL)
    for world in WORLDS:
        model = world.model()
        check.trace(world.sizes, lambda world=world, model=model: world.passes(model))
    assert not check.lies
    promised = {promise for table in check.at.values() for promise in table.values()}
    assert not {f"{p.where} was never run: {p.text}" for p in promised - check.kept}
    assert len(promised) > 25


def test_the_sizes_are_distinct() -> None:
    products = [SIZES[a] * SIZES[b] for a, b in ("hc", "gc")] + [
        SIZES["c"] // 2,
        4,
        9,
    ]  # t and s of the passes with a cache
    sizes = [size for letter, size in SIZES.items() if letter != "s"] + products
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize(
    "text, value", [("h * c", 84), ("c/2", 7), ("s - t + 1", 1), ("2 * g", 4), ("1", 1), ("V", 31), ("d+f-1", 32)]
)
def test_size(text: str, value: int) -> None:
    assert size(text, SIZES) == value


@pytest.mark.parametrize(
    "shape, text, true",
    [
        ((8, 5), "(b, t)", True),
        ((8, 5), "(b, d)", False),
        ((8,), "(t,) or (b,)", True),
        ((), "(...)", True),
        ((4, 3, 10), "(..., d)", True),
        ((4, 3, 10), "(..., t, d)", False),
        ((10,), "(..., t, d)", False),
    ],
)
def test_fits(shape: tuple[int, ...], text: str, true: bool) -> None:
    assert fits(shape, text, SIZES) is true
