"""P9: wires and fan-in, exact ratios, C10 and its fault, on every architecture."""

import pytest
import torch

from fathom.anatomy.cost import cache_bytes
from fathom.glass.groups import Options, kept, panel
from fathom.glass.passes import first_pass
from fathom.glass.subject import open_subject
from fathom.model.config import ModelConfig
from tests.architectures import ARCHITECTURES, LLAMA
from tests.glass.panels import a_pass, differs_in_python

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


@every_architecture
@torch.no_grad()
def test_every_architecture(config: ModelConfig) -> None:
    run = a_pass(config)
    shown = panel(run, Options())
    if not config.n_layer:
        assert "bigram has no attention" in (shown.absent or "")
        return
    config = config.resolved()
    assert shown.ok and not differs_in_python(run, shown)
    share = config.n_head // config.n_kv_head
    assert shown.series["group"].values.tolist() == [head // share for head in range(config.n_head)]
    assert shown.series["fan_in"].values.tolist() == [share] * config.n_kv_head
    sizes, every = shown.series["bytes"].values.tolist(), shown.facts["choices"]
    assert [size * config.n_head for size in sizes] == [sizes[-1] * g for g in every]
    assert sizes[every.index(config.n_kv_head)] == cache_bytes(config, 1, config.context_length)
    assert all(seconds > 0 for seconds in shown.facts["seconds"]) and len(shown.facts["seconds"]) == len(every)
    assert shown.series["bytes"].kind == shown.series["parameters"].kind == "computed"
    assert shown.series["pattern"].kind == "measured"


@torch.no_grad()
def test_repeating_in_the_wrong_order_is_red() -> None:
    run = a_pass(LLAMA)
    wrong = panel(run, Options(fault="tile"))
    assert [check.id for check in wrong.checks if not check.ok] == ["C10"]
    assert wrong.series["group"].values.tolist() == [0, 1, 0, 1, 0, 1] and not differs_in_python(run, wrong)
    assert Options(fault="tile") in kept(run) and Options(layer=2) in kept(run)
    assert Options(fault="tile") not in kept(a_pass(ARCHITECTURES["multi-query"]))
    assert "no order of repeating" in panel(a_pass(ARCHITECTURES["gpt"]), Options()).facts["note"]


@torch.no_grad()
def test_parameters_of_packed_matrices_are_those_that_they_stand_for(shared_data) -> None:
    path = shared_data / "stories260K" / "stories260K.bin"
    assert panel(first_pass(open_subject(path, quantize="int8"), "Once upon"), Options()).ok
    assert panel(first_pass(open_subject(path), "Once upon"), Options(layer=-1)).facts["layer"] == 4


@torch.no_grad()
def test_a_forgotten_matrix_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.glass.groups.parameters_with", lambda config, g: g)
    assert [check.id for check in panel(a_pass(LLAMA), Options()).checks if not check.ok] == ["C14"]
    monkeypatch.undo()
    monkeypatch.setattr("fathom.glass.groups.bytes_with", lambda config, g, length, itemsize: 7 + g)
    assert not panel(a_pass(LLAMA), Options()).ok
