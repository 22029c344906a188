"""Devices by the names that people type, and what is wrong with others in one line."""

import pytest

from fathom.errors import FathomError
from fathom.planning.devices import DEVICES, parse


@pytest.mark.parametrize(
    ("text", "n", "name"),
    [
        ("8xH100-80GB", 8, "H100-80GB"), ("h100", 1, "H100-80GB"), ("4 x rtx 4090", 4, "RTX4090-24GB"),
        ("2×L4", 2, "L4-24GB"), ("16*a100-40gb", 16, "A100-40GB"), ("NVIDIA T4", 1, "T4-16GB"),
        ("L40S", 1, "L40S-48GB"),
    ],
)  # fmt: skip
def test_names(text: str, n: int, name: str) -> None:
    found = parse(text)
    assert (found.n, found.kind.name) == (n, name)


@pytest.mark.parametrize("name", DEVICES)
def test_every_name_means_its_device(name: str) -> None:
    assert parse(f"3x{name}").kind is DEVICES[name] and parse(name.lower()).kind is DEVICES[name]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8xH10", "did you mean"), ("8xA100", "may be A100-40GB, A100-80GB"), ("0xH100", "expected at least one"),
        ("V100", "Known devices are A100-40GB"), ("xH100", "nown devices"), ("", "nown devices"),
        ("-1xH100", "nown devices"), ("8", "nown devices"),
    ],
)  # fmt: skip
def test_wrong_names_end_in_one_line(text: str, says: str) -> None:
    with pytest.raises(FathomError, match=says) as caught:
        parse(text)
    assert "\n" not in str(caught.value) and repr(text) in str(caught.value)


def test_products_are_dense_and_links_one_way() -> None:
    """The documents' figures: 1,979 TFLOP/s "with sparsity", NVLink 900 GB/s "bidirectional"."""
    h100 = DEVICES["H100-80GB"]
    assert h100.tflops == pytest.approx(1979 / 2, rel=1e-3) and h100.link == 900 / 2
    assert DEVICES["A100-80GB"].tflops == 624 / 2 and DEVICES["A100-80GB"].link == 600 / 2
    assert parse("8xH100").way == ("link", 450) and parse("16xH100").way == ("network", 8 * 50)
    assert all(device.source.startswith("NVIDIA, ") for device in DEVICES.values())
