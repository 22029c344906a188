"""The report: every number in it is one of ladder.json's, everything is escaped, and half a ladder has one too."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fathom.experiments.page import page, rounded, rows, source, summary, terminal, write_page
from fathom.experiments.result import LadderResult, Trained
from fathom.experiments.rungs import IDEAS
from fathom.model.presets import LADDER
from fathom.report.html import code
from fathom.report.table import plain
from tests.report.test_html import Reader

Climbed = tuple[LadderResult, Path, list[object]]


def text_of(result: LadderResult) -> str:
    return Reader(page(result)).text


def test_every_rung_has_its_numbers_change_source_and_sample(climbed: Climbed) -> None:
    result, text = climbed[0], text_of(climbed[0])
    for place, rung in enumerate(result.ladder):
        loss = result.loss(rung.key)
        assert loss and f"{loss.mean:.4f} ± {loss.half_width:.3f}" in text
        assert f"{place + 1}. {rung.idea.title}" in text and rung.idea.about in text
        assert source(rung.idea.source) in text
        for field, new in LADDER[rung.key].items() if place else ():
            assert f"{field} = {new!r}  # was " in text
        for run in result.runs(rung.key):
            assert run.sample is None or run.sample in text
            assert f"seed {run.seed}: {run.loss:.4f} ({run.folder}, ladder.json trained[" in text


def test_runs_are_where_the_page_says(climbed: Climbed) -> None:
    result = climbed[0]
    found = re.findall(r"seed (\d+): ([\d.]+) \(models/(\w+)-\d+, ladder.json trained\[(\d+)\]\)", text_of(result))
    assert len(found) == 24
    for seed, loss, rung, place in found:
        run = result.trained[int(place)]
        assert (run.seed, f"{run.loss:.4f}", run.rung) == (int(seed), loss, rung)


def test_the_page_is_one_file_with_its_pictures(climbed: Climbed, tmp_path: Path) -> None:
    first, *others = climbed[0].trained
    sly = replace(climbed[0], trained=(replace(first, sample="<script>&"), *others))
    written = write_page(sly, tmp_path).read_text(encoding="utf-8")
    assert written.count("data:image/png;base64,") == 6  # three charts, light and dark
    assert not re.search(r"(?:src|href)=\"(?!data:)", written)
    assert "<script>" not in written and "&lt;script&gt;&amp;" in written


def test_a_ladder_cut_short_has_a_page(climbed: Climbed) -> None:
    whole = climbed[0]
    for count in (0, 5):
        cut = replace(whole, trained=whole.trained[:count])
        assert f"interrupted: {count} of 24 runs" in text_of(cut)
        assert plain(terminal(cut), 120).count("not measured") == max(0, 12 - count)
    assert "interrupted" not in text_of(whole)


def fake(losses: dict[str, list[float]], whole: LadderResult) -> LadderResult:
    trained = [
        Trained(rung, seed, (12,), (loss,), 1.0, f"models/{rung}-{seed}")
        for rung, by_seed in losses.items()
        for seed, loss in enumerate(by_seed, start=whole.options.seed)
    ]
    options = replace(whole.options, rungs=tuple(losses), seeds=3)
    return replace(whole, options=options, trained=tuple(trained))


def test_noise_is_called_noise(climbed: Climbed) -> None:
    made = fake({"bigram": [2.0, 2.01, 1.99], "mlp": [1.5, 1.52, 1.51], "rope": [1.5, 1.56, 1.47]}, climbed[0])
    said = " ".join(summary(made))
    assert "beyond noise: MLP." in said and "Within noise, undecided by this ladder: RoPE." in said
    assert "Worse" not in said
    assert [row[-1] for row in rows(made)] == ["reference"] * 3 + ["", "better", "within noise"]


def test_one_seed_claims_nothing(climbed: Climbed) -> None:
    made = fake({"bigram": [2.0], "mlp": [1.5]}, replace(climbed[0], options=replace(climbed[0].options, seeds=1)))
    made = replace(made, options=replace(made.options, seeds=1))
    assert summary(made)[0].startswith("One seed gives no interval") and "beyond" not in " ".join(summary(made))
    assert "±" not in plain(terminal(made))


def test_bits_per_character(climbed: Climbed) -> None:
    result = climbed[0]
    assert result.bits_per_character(0.6931471805599453) == pytest.approx(1)  # characters: ln 2 nats are one bit
    doubled = replace(result, text=replace(result.text, val_characters=2 * result.text.n_val))
    assert doubled.bits_per_character(0.6931471805599453) == pytest.approx(0.5)


@pytest.mark.parametrize("number, shown", [(7, "7"), (24960, "25k"), (1058304, "1.06M"), (2.5e9, "2.5G")])
def test_rounded(number: float, shown: str) -> None:
    assert rounded(number) == shown


def test_source_of_an_idea_is_complete_python() -> None:
    for idea in IDEAS:
        assert '<span class="keyword">' in code(source(idea.source))
