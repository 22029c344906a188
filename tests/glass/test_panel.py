"""The bytes of a panel: what it holds comes back, whatever memory the tensors share."""

import torch

from fathom.glass.panel import Panel, Series, encoded
from tests.glass.panels import decoded


def test_series_that_share_memory_travel() -> None:
    x = torch.arange(6.0)
    views = {"x": x, "turned": x.view(2, 3).T, "same": x, "whole": x.bool()}
    dims = ("a", "b")
    shown = {name: Series(one, "computed", "x", dims[: one.dim()], "x") for name, one in views.items()}
    _, tensors = decoded(encoded(Panel(shown)))
    for name, one in views.items():
        assert torch.equal(tensors[name], one.to(torch.uint8) if one.dtype == torch.bool else one)
