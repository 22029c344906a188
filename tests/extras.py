"""Packages that few tests need: where one is missing they skip, or fail where FATHOM_EXTRAS says that all are there."""

import importlib
import os
from typing import Any

import pytest


def extra(name: str, of: str) -> Any:
    """The module `name`, which the extra `of` brings."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("FATHOM_EXTRAS"):
            raise
        pytest.skip(f"{name} is not installed; make extras brings it", allow_module_level=True)
