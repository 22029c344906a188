"""A measurement from its options to its result: what it says fits together. No time is asserted."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from fathom.anatomy.cost import n_parameters
from fathom.bench import bench as room
from fathom.bench import probes, shapes, works
from fathom.bench.bench import Measurement, bench
from fathom.bench.options import UNCOUNTED, BenchOptions
from fathom.bench.probes import Probes
from fathom.bench.result import Figure, text
from fathom.bench.shapes import random_model
from fathom.cli.main import main
from fathom.model.cache import KVCache
from fathom.tokenizer.characters import ByteTokenizer
from tests.bench.test_counts import GPT, LLAMA
from tests.cli.models import model_folder

ABOUT = {"work", "model", "parameters", "dtype", "quantize", "prompt", "new", "batch", "repeat", "plain", "threads"}
ABOUT |= {"device", "processor", "torch"}
FIGURE = {"name", "unit", "rounds", "limit", "limited_by", "median", "percent"}
PROBES = {"read_gb_s", "copy_gb_s", "gemm_gflop_s", "gemm"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes and buffers that take no time."""
    for name in shapes.SHAPES:
        monkeypatch.setitem(shapes.SHAPES, name, GPT if name == "gpt2" else LLAMA)
    monkeypatch.setattr(probes, "BUFFER", 1 << 20)
    monkeypatch.setattr(probes.bandwidth, "__defaults__", (1 << 20,))


def call(*words: str) -> list[str]:
    return ["bench", *words, "--device", "cpu", "--threads", "1", "--repeat", "2"]


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*call(*words), "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return said


CALLS = [
    ("decode", "--prompt", "16", "--new", "6"),
    ("decode", "--prompt", "16", "--new", "6", "--batch", "3", "--quantize", "int4"),
    ("decode", "--shape", "gpt2", "--prompt", "16", "--new", "6", "--plain"),
    ("prefill", "--prompt", "16", "--dtype", "fp32"),
    ("train", "--prompt", "16"),
    ("finetune", "--prompt", "16", "--batch", "1"),
    ("finetune", "--prompt", "16", "--shape", "gpt2", "--quantize", "nf4"),
]


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_a_work_answers_with_what_it_says(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    said = answered(capsys, *words)
    assert said.keys() == ABOUT | {"figures", "probes", "peak_mib"}
    assert said["probes"].keys() == PROBES and said["peak_mib"] > 10
    assert (said["work"], said["prompt"], said["threads"], said["repeat"]) == (words[0], 16, 1, 2)
    (figure,) = said["figures"]
    assert figure.keys() == FIGURE and (figure["name"], figure["unit"]) == (words[0], "tok/s")
    assert len(figure["rounds"]) == 2 and min(figure["rounds"]) > 0 and figure["median"] == median(figure["rounds"])
    assert figure["percent"] == pytest.approx(100 * figure["median"] / figure["limit"])
    assert figure["limited_by"].endswith("GB/s" if words[0] == "decode" else "GFLOP/s")


def test_starting_is_its_parts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.bench.works.IMPORTS", "")
    said = answered(capsys, "startup", "--prompt", "16")
    whole, *parts = said["figures"]
    assert [part["name"] for part in parts] == ["imports", "load", "first token"]
    assert whole["rounds"] == pytest.approx([sum(times) for times in zip(*(part["rounds"] for part in parts))])
    assert whole["percent"] == pytest.approx(100 * whole["limit"] / whole["median"])
    assert all(part["limit"] is None and part["percent"] is None for part in parts)


@pytest.mark.parametrize("work", ["decode", "prefill", "train", "finetune", "startup"])
def test_any_model_can_be_measured(
    work: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fathom.bench.works.IMPORTS", "")
    folder = model_folder(tmp_path / "model", ByteTokenizer())
    said = answered(capsys, work, str(folder), "--prompt", "8", "--new", "6")
    assert said["model"] == str(folder) and said["parameters"] > 0


def test_the_table_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call("prefill", "--prompt", "16", "--dtype", "fp32")) == 0
    shown = capsys.readouterr().out
    assert "a prompt of 16 tokens; medians of 2" in shown and "512 x 64 x 160, float32" in shown
    assert shown.startswith(f"110M: {n_parameters(LLAMA):,} parameters, float32;")


def test_rates_and_times_are_held_against_the_limit() -> None:
    machine = Probes(40.0, 30.0, 400.0, "")
    rate = Measurement("decode", "tok/s", (9.0, 11.0, 10.0), bytes=2e9).against(machine)
    assert (rate.median, rate.limit, rate.percent) == (10.0, 20.0, 50.0)
    time = Measurement("startup", "s", (0.5, 0.1, 0.2), bytes=4e9).against(machine)
    assert (time.median, time.limit, time.percent) == (0.2, 0.1, 50.0)
    flops = Measurement("train", "tok/s", (100.0,), flops=1e9).against(machine)
    assert (flops.limit, flops.percent) == (400.0, 25.0)
    assert Figure("imports", "s", (1.0,)).percent is None


def test_decoding_counts_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps after the first 4 find so many tokens, their own included, on average."""
    options, seen = BenchOptions(work="decode", prompt=10, new=9, repeat=1, batch=2), []
    model = random_model(LLAMA, torch.float32)
    plain = type(model).hidden

    def hidden(self: Any, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        assert ids.shape == (2, 1)
        seen.append(cache.length + 1)
        return plain(self, ids, cache)

    monkeypatch.setattr(type(model), "hidden", hidden)
    works.decode(model, options)
    assert seen == list(range(11, 20))
    assert works.mean_filled(options) == sum(seen[UNCOUNTED:]) / len(seen[UNCOUNTED:])


def test_a_prompt_read_in_chunks_says_the_token_that_it_says_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(works, "CHUNK", 5)
    model = random_model(LLAMA, torch.float32)
    ids = works.random_ids(model, 3, 17)
    with torch.no_grad():
        assert torch.equal(works.read(model, works.empty_cache(model, 3, 17), ids), model(ids)[:, -1].argmax(-1))


def test_plain_is_without_what_generation_prepares(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []
    monkeypatch.setattr(works, "prepare", lambda model: prepared.append(model) or model)
    for plain in (True, False):
        assert prepared == []
        bench(BenchOptions(work="prefill", prompt=4, repeat=1, device="cpu", plain=plain))
    assert len(prepared) == 1


def test_an_adapter_stands_where_the_peers_put_it() -> None:
    options = BenchOptions(work="finetune", prompt=8, batch=1, repeat=1, device="cpu", dtype="fp32")
    assert works.finetune(random_model(GPT, torch.float32), options).targets == ("attn.q", "attn.k", "attn.v")
    assert len(works.finetune(random_model(LLAMA, torch.float32), options).targets) == 7


def test_an_adapters_step_takes_as_many_rows_at_a_time_as_finetune_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.training.tuning.AT_ONCE", 2 * 8 * LLAMA.d_model)
    options = BenchOptions(work="finetune", prompt=8, batch=4, repeat=1, device="cpu", dtype="fp32")
    model, rows = random_model(LLAMA, torch.float32), []
    model.blocks[0].register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    works.finetune(model, options)
    assert rows == [2] * 4  # two steps, the first one uncounted


def test_memory_is_measured_before_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(room, "peak_memory", lambda device: order.append("peak") or 2**20)
    monkeypatch.setattr(room, "probe", lambda *_: order.append("probes") or Probes(1.0, 1.0, 1.0, ""))
    assert "peak memory 1 MiB" in text(bench(BenchOptions(work="prefill", prompt=4, repeat=1, device="cpu")))
    assert order == ["peak", "probes"]


BAD = [
    (("decod",), "decode"),
    (("decode", "--shape", "1B"), "1.1B"),
    (("decode", "--quantize", "int3"), "int4"),
    (("decode", "--dtype", "fp8"), "fp16"),
    (("decode", "--new", "4"), "first 4"),
    (("decode", "--new", "many"), "whole number"),
    (("prefill", "--prompt", "0"), "at least 1"),
    (("decode", "--repeat", "0"), "at least 1"),
    (("decode", "missing-folder"), "missing-folder"),
    (("decode", "some", "--shape", "7B"), "one of them"),
    (("decode", "--shape", "gpt2", "--prompt", "100"), "64"),
    (("prefill", "--shape", "gpt2", "--prompt", "100"), "64"),
    (("train", "--quantize", "int4"), "packed"),
    (("train", "--plain"), "plain"),
    (("train", "--prompt", "100"), "64"),
    (("finetune", "--prompt", "100"), "64"),
    (("finetune", "--dtype", "fp16"), "fp16"),
    (("decode", "--shap", "7B"), "--shape"),
]


@pytest.mark.parametrize("words, hint", BAD, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None)
def test_a_mistake_is_one_line(words: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words, "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and hint in said.err
