"""A run knows its data: it is measured on what it has never seen, and says where it has."""

from pathlib import Path

import pytest

import fathom
from fathom.cli.main import main
from fathom.errors import FathomError
from fathom.training.run import open_run
from fathom.training.train import train
from tests.training.runs import TEXT, recipe
from tests.training.tuning import tuned


def test_a_run_is_measured_on_what_it_has_never_seen(tmp_path: Path) -> None:
    """By default; on the text that it was trained on a warning says so, on another none."""
    result = train(recipe(tmp_path, eval_windows=None), tmp_path / "run")
    unseen = fathom.evaluate(tmp_path / "run", device="cpu")
    assert (
        "never trained on" in unseen.about and unseen.own.used.tokens == len(open_run(result.folder).tokens("val")) - 1
    )
    seen = fathom.evaluate(tmp_path / "run", tmp_path / "text.txt", device="cpu")
    assert "was trained on most of" in seen.warning and seen.warning in str(seen)
    (tmp_path / "other.txt").write_text(TEXT[:700])
    assert not fathom.evaluate(tmp_path / "run", tmp_path / "other.txt", device="cpu").warning


def test_a_fine_tuned_model_is_measured_on_its_validation_records(tmp_path: Path) -> None:
    tuned(tmp_path, "run")
    assert fathom.evaluate(tmp_path / "run", device="cpu").windows == 3
    with pytest.raises(FathomError, match=r"is no run.*--data FILE"):
        fathom.evaluate(tmp_path / "base", device="cpu")


def test_the_rope_layout_of_a_run_is_no_open_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    assert main(["verify", str(tmp_path / "run"), "--against", "naive"]) == 0
    assert "rope layout" not in capsys.readouterr().out


def test_presets_say_what_their_models_export_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line[:1].isalpha()}
    held = {
        "shakespeare-cpu": "hf ",
        "gpt-cpu": "hf ",
        "demo": "hf, gguf ",
        "llama-tiny": "hf, gguf ",
        "gpt2": "hf, gguf",
    }
    assert all(f"M  {formats}" in rows[name] for name, formats in held.items())  # GGUF has no vocabulary of characters
    assert "nothing" in rows["shakespeare"]
