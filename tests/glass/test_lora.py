"""P11: the full rank of a change is the fine-tune, energy is that of the SVD, an adapter begins without a gradient for
A, and a change that is scaled by alpha alone is red."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fathom
from fathom.adapters import lora, peft
from fathom.adapters.merge import merged_copy
from fathom.adapters.options import LoraOptions
from fathom.adapters.svd import SVD, energy_rank, singular_values
from fathom.errors import FathomError
from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.glass import lora as module
from fathom.glass.lora import Options, kept, panel
from fathom.glass.panels import payload
from fathom.glass.passes import Pass
from fathom.glass.subject import Subject, open_subject
from fathom.inspect.identities import TOLERANCES
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES, LLAMA, ids_for, model_of
from tests.glass.panels import a_pass, decoded, differs_in_python

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def written(folder, model: Transformer):
    folder.mkdir()
    write_config(folder / CONFIG, {"model": dataclasses.asdict(model.config)})
    write_weights(model, folder / WEIGHTS)
    return folder


@pytest.fixture
def three(tmp_path):
    """The passes of one text through a model on disk, its full fine-tune and an adapter of it."""
    base = model_of(LLAMA, std=0.2)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.03 * torch.randn(parameter.shape)
    first = written(tmp_path / "base", base)
    adapted = copy.deepcopy(base)
    lora.add(adapted, LoraOptions(rank=2, alpha=6.0, targets=("attn.q", "mlp.down")))
    with torch.no_grad():
        for parameter in lora.parameters(adapted):
            parameter.normal_(std=0.2)
    peft.save(adapted, tmp_path / "adapter", base=str(first))
    ids = ids_for(LLAMA, 1, 12)
    subjects = (
        open_subject(first),
        open_subject(written(tmp_path / "tuned", tuned)),
        open_subject(first, adapters=[tmp_path / "adapter"]),
    )
    return tuple(Pass(subject, ids) for subject in subjects)


def beside(one: Pass, other: Pass) -> Pass:
    one.beside, other.beside = other, one
    return one


def loss_of(run: Pass) -> float:
    return F.cross_entropy(run.logits[:-1], run.ids[0, 1:]).item()


def by(shown, says: str):
    return next(check for check in shown.checks if says in check.says)


@every_architecture
def test_a_model_alone_shows_its_own_weights(config) -> None:
    run = a_pass(config)
    shown = panel(run, Options())
    assert shown.ok and not differs_in_python(run, shown, 1)
    name = shown.facts["matrix"]
    assert torch.allclose(shown.series["weight"].values, singular_values(run.model.get_submodule(name).weight))
    ranks, losses = shown.series["ranks"].values, shown.series["cut_weights"].values
    assert ranks[-1] == shown.facts["full_rank"] and losses[-1] == pytest.approx(loss_of(run), rel=1e-4)
    assert "cut_full" not in shown.series and "cut_lora" not in shown.series
    first, zero, both = shown.series["gradients"].values
    assert first[0] == 0 and first[1] > 0 and (zero == 0).all() and (both > 0).all()


def test_the_full_rank_is_the_fine_tune(three) -> None:
    base, tuned, _ = three
    run = beside(base, tuned)
    shown = panel(run, Options(rank=3, weight=0.6))
    assert shown.ok and not differs_in_python(run, shown, 1)
    ranks = shown.series["ranks"].values.tolist()
    assert abs(shown.series["cut_full"].values[-1].item() - loss_of(tuned)) < 1e-4
    assert abs(shown.series["cut_weights"].values[-1].item() - loss_of(tuned)) < 1e-4
    assert 3 in ranks and 0.6 in [round(x, 6) for x in shown.series["weights"].values.tolist()]
    one = shown.series["weights"].values.tolist().index(1.0)
    assert abs(shown.series["scaled_full"].values[one].item() - loss_of(tuned)) < 1e-4
    energy, s = shown.series["full_energy"].values, shown.series["full"].values
    assert int((energy < 0.9).sum()) + 1 == energy_rank(s, 0.9) == shown.facts["numbers"]["full"]["rank_90"]
    assert shown.facts["changes"] == {"full": "tuned"} and not shown.facts["notes"]


def test_an_adapter_is_shown_by_its_factors(three) -> None:
    base, _, adapted = three
    shown = panel(adapted, Options())
    assert shown.ok and not differs_in_python(adapted, shown, 1)
    assert len(shown.series["lora"].values) == 2 and shown.facts["matrix"] == "blocks.0.attn.q"
    part = lora.wrapped(adapted.model)["blocks.0.attn.q"]
    expected = singular_values(part.delta("default"))[:2]
    assert torch.allclose(shown.series["lora"].values, expected, atol=1e-5)
    assert shown.facts["adapter"] | {"names": 0} == {
        "names": 0, "here": True, "rank": 2, "scales": [3.0], "parameters": 3 * 2 * (20 + 24 + 20 + 29)
    }  # fmt: skip
    ranks = shown.series["ranks"].values.tolist()
    assert abs(shown.series["cut_lora"].values[ranks.index(2)].item() - loss_of(adapted)) < 1e-4
    assert abs(shown.series["cut_lora"].values[0].item() - loss_of(base)) < 1e-4
    assert abs(shown.series["scaled_lora"].values[0].item() - loss_of(base)) < 1e-4
    untouched = panel(adapted, Options(part="attn.v"))
    assert "lora" not in untouched.series and not untouched.facts["adapter"]["here"] and untouched.ok


def test_adapter_and_fine_tune_stand_beside_each_other(three) -> None:
    _, tuned, adapted = three
    run = beside(adapted, tuned)
    shown = panel(run, Options())
    assert shown.ok and not differs_in_python(run, shown, 1)
    assert {"lora", "full", "cut_lora", "cut_full", "lora_near", "full_near"} <= shown.series.keys()


def test_a_base_beside_its_adapter_shows_what_the_adapter_changed(three) -> None:
    base, _, adapted = three
    run = beside(base, adapted)
    shown = panel(run, Options())
    assert shown.ok and not differs_in_python(run, shown, 1) and "lora" in shown.series and "full" not in shown.series
    assert not shown.facts["notes"] and not panel(three[2], Options()).facts["notes"], "the adapter is the change"


def test_how_much_of_each_matrix_changed(three) -> None:
    base, tuned, adapted = three
    for other, kind in ((adapted, "lora"), (tuned, "full")):
        run = beside(Pass(base.subject, base.ids), other)  # a pass of its own: it keeps what it found
        shown = panel(run, Options())
        rows, parts, table = shown.facts["rows"], shown.facts["parts"], shown.series[f"where_{kind}"].values
        merged, own = (merged_copy(one.model).state_dict() for one in (other, run))
        for row, layer in enumerate(rows):
            for column, part in enumerate(parts):
                name = f"{module.called(layer, part)}.weight"
                w, new = (x.get(name, torch.zeros(1)).double().numpy() for x in (own, merged))
                expected = np.linalg.norm(new - w) / max(np.linalg.norm(w), 1e-30)
                assert table[row, column].item() == pytest.approx(expected, abs=1e-6)
        assert (table > 0).any() and not differs_in_python(run, shown, 1)
        most, at = table.nan_to_num().max().item(), divmod(int(table.nan_to_num().argmax()), len(parts))
        name = module.called(rows[at[0]], parts[at[1]])
        assert shown.facts["most"].startswith(f"Changed most: {name} ({most:.1%}), ")
    assert parts[:2] == ["attn.q", "attn.k"] and None in rows  # a full fine-tune changes the embedding as well


def test_models_of_other_shapes_are_explained(three) -> None:
    base = three[0]
    other = Pass(Subject("other", model_of(ARCHITECTURES["gpt"]).eval(), None), base.ids)
    shown = panel(beside(base, other), Options())
    assert "other names or shapes" in shown.facts["notes"][0] and shown.ok and "full" not in shown.series


def test_alpha_for_a_scale_is_red(three) -> None:
    wrong = panel(three[2], Options(fault="alpha"))
    right = panel(three[2], Options())
    assert not by(wrong, "merged = unmerged").ok and not by(wrong, "full rank gives").ok
    assert torch.allclose(wrong.series["lora"].values, 2 * right.series["lora"].values, rtol=1e-5)


def test_v_for_its_transpose_is_red(three, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SVD, "matrix", lambda self: (self.u * self.s) @ self.v[: self.v.shape[1]].T @ torch.eye(
        self.v.shape[1], len(self.v)
    ))  # fmt: skip
    assert not by(panel(three[0], Options()), "a cut loses").ok


def test_an_adapter_that_does_not_begin_at_zero_is_red(three, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = module.lab.new_adapter

    def wrong(*given):
        adapter = ordinary(*given)
        torch.nn.init.constant_(adapter.b, 0.1)
        return adapter

    monkeypatch.setattr(module.lab, "new_adapter", wrong)
    shown = panel(three[0], Options())
    assert not by(shown, "an adapter at init").ok


def test_c11_and_c12_are_those_of_the_identities(three) -> None:
    says = {check.says for check in panel(three[2], Options()).checks}
    assert {"merged = unmerged", "an adapter at init changes nothing", *TOLERANCES["cut_loses_the_tail"]} <= says


def test_matrices_that_are_not_there_are_named(three) -> None:
    with pytest.raises(FathomError, match="no layer 9"):
        panel(three[0], Options(layer=9))
    with pytest.raises(FathomError, match="no matrix 'attn\\.k_proj'"):
        panel(three[0], Options(part="attn.k_proj"))
    with pytest.raises(FathomError, match="rank is 0"):
        panel(three[0], Options(rank=0))


def test_one_token_has_no_loss() -> None:
    run = a_pass(LLAMA, 1)
    shown = panel(run, Options())
    assert "cut_weights" not in shown.series and "two tokens" in shown.facts["notes"][0] and shown.ok


def test_what_is_too_large_is_said_with_its_cost(three, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WORK", 1000)
    shown = panel(three[0], Options())
    assert "fathom svd --loss-vs-rank" in shown.facts["notes"][0] and "weight" in shown.series and shown.ok


def test_a_run_of_fine_tuning_opens_as_its_base_with_its_adapter(three, tmp_path) -> None:
    """As `fathom finetune` leaves it."""
    folder = tmp_path / "finetuned"
    folder.mkdir()
    (tmp_path / "adapter").rename(folder / "adapter")
    base = {"path": str(tmp_path / "base"), "fingerprint": ""}
    write_config(folder / CONFIG, {"base": base, "finetune": {"method": "lora"}, "model": {}})
    run = Pass(open_subject(folder), three[0].ids)
    assert torch.equal(run.logits, three[2].logits) and panel(run, Options()).facts["adapter"]["rank"] == 2


def test_the_lines_shown_are_the_package_s_own(three) -> None:
    about, _ = decoded(payload("lora", three[0])[0])
    assert all(each["path"].startswith("fathom/") for each in about["source"])
    method = next(each["text"] for each in about["source"] if "def cut(" in each["text"])
    assert method.startswith("def cut(") and "\n    return SVD(" in method  # dedented as a whole


def test_looking_changes_nothing(three) -> None:
    run = three[2]
    before = fathom.load(run.subject.path, adapter=list(run.subject.adapters))[0](run.ids)
    panel(run, Options(fault="alpha"))
    assert torch.equal(run.model(run.ids), before)
    assert not any(parameter.grad is not None for parameter in run.model.parameters())


def test_an_exported_file_holds_every_matrix(three) -> None:
    views = kept(three[2])
    assert len(views) == 1 + 3 + 3 * 7 + 2 + 1 and len({*views}) == len(views) and views[0] == Options()
    blob, _ = payload("lora", three[2], {"layer": "2", "part": "mlp.up"})
    about, tensors = decoded(blob)
    assert about["facts"]["matrix"] == "blocks.2.mlp.up" and len(tensors["weight"]) == 20
