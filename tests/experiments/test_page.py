"""The report: every number in it is one of ladder.json's, everything is escaped, and half a ladder has one too."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from fathom.anatomy.cost import n_active_parameters, n_parameters
from fathom.experiments.charts import colours, learning
from fathom.experiments.overview import DOCS, Scale, bar
from fathom.experiments.page import page, rounded, source, write_page
from fathom.experiments.result import Estimate, LadderResult, Trained
from fathom.experiments.rungs import IDEAS, IDEAS_BESIDE
from fathom.experiments.tables import difference, ladder_rows, reason, summary, take_away_rows, terminal
from fathom.experiments.take_aways import TAKE_AWAYS
from fathom.report.html import code
from fathom.report.plot import DARK, LIGHT
from fathom.report.table import plain
from fathom.training.presets import BESIDE, LADDER
from tests.house.source import ROOT
from tests.report.test_html import Reader

EVERY = [*IDEAS, *IDEAS_BESIDE]
Climbed = tuple[LadderResult, Path, list[object]]


def text_of(result: LadderResult) -> str:
    return Reader(page(result)).text


def test_every_rung_has_its_numbers_change_source_and_sample(climbed: Climbed) -> None:
    result, text = climbed[0], text_of(climbed[0])
    for place, rung in enumerate([*result.ladder, *result.beside]):
        loss = result.loss(rung.key)
        assert loss and f"{loss.mean:.4f} ± {loss.half_width:.3f}" in text
        number = "" if rung.whole else f"{place + 1}. "
        assert rung.idea and f"{number}{rung.title}" in text and rung.idea.about in text
        assert source(rung.idea.source) in text
        for field in (LADDER | BESIDE)[rung.key] if place else ():
            assert f"{field} = {getattr(rung.config, field)!r}  # was " in text
        for run in result.runs(rung.key):
            assert run.sample is None or run.sample in text
            assert f"seed {run.seed}: {run.loss:.4f} ({run.folder}, ladder.json trained[" in text


def test_what_stands_beside_the_ladder_says_what_a_token_meets(climbed: Climbed) -> None:
    result, text = climbed[0], text_of(climbed[0])
    (experts,) = result.beside
    said = [line for line in summary(result) if line.startswith("Experts beside grouped queries (LLaMA): ")]
    active, before = (f"{n_active_parameters(rung.config):,}" for rung in (experts, result.ladder[-1]))
    assert len(said) == 1 and f"a token meets {active} of {n_parameters(experts.config):,} parameters" in said[0]
    assert said[0].endswith(f"against {before}.") and said[0] in text
    assert result.below("experts") == result.ladder[-1] and result.below("bigram") is None
    assert [row[0] for row in ladder_rows(result)][-1] == experts.title


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
    assert written.count("data:image/png;base64,") == 4  # one chart, light and dark, wide and narrow
    assert not re.search(r"src=\"(?!data:)", written)
    links = re.findall(r"href=\"([^\"]+)\"", written)
    places = {link[1:] for link in links if link.startswith("#")}
    assert places <= set(re.findall(r"id=\"([^\"]+)\"", written)) and len(places) > 20
    for link in {link for link in links if not link.startswith("#")}:
        assert link.startswith(DOCS) and (ROOT / "docs" / link.removeprefix(DOCS)).is_file()
    assert "<script>" not in written and "&lt;script&gt;&amp;" in written


def test_a_ladder_cut_short_has_a_page(climbed: Climbed) -> None:
    whole = climbed[0]
    for count in (0, 5):
        cut = replace(whole, trained=whole.trained[:count])
        assert f"interrupted: {count} of 68 runs" in text_of(cut)
        assert plain(terminal(cut), 80).count("not measured") == 36 - count
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
    assert "Better than the rung below it: MLP." in said and "Too close to call with 3 seeds: RoPE." in said
    assert "Worse" not in said
    verdicts = [row[-1] for row in ladder_rows(made)]
    assert verdicts == ["reference"] * 3 + ["", "better", "too close to call"]


def test_one_seed_claims_nothing(climbed: Climbed) -> None:
    made = fake({"bigram": [2.0], "mlp": [1.5]}, replace(climbed[0], options=replace(climbed[0].options, seeds=1)))
    made = replace(made, options=replace(made.options, seeds=1))
    said = " ".join(summary(made))
    assert "One seed gives no interval" in said and "Better" not in said and "Too close" not in said
    assert "±" not in plain(terminal(made))


def test_a_verdict_has_its_reason_beside_it(climbed: Climbed) -> None:
    result, text = climbed[0], text_of(climbed[0])
    estimates = [result.gain(rung.key) for rung in result.ladder] + [result.worth(rung) for rung in result.take_aways]
    for estimate in filter(None, estimates):
        assert difference(estimate) in text and reason(estimate) in text


def test_a_take_away_says_what_the_model_does_in_its_place(climbed: Climbed) -> None:
    text = text_of(climbed[0])
    for idea in TAKE_AWAYS:
        assert f"Without {idea.title}" in text and idea.without in text
    assert "n_head = 1  # was 4" in text and "def see_all(" in text


def test_what_is_seen_without_a_mask_is_not_called_its_loss(climbed: Climbed) -> None:
    result = climbed[0]
    for key in ("gpt-mask", "llama-mask"):
        seen, loss = result.peeking(key), result.loss(key)
        assert seen is not None and loss and f"{seen:.3f}" in " ".join(summary(result))
        assert [row[2] for row in take_away_rows(result) if row[0] == "– causal mask"].count(f"{loss.mean:.3f}") >= 1


def test_tables_break_no_number_and_no_word(climbed: Climbed) -> None:
    """At 80 columns each row is one line, also with the widest numbers."""
    result = climbed[0]
    lines = plain(terminal(result), 80).splitlines()
    rows = [*ladder_rows(result), *take_away_rows(result)]
    assert len(lines) == 2 + 1 + 2 + len(rows) and max(map(len, lines)) <= 80
    for row in rows:
        assert any(all(cell.strip() in line for cell in row) for line in lines)
    assert "…" not in "".join(lines)


def test_no_colour_is_used_twice() -> None:
    for theme in (LIGHT, DARK):
        assert len(set(colours(theme, len(EVERY)))) == len(EVERY)


def test_curves_begin_at_step_0_and_names_do_not_collide(climbed: Climbed) -> None:
    figure = learning(climbed[0], LIGHT)
    axes = figure.axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(drawn) == len(EVERY) and {line.get_xdata()[0] for line in drawn} == {0}
    figure.canvas.draw()
    names = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert all(box.x0 > axes.bbox.x1 and box.x1 < figure.bbox.x1 for box in names)
    assert len(names) == len(EVERY) + 2
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(names))


def test_a_bar_that_leaves_the_scale_does_not_flatten_the_others() -> None:
    values = [Estimate(mean, 3, 0.01, 0.02) for mean in (0.1, 0.2, 5.0)]
    scale = Scale.of(values[:2])
    assert scale.high == pytest.approx(0.23) and "beyond" in bar(values[2], scale)
    assert "beyond" not in bar(values[1], scale)


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
