"""Heatmaps draw the numbers that were recorded: masked cells hatched, not as 0."""

import numpy as np
import pytest
import torch

from fathom.errors import FathomError
from fathom.inspect.look import look
from fathom.report.heatmaps import heatmaps
from tests.architectures import ARCHITECTURES, ids_for, model_of

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


@every_architecture
def test_everything_recorded_can_be_drawn(config) -> None:
    model, ids = model_of(config).eval(), ids_for(config, 2)
    with torch.no_grad(), look(model, "**") as seen:
        model(ids)
    for name in seen:
        images = [image for ax in seen.plot(name, row=1).axes for image in ax.get_images()]
        drawn = np.concatenate([np.ma.filled(image.get_array(), np.nan).ravel() for image in images])
        drawn = np.sort(drawn[np.isfinite(drawn)])
        x = seen[name].float() if name.endswith("tokens") else seen[name][1].float()
        if name.endswith((".scores", ".pattern")):
            x = x[:, torch.ones(x.shape[1:], dtype=torch.bool).tril()]
        expected = np.sort(x[x.isfinite()].flatten().numpy())
        assert np.array_equal(drawn, expected), name


def test_a_figure_is_a_png_in_a_notebook() -> None:
    figure = heatmaps(np.array([[[0.0, np.nan], [0.5, 1.0]]]), ["head 0"], ["a", "b"], ["a", "b"], "pattern")
    assert figure._repr_png_().startswith(b"\x89PNG")
    (image,) = figure.axes[0].get_images()
    assert np.ma.getmaskarray(image.get_array()).tolist() == [[False, True], [False, False]]
    assert image.get_clim() == (0, 1) and heatmaps(np.array([[[-1.0, 3.0]]]), [""]).axes[0].get_images()[
        0
    ].get_clim() == (-3, 3)


def test_what_was_not_recorded_is_said() -> None:
    config = ARCHITECTURES["llama"]
    model, ids = model_of(config).eval(), ids_for(config, 2)
    with torch.no_grad(), look(model, "blocks.0.attn.pattern") as seen:
        model(ids)
    with pytest.raises(FathomError, match="was not recorded"):
        seen.plot("blocks.0.attn.z")
    with pytest.raises(FathomError, match="row is 2, but 2 were recorded"):
        seen.plot("blocks.0.attn.pattern", row=2)
