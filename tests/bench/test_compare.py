"""benchmarks/compare.py with peers that only say numbers: ratios, what is kept, and what is left out and why."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("compare", "claims"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import compare as module  # type: ignore[import-not-found,unused-ignore]

    return module


def side(compare: Any, name: str, says: str, **more: Any) -> Any:
    """A process that prints this."""
    import claims  # type: ignore[import-not-found,unused-ignore]

    words = (sys.executable, "-c", f"print({says!r})")
    return claims.Side(name, claims.Command(f"{name} says {says}", words, **more), claims.key("rate"))


def claim(compare: Any, work: str, ours: Any, peer: Any, wanted: float, at_most: bool = False) -> Any:
    return compare.Claim(work, "tok/s", ours, peer, wanted, at_most)


def test_ratios_are_of_medians_and_their_range_of_rounds(compare: Any) -> None:
    asked = claim(compare, "w", side(compare, "us", "1"), side(compare, "them", "2"), 1.6)
    runs = {"us says 1": [{"rate": r} for r in (3, 8, 4)], "them says 2": [{"rate": r} for r in (1, 2, 4)]}
    found = compare.judged(asked, runs)
    assert (found["ours_median"], found["theirs_median"], found["ratio"]) == (4, 2, 2)
    assert (found["lowest"], found["highest"], found["reached"]) == (1, 4, True)
    assert compare.judged(claim(compare, "w", asked.ours, asked.peer, 1.6, at_most=True), runs)["reached"] is False
    assert compare.judged(asked, {**runs, "us says 1": []}) is None


def test_a_run_is_kept_and_another_beside_it(
    compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = side(compare, "them", '{"rate": 5}')
    first = claim(compare, "fast", side(compare, "us", '{"rate": 10}'), peer, 1.5)
    second = claim(compare, "slow", side(compare, "we", '{"rate": 4}'), peer, 1.5)
    monkeypatch.setattr(compare, "claims", lambda *_: [second, first])
    for only in ("fast", "slow"):
        monkeypatch.setattr(sys, "argv", ["compare.py", "--only", only, "--repeat", "2", "--out", str(tmp_path)])
        compare.main()
    kept = json.loads((tmp_path / "compare.json").read_text())
    assert list(kept["claims"]) == ["slow / them", "fast / them"]
    assert [one["ratio"] for one in kept["claims"].values()] == [0.8, 2.0]
    assert kept["runs"]['us says {"rate": 10}'] == [{"rate": 10}] * 2
    table = (tmp_path / "compare.md").read_text()
    assert "| fast | them | 5 tok/s | 10 tok/s | **2.00** (2.00 to 2.00) | ≥ 1.5 | reached |" in table
    assert "**0.80**" in table and "missed" in table
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "round 2" in capsys.readouterr().err


def test_what_is_missing_or_fails_is_one_line(compare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    good = side(compare, "us", '{"rate": 1}')
    lacking = [
        claim(compare, "a", good, side(compare, "x", "", needs=((None, "give --peers"),)), 1),
        claim(compare, "b", good, side(compare, "y", "", needs=((Path("nowhere.gguf"), "make it"),)), 1),
        claim(compare, "c", good, side(compare, "z", "", module="no_such_module"), 1),
    ]
    assert compare.possible(lacking) == []
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "a, x: left out: give --peers; found nothing" and "found no nowhere.gguf" in said[1]
    assert len(said) == 3 and "no_such_module cannot be imported" in said[2]
    failing = claim(compare, "d", good, side(compare, "w", "no JSON"), 1)
    *_, runs = compare.rounds([failing], 2, 1)
    assert runs[failing.peer.command.label] == [] and capsys.readouterr().err.count("failed") == 1


def test_every_wish_of_the_table_is_there(compare: Any) -> None:
    """And no label holds a folder: labels are written to compare.json."""
    import claims

    folder = Path("some") / "folder"
    every = claims.claims(claims.Commands(folder, "python", folder, 2), folder / "t.model", folder / "t.txt")
    names = {(one.name, one.peer.name): one.wanted for one in every}
    assert names["decode 1.1B int4", "llama.cpp q4_0"] == 1.1 and names["decode 1.1B bf16", "transformers bf16"] == 2.5
    assert (
        names["prefill 512 1.1B int8", "llama.cpp q8_0"] == 2.0
        and names["prompt lookup 110M bf16", "plain decoding"] == 1.5
    )
    assert len(names) == len(every) == 22
    labels = {command.label for one in every for command in (one.ours.command, one.peer.command)}
    assert not [label for label in labels if "folder" in label]
