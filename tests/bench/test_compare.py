"""benchmarks/compare.py with commands that only print numbers, its page, and the peers' scripts on tiny models."""

import ast
import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fathom.bench.shapes import SHAPES
from fathom.families.registry import of
from fathom.formats.detect import open_model
from tests.bench.test_counts import GPT, LLAMA
from tests.house.source import ROOT

BENCHMARKS = ROOT / "benchmarks"

FAMILIES = ("qwen3-1.7B", "gemma2-2.6B", "pythia-1.4B")


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Any:
    return imported("compare", monkeypatch)


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of benchmarks/, whose files import each other as scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def side(name: str, output: str, **more: Any) -> Any:
    """A process that prints this, read as `rate`."""
    import comparisons  # type: ignore[import-not-found,unused-ignore]

    more = {"python": sys.executable, "arguments": lambda: ("-c", f"print({output!r})"), **more}
    return comparisons.Side(name, comparisons.Command(f"{name}: {output}", **more), comparisons.key("rate"))


def pair(work: str, ours: Any, peer: Any) -> Any:
    import comparisons

    return comparisons.Comparison(work, "tok/s", ours, peer)


def test_ratios_are_of_medians_and_their_range_of_rounds(compare: Any) -> None:
    asked = pair("w", side("us", "1"), side("them", "2"))
    runs = {"us: 1": [{"rate": r} for r in (3, 8, 4)], "them: 2": [{"rate": r} for r in (1, 2, 4)]}
    result = compare.result(asked, runs)
    assert (result["ours_median"], result["theirs_median"], result["ratio"]) == (4, 2, 2)
    assert (result["lowest"], result["highest"], result["limit"]) == (1, 4, "")
    assert compare.result(asked, {**runs, "us: 1": []}) is None
    assert compare.result(asked, {}) is None


def test_the_share_of_the_limit_is_the_median_of_what_bench_measured(compare: Any) -> None:
    def lines(limited_by: str) -> list[dict[str, Any]]:
        return [{"figures": [{"percent": percent, "limited_by": limited_by}]} for percent in (80.0, 91.2, 90.0)]

    assert compare.share_of_limit(lines("0.6 GB read a token, 37 GB/s")) == "90% of memory bandwidth"
    assert compare.share_of_limit(lines("2 GFLOP a token, 430 GFLOP/s")) == "90% of bf16 products"
    assert compare.share_of_limit([{"rate": 1.0}]) == ""


def test_what_is_left_out_keeps_its_figures(
    compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = side("them", '{"rate": 5}')
    first = pair("fast", side("us", '{"rate": 10}'), peer)
    second = pair("slow", side("we", '{"rate": 4}'), peer)
    monkeypatch.setattr(compare, "comparisons", lambda *_: [second, first])
    for module in (compare, sys.modules["measure"]):
        monkeypatch.setattr(module, "instructions", lambda: "avx2")
    page, other = tmp_path / "README.md", marked(compare, "avx512", "another machine's")
    page.write_text(f"before\n{other}{marked(compare, 'avx2', 'old')}after\n")
    for only in ("fast", "slow"):
        monkeypatch.setattr(sys, "argv", ["compare.py", "--only", only, "--repeat", "2", "--out", str(tmp_path)])
        compare.main()
    kept = json.loads((tmp_path / "compare-avx2.json").read_text())
    assert list(kept["comparisons"]) == ["slow / them", "fast / them"]
    assert [one["ratio"] for one in kept["comparisons"].values()] == [0.8, 2.0]
    assert kept["runs"]['us: {"rate": 10}'] == [{"rate": 10}] * 2
    text = page.read_text()
    assert "| fast | them | 5 tok/s | 10 tok/s | **2.00** (2.00 to 2.00) |  |" in text and "**0.80**" in text
    assert text.startswith(f"before\n{other}") and text.endswith("after\n") and "old" not in text
    assert (tmp_path / "compare-avx2.png").read_bytes().startswith(b"\x89PNG")
    assert "round 2" in capsys.readouterr().err


def marked(compare: Any, instructions: str, table: str) -> str:
    return f"{compare.BEGIN.format(instructions)}{table}{compare.END.format(instructions)}"


def test_what_is_missing_or_fails_is_one_line(compare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def lacking() -> list[str]:
        raise compare.Failed("give --text")

    good = side("us", '{"rate": 1}')
    missing = [
        pair("a", good, side("x", "", python="no-such-python")),
        pair("b", good, side("y", "", arguments=lacking)),
        pair("c", good, side("z", "", module="no_such_module")),
    ]
    assert compare.runnable(missing) == []
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "found no no-such-python" in lines[0]
    assert lines[1] == "b, y: left out: give --text" and "cannot import no_such_module" in lines[2]
    failing = [pair("d", good, side("w", "no JSON")), pair("e", good, side("v", "", arguments=lambda: ("-c", "1/0")))]
    *_, runs = compare.rounds(failing, 2, 1)
    errors = capsys.readouterr().err
    assert [runs[one.peer.command.label] for one in failing] == [[], []] and errors.count("failed") == 2
    assert "ZeroDivisionError" in errors


def test_an_interrupted_model_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, path = imported("random_models", monkeypatch).written, tmp_path / "models" / "model.gguf"

    def interrupted(new: Path) -> None:
        new.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(path, interrupted)
    assert not path.exists()
    assert written(path, lambda new: new.write_text("whole")).read_text() == "whole"
    assert written(path, interrupted).read_text() == "whole"


@pytest.fixture(params=sorted(path.name for path in BENCHMARKS.glob("compare-*.json")))
def published(request: pytest.FixtureRequest) -> Any:
    return json.loads((BENCHMARKS / request.param).read_text())


def test_published_results_are_of_known_works_and_their_labels_hold_no_folder(compare: Any, published: Any) -> None:
    import random_models

    folder = Path("some") / "folder"
    models = random_models.RandomModels(folder, "python")
    every = compare.comparisons(models, 2, published["machine"]["instructions"], folder / "t.model", folder / "t.txt")
    names = [f"{one.work} / {one.peer.name}" for one in every]
    assert [name for name in names if name in published["comparisons"]] == list(published["comparisons"])
    missing = [name for name in names if name not in published["comparisons"]]
    assert len(names) == 25 and all("prompt lookup" in name for name in missing)
    labels = {command.label for one in every for command in (one.ours.command, one.peer.command)}
    assert not [label for label in labels if "folder" in label]
    assert labels - set(published["runs"]) <= {label for label in labels if "lookup" in label}
    assert set(published["runs"]) <= labels


def test_training_is_compared_in_what_the_processor_multiplies(compare: Any) -> None:
    """bf16 where it has products of it; elsewhere fp32, for both sides and also for the products of QLoRA."""
    import random_models

    models = random_models.RandomModels(Path("models"), "python")
    for instructions, dtype, peers in (("avx512", "bf16", {"bf16", "nf4"}), ("avx2", "fp32", {"fp32", "nf4-fp32"})):
        tuned = [one for one in compare.comparisons(models, 2, instructions, None, None) if "finetune" in one.work]
        assert {one.peer.name for one in tuned} == {f"peft {peer}" for peer in peers}
        assert all(f"--dtype {dtype}" in one.ours.command.label for one in tuned)


def test_the_page_shows_the_published_results(compare: Any, published: Any) -> None:
    text, name = (BENCHMARKS / "README.md").read_text(), published["machine"]["instructions"]
    table = compare.markdown(published)
    assert marked(compare, name, f"\n{table}\n") in text, "run `python benchmarks/compare.py`"


def peer(script: str, *arguments: object) -> str:
    words = [sys.executable, str(BENCHMARKS / "peers" / script), *map(str, arguments)]
    process = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize("kind", ["bf16", "q8_0", "q4_0"])
def test_the_gguf_of_a_shape_is_that_model(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    config, path = tmp_path / "config.json", tmp_path / "model.gguf"
    config.write_text(json.dumps(of(LLAMA).write("hf", LLAMA)))
    peer("random_gguf.py", config, kind, path)
    opened = open_model(path)
    assert opened.config.resolved() == LLAMA.resolved()


@pytest.mark.parametrize("shape", FAMILIES)
def test_llama_cpp_reads_the_gguf_of_other_families(shape: Any, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    known = SHAPES[shape]
    rope, scale = replace(known.rope, rotated=known.rope.rotated and 8), replace(known.scale, embed=8.0)
    small = replace(known, d_model=64, d_ff=96, n_layer=2, n_head=2, n_kv_head=2, head_dim=32, vocab_size=96, rope=rope,
                    scale=known.scale if known.scale.embed == 1 else scale)  # fmt: skip
    config, path = tmp_path / "config.json", tmp_path / "model.gguf"
    config.write_text(json.dumps(of(small).write("hf", small)))
    peer("random_gguf.py", config, "q8_0", path)
    speeds = json.loads(peer("infer_llama_cpp.py", path, 8, 8, 1).splitlines()[-1])
    assert min(speeds.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", [GPT, LLAMA], ids=["gpt2", "llama"])
def test_transformers_and_peft_print_what_compare_reads(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config, folder = tmp_path / "config.json", tmp_path / "checkpoint"
    config.write_text(json.dumps(of(model).write("hf", model)))
    speeds = json.loads(peer("infer_transformers.py", config, 8, 4).splitlines()[-1])
    assert set(speeds) == {"prefill_tok_s", "decode_tok_s"} and min(speeds.values()) > 0
    peer("random_checkpoint.py", config, folder)
    assert open_model(folder).config.resolved() == model.resolved()
    tuned = json.loads(peer("finetune_peft.py", folder, "bf16", 2, 8, 1).splitlines()[-1])
    assert set(tuned) == {"tok_s", "peak_mib"} and min(tuned.values()) > 0


def test_the_scripts_that_the_page_names_exist() -> None:
    text = (BENCHMARKS / "README.md").read_text()
    scripts = set(re.findall(r"benchmarks/[\w/.]+\.(?:py|txt)\b", text))
    assert len(scripts) > 6 and not [name for name in scripts if not (ROOT / name).is_file()]


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_what_a_script_imports_from_fathom_exists(path: Path) -> None:
    """Most imports are inside functions that take minutes to reach."""
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module and node.module.split(".")[0] in ("fathom", "tests"):
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                assert hasattr(module, name) or importlib.import_module(f"{node.module}.{name}"), (
                    f"{node.module}.{name}"
                )
