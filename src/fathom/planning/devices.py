"""Devices by name: what their makers say of them. Does not import torch.

Products in 16 bits are dense: half of what the documents print "with sparsity". A link is one way, half of the
"bidirectional" figure; memory is in GB of 1e9 bytes, as sold. Within a machine each device has `link`; machines of 8
have `network` between them, all adapters together, as a ring crosses it once for each machine. Cards that are sold
without a machine have no network of their own: 12.5 and 1.25 GB/s are assumed, Ethernet of 100 and of 10 Gbit/s.
"""

import re
from dataclasses import dataclass

from fathom.errors import FathomError, near

PER_MACHINE = 8  # devices
SET_ASIDE = 1e9  # bytes of a device for its driver's context and libraries


@dataclass(frozen=True)
class Device:
    """One kind. tflops: of products in 16 bits, dense, a second; gb_s, link, network: GB a second."""

    name: str
    title: str
    tflops: float
    gb: float
    gb_s: float
    link: float
    network: float
    source: str

    @property
    def usable(self) -> int:
        """Bytes of memory that a process gets."""
        return int(self.gb * 1e9 - SET_ASIDE)


@dataclass(frozen=True)
class Devices:
    """Some of one kind. What a step sends goes over the slowest way between them."""

    n: int
    kind: Device

    @property
    def way(self) -> tuple[str, float]:
        """Its name, and GB a second in one direction."""
        return ("network", self.kind.network) if self.n > PER_MACHINE else ("link", self.kind.link)

    def __str__(self) -> str:
        return f"{self.n} × {self.kind.title}"


NVIDIA = {  # name: title, TFLOP/s, GB, GB/s, link GB/s, network GB/s, its datasheet or other document
    "A100-40GB": ("NVIDIA A100 SXM 40 GB", 312, 40, 1555, 300, 200, "A100 and DGX A100 datasheets"),
    "A100-80GB": ("NVIDIA A100 SXM 80 GB", 312, 80, 2039, 300, 200, "A100 and DGX A100 datasheets"),
    "H100-80GB": ("NVIDIA H100 SXM 80 GB", 989.4, 80, 3350, 450, 400, "H100 and DGX H100 datasheets"),
    "H200-141GB": ("NVIDIA H200 SXM 141 GB", 989.4, 141, 4800, 450, 400, "H200 and DGX H200 datasheets"),
    "B200-180GB": ("NVIDIA B200 SXM 180 GB", 2250, 180, 8000, 900, 400, "DGX B200 datasheet"),
    "L4-24GB": ("NVIDIA L4", 121, 24, 300, 32, 12.5, "L4 datasheet"),
    "L40S-48GB": ("NVIDIA L40S", 362, 48, 864, 32, 12.5, "L40S datasheet"),
    "T4-16GB": ("NVIDIA T4, in fp16", 65, 16, 320, 16, 12.5, "T4 datasheet"),
    "RTX3090-24GB": ("NVIDIA RTX 3090", 71, 24, 936, 32, 1.25, "Ampere GA102 architecture whitepaper"),
    "RTX4090-24GB": ("NVIDIA RTX 4090", 165.2, 24, 1008, 32, 1.25, "Ada GPU architecture whitepaper"),
    "RTX5090-32GB": ("NVIDIA RTX 5090", 209.5, 32, 1792, 64, 1.25, "RTX Blackwell GPU architecture whitepaper"),
}  # fmt: skip
DEVICES = {name: Device(name, *figures[:6], f"NVIDIA, {figures[6]}") for name, figures in NVIDIA.items()}


def parse(text: str) -> Devices:
    """`8xH100-80GB`, `H100` or `4 x rtx 4090` as devices. FathomError with near matches for what is not known."""
    found = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?(\S.*?)\s*", text, re.I)
    count, name = (found[1], found[2]) if found else (None, text)
    known = ", ".join(DEVICES)
    if count is not None and int(count) < 1:
        raise FathomError(f"--devices is {text!r}; expected at least one, such as 1x{name}")
    fitting = [
        device for device in DEVICES.values() if plain(name) in (plain(device.name), plain(device.name.split("-")[0]))
    ]
    if len(fitting) == 1:
        return Devices(int(count or 1), fitting[0])
    if fitting:
        several = ", ".join(device.name for device in fitting)
        raise FathomError(
            f"--devices is {text!r}, which may be {several}; give one of them, such as 8x{fitting[0].name}"
        )
    names = [*DEVICES, *dict.fromkeys(each.split("-")[0] for each in DEVICES)]
    raise FathomError(f"--devices is {text!r}{near(name.upper(), names, then='known devices')} are {known}")


def plain(name: str) -> str:
    """A name in the letters by which names are compared."""
    return re.sub(r"[^a-z0-9]|gb|nvidia|geforce", "", name.lower())
