"""docs/scale.md shows what the commands print, what tests hold plans against, and what the benchmark measured."""

import re
import shlex
from pathlib import Path

import pytest

from fathom.cli.main import main
from tests.planning.runs import RUNS, Published
from tests.planning.test_published import hours

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```sh\nfathom (plan [^\n]*--devices[^\n]*)\n```\n\n```text\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize(("call", "shown"), SHOWN, ids=[call for call, _ in SHOWN])
def test_the_page_shows_what_the_command_prints(
    call: str, shown: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "112")
    assert main(shlex.split(call)) == 0
    assert capfd.readouterr().out == shown


def test_both_plans_are_shown() -> None:
    assert len(SHOWN) == 2


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.model)
def test_the_page_has_each_published_run(run: Published) -> None:
    planned, published = hours(run), f"{run.hours:,.0f}"
    figures = f"{planned:,.0f} | {published} | {planned / run.hours:.2f} | {run.source} |"
    assert f"| {run.model} | {run.n:,} × {run.device} | {run.tokens} | {figures}\n" in PAGE
