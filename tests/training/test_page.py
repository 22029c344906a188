"""The page of a run: what it says is what was measured, its commands run, and what a model writes cannot escape."""

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fathom.cli.main import main
from fathom.errors import Diverged
from fathom.formats.run import METRICS, PAGE
from fathom.model.config import ModelConfig
from fathom.training import record as record_module
from fathom.training.events import Event, Progress, read_metrics
from fathom.training.presets import find
from fathom.training.train import train
from fathom.training.words import in_words
from tests.report.test_html import EVIL, Reader
from tests.training.runs import TEXT, recipe
from tests.training.tuning import tuned

PLAIN = {"max_iters": 12, "eval_interval": 4, "batch_size": 4, "eval_windows": 6, "device": "cpu", "sample_tokens": 8}
SMALL = {"d_model": 32, "n_layer": 1, "n_head": 2, "context_length": 16, "n_kv_head": 1}


class Cells(HTMLParser):
    """The text of every element of one name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__()
        self.name, self.inside, self.found = name, False, list[str]()
        self.feed(text)

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        if name == self.name:
            self.inside = True
            self.found.append("")

    def handle_endtag(self, name: str) -> None:
        self.inside = self.inside and name != self.name

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] += data


def html_of(folder: Path) -> str:
    return (folder / PAGE).read_text(encoding="utf-8")


def text_of(folder: Path) -> str:
    return Reader(html_of(folder)).text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a preset with little changed but its size."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "text.txt").write_text(TEXT)
    changes = {"data": str(folder / "text.txt"), "sample_interval": 6, "sample_prompt": "green "}
    train(find("shakespeare-cpu").changed(SMALL, PLAIN | changes), folder / "run")
    return folder / "run"


def test_the_page_says_what_was_measured(trained: Path) -> None:
    text, lines = text_of(trained), read_metrics(trained / METRICS)
    best = min((line for line in lines if "val_loss" in line), key=lambda line: line["val_loss"])
    assert "finished: step 12" in text
    assert f"{best['val_loss']:.4f}best validation loss" in text
    assert f"best {best['val_loss']:.3f} at step {best['step']}" in text
    assert f"{best['bits_per_character']:.3f}bits per character" in text
    for line in lines:
        if "sample" in line:
            assert f"after step {line['step']}green {line['sample']}".rstrip("\n") in text
    about = json.loads((trained / "facts.json").read_text())
    assert f"{about['n_train']:,} tokens to learn from, {about['n_val']:,} to validate on" in text
    assert "1 block of width 32, with 2 attention heads that share 1 key and value, rotary positions" in text
    assert "shakespeare-cpu, with " in text and "n_kv_head=1" in text and "momentum=" not in text


def test_the_page_is_one_file_that_fetches_and_runs_nothing(trained: Path) -> None:
    written = html_of(trained)
    assert not re.search(r"<script|<link|<iframe|\bsrc=|url\(|@import|https?:", written)
    assert "default-src &#x27;none&#x27;" in written and "refresh" not in written
    assert Reader(written).open == []
    assert not [path for path in trained.iterdir() if path.name.endswith(".partial")]


def test_every_command_of_the_page_runs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in Cells("code", html_of(trained)).found if line.startswith("fathom ")]
    assert {shlex.split(line)[1] for line in lines} == {"generate", "train", "eval", "export"}
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0, line
    assert "finished: step 24" in text_of(trained)  # trained for twice as long


def test_an_adapter_has_its_answers_and_its_commands(tmp_path: Path) -> None:
    tuned(tmp_path, "run", ask="3 + 4 = ", sample_interval=4)
    lines = [line for line in read_metrics(tmp_path / "run" / METRICS) if "sample" in line]
    written, text = html_of(tmp_path / "run"), text_of(tmp_path / "run")
    titles = Cells("h3", written).found
    assert titles == ["before the first step", "after step 12", "In between", "after step 4", "after step 8"]
    shown = Cells("pre", written).found
    for line, place in zip(lines, (0, 2, 3, 1), strict=True):
        assert shown[place] == (line["sample"].strip() or "(nothing)")
    assert "question3 + 4 =" in text and "lora, rank 8" in text
    commands = [line for line in Cells("code", written).found if line.startswith("fathom ")]
    assert [shlex.split(line)[1] for line in commands][:3] == ["chat", "finetune", "merge"]
    for line in commands[1:]:
        assert main(shlex.split(line)[1:]) == 0, line


def test_what_a_model_writes_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = f"</pre></section>{EVIL}<img src=x onerror=alert(1)>"
    monkeypatch.setattr(record_module, "write_sample", lambda run, session: evil)
    tuned(tmp_path, "run", ask=f"why {EVIL}")
    reader = Reader(html_of(tmp_path / "run"))
    assert "script" not in reader.names and "img" not in reader.names and reader.open == []
    assert reader.text.count(evil) == 5 and f"why {EVIL}" in reader.text


def test_a_run_in_progress_is_read_again_and_one_that_diverged_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "DRAWING", 1e9)  # however long it takes
    seen: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.step == 6:
            seen.append(html_of(tmp_path / "run"))
        if isinstance(event, Progress) and event.step == 7:
            raise Diverged("step 7: loss is nan; lower --lr")

    with pytest.raises(Diverged):
        train(recipe(tmp_path), tmp_path / "run", report=listen)
    assert "training: step 4 of 12" in seen[0] and 'http-equiv="refresh"' in seen[0]
    after = html_of(tmp_path / "run")
    assert "diverged: step 7 of 12" in after and "loss is nan; lower --lr" in after and "refresh" not in after


def test_a_config_in_words() -> None:
    gpt = ModelConfig(vocab_size=9, context_length=8, d_model=16, n_layer=2, n_head=4, position="learned", mlp="gelu")
    assert in_words(gpt.resolved()) == (
        "2 blocks of width 16, each with 4 attention heads, learned positions, no normalisation and an MLP with GELU; "
        "context of 8 tokens"
    )
    bigram = ModelConfig(vocab_size=9, context_length=8, d_model=16, n_layer=0)
    assert "bigram" in in_words(bigram.resolved())
