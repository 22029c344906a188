"""The live view: plain lines where there is no terminal, a picture where there is one, stderr alone, nothing obeyed."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from fathom.report.live import SPARKS, LiveView, Speed, Stderr, clock, printable, sparkline


def told(console: Console | None, interval: float = 1e9) -> None:
    with LiveView("runs/x", console, interval) as view:
        view.note("fp32", warning=False)
        view.note("small text", warning=True)
        view.prepared("characters", 10, 10)
        for step in range(1, 101):
            view.progress(step, 100, loss=4.0 - step / 100, tokens=768 * step, seconds=step / 10, learning_rate=1e-3)
        view.evaluated(100, 1.8861, 2.721)
        view.sample(100, "KING:\n\x1b[2J[bold]ho")
        view.saved(100, Path("x"))


def test_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    told(Console(file=out, width=60))
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line.startswith("step") and "/" in line.split()[1]] == [
        "step      1/100  loss 3.9900  time 0:00  lr 0.001",
        "step    100/100  loss 3.0000  time 0:10  lr 0.001  tokens/s 7,680  left 0:00",
    ]
    assert lines[:2] == ["fp32", "warning: small text"]
    assert not any("characters" in line for line in lines)  # over too soon to be worth a line
    assert "step    100  validation loss 1.8861  2.721 bits per character" in lines
    assert "    \N{REPLACEMENT CHARACTER}[2J[bold]ho" in lines
    assert "\x1b" not in out.getvalue()


def test_every_step_where_no_time_need_pass() -> None:
    out = io.StringIO()
    told(Console(file=out, width=60), interval=0)
    assert out.getvalue().count("tokens/s") == 99


def test_a_picture_on_a_terminal() -> None:
    out = io.StringIO()
    told(Console(file=out, width=100, force_terminal=True, color_system="standard", _environ={"TERM": "xterm"}))
    last = out.getvalue().rsplit("runs/x", 1)[1]
    assert "step 100/100" in last and "tokens/s" in last and "KING:" in last and "1.8861" in last
    assert "\x1b[2J" not in out.getvalue()


def test_nothing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    told(None)
    out, err = capsys.readouterr()
    assert out == "" and "validation loss" in err


@pytest.mark.parametrize("error, terminal", [(BrokenPipeError, False), (BrokenPipeError, True), (OSError, False)])
def test_a_stderr_that_has_gone_away_does_not_stop_training(error: type[OSError], terminal: bool) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    told(Stderr(file=Gone(), force_terminal=terminal))


def test_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    slow = [speed.measured(step, step * 10, step * 1.0) for step in range(20)]
    assert slow[0] is None and slow[-1] == (1.0, 10.0)
    for step in range(20, 200):
        fast = speed.measured(step, step * 10, 19 + (step - 19) / 10)
    assert fast == (pytest.approx(10.0), pytest.approx(100.0))


@pytest.mark.parametrize("seconds, shown", [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_printable() -> None:
    assert printable("a\tb\n\x07\u202e") == "a   b\n\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"


def test_nothing_is_broken_at_80_columns() -> None:
    """Neither a number nor a word, with a long name and long numbers; the loss is a line of at most 64 characters."""
    out = io.StringIO()
    view = LiveView("runs/a-name-that-is-much-longer-than-it-should-be/and-more", Console(file=out, width=80))
    for step in range(1, 2001):
        view.progress(step, 100_000, 4 / step**0.1, 10_000 * step, step * 0.9, 0.00123)
    view.evaluated(2000, 1.8861, 2.721)
    view.saved(2000, Path("x"))
    out.truncate(0)
    view.console.print(view.display())
    lines = out.getvalue().strip("\0").splitlines()
    assert all(len(line) <= 80 for line in lines)
    whole = [f"step {2000:,}/100,000", "24:30:00 left", "tokens/s 11,111", "lr 0.0012", "val 1.8861", "saved 2,000"]
    assert all(any(words in line for line in lines) for words in whole), lines
    assert any(line.startswith("loss █") for line in lines) and len(view.state.losses) <= 2 * SPARKS


def test_a_total_that_is_not_known_is_not_shown() -> None:
    out = io.StringIO()
    view = LiveView("run", Console(file=out, width=80), interval=0)
    view.progress(3, 0, 4.0, 10, 1.0)
    assert "step      3  loss" in out.getvalue()


def test_a_sparkline() -> None:
    assert sparkline([3.0, 2.0, float("nan"), 1.0]) == "█▅▁" and sparkline([1.0]) == "▁" and sparkline([]) == ""
