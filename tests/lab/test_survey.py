"""Spectra of weights, changes and adapters: measured right, with chance beside them, on a page that says the same."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import fathom.lab.spectra
from fathom.adapters import lora, peft
from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError
from fathom.formats.load import load
from fathom.formats.safetensors_file import write_tensors
from fathom.lab.pages import survey_page
from fathom.lab.report import role, spectrum_row, summary
from fathom.lab.spectra import spectrum
from fathom.lab.survey import SubspaceAngles, Survey, survey
from tests.report.test_html import Reader


def adapter(base: Path, folder: Path, seed: int, **options: object) -> Path:
    """An adapter that has learned something."""
    model = load(base, dtype="fp32")[0]
    lora.add(model, LoraOptions(rank=2, **options), seed=seed)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in lora.parameters(model):
            p += 0.1 * torch.randn(p.shape, generator=generator)
    peft.save(model, folder, base=base)
    return folder


def test_a_change_of_rank_two_is_seen_as_one(base: Path, tuned: Path) -> None:
    measured = survey(base, [str(tuned)], [], ("blocks.*",))
    weights, change = measured.sections
    for m in change.measured:
        assert m.numbers.rank_99 is not None and m.numbers.rank_99 <= 2 and m.chance.rank_90 > 0.4 * m.max_rank, m.name
        assert m.values[2] < 1e-5 * m.values[0]
    assert all(m.numbers.rank_90 > 0.4 * m.max_rank for m in weights.measured)
    assert [m.name for m in weights.measured] == [m.name for m in change.measured] == [e.name for e in change.intruders]


@pytest.mark.parametrize(
    "options", [{}, {"rslora": True}, {"init": "pissa"}, {"dora": True}, {"targets": ("embed", "q_proj")}]
)
def test_an_adapter_is_measured_as_what_it_adds(base: Path, tmp_path: Path, options: dict[str, object]) -> None:
    """Against the SVD of the dense change, for every kind of adapter."""
    folder = adapter(base, tmp_path / "adapter", 0, **options)
    model = load(base, dtype="fp32")[0]
    peft.load(model, folder, "there")
    parts = lora.wrapped(model, "there")
    section = survey(base, [], [folder]).sections[1]
    assert {m.name.removesuffix(".weight") for m in section.measured} == set(parts)
    for m in section.measured:
        dense = parts[m.name.removesuffix(".weight")].delta("there").detach()
        exact = np.linalg.svd(dense.double().numpy(), compute_uv=False)
        assert m.shape == tuple(dense.shape)
        assert np.allclose(m.values, exact[: len(m.values)], atol=1e-5 * exact[0]), m.name


def test_two_adapters_and_their_angles(base: Path, tuned: Path, tmp_path: Path) -> None:
    first, second = (adapter(base, tmp_path / f"{seed}", seed) for seed in (1, 2))
    same = survey(base, [], [first, first]).meetings
    assert same and all(m.written.largest < 0.01 and m.read.overlap == pytest.approx(1) for m in same)
    different = survey(base, [], [first, second]).meetings
    assert all(m.directions == (2, 2) for m in different)
    by_chance = np.mean([m.read.chance for m in different])
    assert np.mean([m.read.overlap for m in different]) == pytest.approx(by_chance, abs=0.1)
    with pytest.raises(FathomError, match="3 changes were given"):
        survey(base, [str(tuned)], [first, second])


def test_chance_is_what_random_directions_overlap() -> None:
    draws = [SubspaceAngles.of(*(torch.linalg.qr(torch.randn(40, k)).Q for k in (2, 6))) for _ in range(200)]
    assert np.mean([draw.overlap for draw in draws]) == pytest.approx(draws[0].chance, abs=0.02)


def test_an_adapter_of_its_own_change_has_its_directions(base: Path, tuned: Path, tmp_path: Path) -> None:
    from fathom.lab.extract import extract

    extract(base, tuned, 2, tmp_path / "adapter", ("all-linear",))
    for m in survey(base, [str(tuned)], [tmp_path / "adapter"], ("blocks.*",)).meetings:
        assert m.directions == (2, 2) and m.written.largest < 0.1 and m.read.largest < 0.1


def test_large_matrices_are_sampled_and_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fathom.lab.spectra, "LARGE", 50)
    monkeypatch.setattr(fathom.lab.spectra, "SAMPLED", 20)
    low = torch.randn(90, 8) @ torch.randn(8, 70)
    m = spectrum("w", low + 0.01 * torch.randn(90, 70))
    exact = np.linalg.svd(low.numpy(), compute_uv=False)
    assert len(m.values) == 20 and m.numbers.rank_90 == int((np.cumsum(exact**2) < 0.9 * (exact**2).sum()).sum()) + 1
    assert m.missed is not None and m.missed < 1 and m.numbers.effective is None
    flat = spectrum("flat", torch.randn(90, 70))
    assert flat.numbers.rank_90 is None and "> 20" in spectrum_row(flat) and "unknown" in spectrum_row(flat)
    write_tensors(tmp_path / "x.safetensors", {"flat": torch.randn(90, 70), "w": low})
    text = Reader(survey_page(survey(tmp_path / "x.safetensors", [], []), "x.json")).text
    assert "random sampling" in text and "no value is off by more" in text


def test_the_page_shows_what_was_measured(base: Path, tuned: Path) -> None:
    measured = survey(base, [str(tuned)], [], ("blocks.*",))
    page = survey_page(measured, "there.json")
    text = Reader(page).text
    for section in measured.sections:
        assert summary(section) in text
        for m in section.measured:
            assert all(cell in text for cell in spectrum_row(m))
    assert page.count("data:image/png;base64,") == 16 and not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "sections[1].measured" in text and "Intruders" in text


def test_a_model_that_did_not_change(base: Path) -> None:
    measured = survey(base, [str(base)], [])
    assert all(m.norm == 0 and m.numbers.rank_99 == 0 for m in measured.sections[1].measured)
    assert f"{len(measured.sections[1].measured)} matrices did not change at all" in summary(measured.sections[1])
    assert "did not change" in Reader(survey_page(measured, "there.json")).text


def test_real_matrices(shared_data: Path) -> None:
    measured: Survey = survey(shared_data / "gpt2_attention.safetensors", [], [])
    ranks = [m.numbers.rank_90 for m in measured.sections[0].measured]
    assert (min(ranks), max(ranks)) == (166, 347)  # type: ignore[type-var]
    assert summary(measured.sections[0]).startswith(
        "90% of the energy takes 22% to 45% of the directions, 39% on average"
    )


@pytest.mark.parametrize(
    "name, expected", [("blocks.3.attn.q.weight", "attn.q"), ("embed.weight", "embed"), ("x", "x")]
)
def test_role(name: str, expected: str) -> None:
    assert role(name) == expected
