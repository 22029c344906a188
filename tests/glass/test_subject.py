"""A model of 16-bit numbers is looked at in fp32, where identities hold; without the memory, as it is stored."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fathom
from fathom.anatomy.cost import n_parameters
from fathom.formats.export import write_model
from fathom.glass import subject
from fathom.glass.panels import PANELS, filled
from fathom.glass.passes import first_pass
from fathom.glass.subject import open_subject, sizes_of
from fathom.quant.linear import QuantLinear
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


def test_a_tied_end_that_keeps_its_packing_is_counted_once(tmp_path: Path) -> None:
    config = replace(LLAMA, n_kv_head=2, d_model=32, n_head=4, d_ff=64, tie_embeddings=True)
    write_model(model_of(config), None, "gguf", tmp_path / "m.gguf", quantize="q8_0")
    subject = open_subject(tmp_path / "m.gguf", quantize="keep")
    assert isinstance(subject.model.get_submodule("unembed"), QuantLinear)
    assert sum(sizes_of(subject.model).values()) == n_parameters(subject.config)
    assert [part["name"] for part in subject.map()].count("unembed") == 1
    run = first_pass(subject, "5 17 3 5")
    assert filled("cost", run)[0].ok and filled("lora", run)[0].ok
