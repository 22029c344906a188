"""A model of 16-bit numbers is looked at in fp32, where identities hold; without the memory, as it is stored."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fathom
from fathom.formats.export import write_model
from fathom.glass import subject
from fathom.glass.panels import PANELS, filled
from fathom.glass.passes import first_pass
from fathom.glass.subject import open_subject
from tests.architectures import LLAMA, model_of


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    model = model_of(replace(LLAMA, d_model=24, tie_embeddings=True), std=0.2).bfloat16()
    return Path(write_model(model, None, "hf", tmp_path / "half").path)


def test_in_fp32(stored: Path) -> None:
    run = first_pass(open_subject(stored), "5 17 3 9 20 1 2 8")
    assert run.model.embed.weight.dtype == torch.float32 and "dtype='fp32'" in run.preamble
    model, _ = fathom.load(stored, dtype="fp32")
    assert torch.equal(model(run.ids), run.model(run.ids))
    for id in PANELS:
        panel, _ = filled(id, run)
        assert panel.ok, (id, [check for check in panel.checks if not check.ok])


def test_as_stored_without_the_memory(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "free_memory", lambda device: 1000)
    opened = open_subject(stored)
    assert opened.model.embed.weight.dtype == torch.bfloat16 and "dtype" not in opened.loading
