"""What every test shares: one thread, a seed, and where real data lies."""

import os
from collections.abc import Iterator
from pathlib import Path

# One thread: `make test` runs a process on every core. Programs that tests start inherit it.
os.environ.update({f"{pool}_NUM_THREADS": "1" for pool in ("OMP", "MKL", "OPENBLAS", "RAYON")})
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # threads that wait sleep soon: a busy machine slows tests by little

import pytest
import torch
from hypothesis import settings

from fathom.native.build import FLAGS, REQUIRED, features, library

settings.register_profile("no deadline", settings.default, deadline=None)  # nothing is asserted about wall time
settings.load_profile("no deadline")
ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The processes of `make test` must agree on the names of all tests."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid} is named after an address; give its parameters ids")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """For what divides its own work among threads: with one, a wrong division is never seen."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and texts; tests that need it skip where it is not there."""
    folder = Path(os.environ.get("FATHOM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set FATHOM_DATA")
    return folder


@pytest.fixture(params=[kind for kind in FLAGS if REQUIRED[kind] <= features()])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, two_threads: None) -> str:
    """Every instruction set of this machine in turn, forced on native code."""
    monkeypatch.setenv("FATHOM_NATIVE", request.param)
    if library("step") is None:
        pytest.skip("no C++ compiler")
    return str(request.param)
