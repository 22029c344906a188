"""P8: the text with a cache is the text without one, its bytes are the cache's, and every mistake of a cache is red."""

from pathlib import Path

import pytest
import torch

import fathom
from fathom.errors import FathomError
from fathom.generation.generate import generate
from fathom.glass import generation
from fathom.glass.generation import Options, kept, panel, stream
from fathom.glass.passes import Pass, first_pass
from fathom.glass.subject import open_subject
from fathom.inspect.cache_view import Fault, no_effect
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from tests.architectures import ARCHITECTURES, BEYOND, GPT, LLAMA
from tests.glass.panels import a_pass, differs_in_python

EVERY = {**ARCHITECTURES, **BEYOND}
every_architecture = pytest.mark.parametrize("config", EVERY.values(), ids=EVERY.keys())


@pytest.fixture
def stories(shared_data: Path) -> Pass:
    return first_pass(open_subject(shared_data / "stories260K" / "stories260K.bin"), "Once upon a time, there was")


@every_architecture
@torch.no_grad()
def test_every_architecture(config: ModelConfig) -> None:
    run = a_pass(config)
    shown = panel(run, Options(max_new_tokens=5))
    assert [check.id for check in shown.checks] == ["C9"] * 3
    tokens = [row["id"] for row in shown.facts["rows"]]
    assert len(tokens) == 5 and tokens == [row["twin"]["id"] for row in shown.facts["rows"]]
    cache = KVCache(run.model.config, 1, run.t + 5)
    assert shown.facts["allocated"] == shown.series["allocated"].values.item() == cache.nbytes
    assert not differs_in_python(run, shown)


@pytest.mark.parametrize("fault", ["offset", "mask", "unrotated"])
@torch.no_grad()
def test_each_mistake_is_red(stories: Pass, fault: Fault) -> None:
    assert panel(stories, Options()).ok
    wrong = panel(stories, Options(fault=fault))
    assert not wrong.ok and not no_effect(stories.model, fault, stories.t)
    assert wrong.checks[0].says == "cached logits = uncached" and wrong.checks[0].residual > 0.01
    assert not differs_in_python(stories, wrong)
    assert Options(fault=fault) in kept(stories)


@torch.no_grad()
def test_a_mistake_without_effect_is_explained() -> None:
    run = a_pass(GPT)
    shown = panel(run, Options(fault="unrotated", max_new_tokens=4))
    assert "not rotated" in shown.facts["note"] and Options(fault="unrotated") not in kept(run)


@torch.no_grad()
def test_the_text_is_that_of_generate(stories: Pass) -> None:
    """Greedy, and drawn with a seed: the same loop as `fathom generate` has, to the token."""
    tokenizer = stories.subject.tokenizer
    assert tokenizer is not None
    for changes in ({"temperature": 0.0}, {"temperature": 0.9, "top_k": 20, "seed": 5}):
        shown = panel(stories, Options(max_new_tokens=12, **changes))
        prompt = [stories.ids[0].tolist()]
        expected = generate(stories.model, tokenizer, prompt, max_new_tokens=12, **{"seed": 0, **changes})[0].tokens
        assert [row["id"] for row in shown.facts["rows"]] == list(expected) and shown.ok


def test_the_stream_gives_what_the_panel_shows(stories: Pass) -> None:
    lines = list(stream(stories, {"max_new_tokens": 6, "temperature": 0}))
    rows = panel(stories, Options(max_new_tokens=6)).facts["rows"]
    assert lines[-1]["done"] == "length" and all(check["ok"] for check in lines[-1]["checks"])
    same = ("step", "id", "text", "made", "reused", "bytes")
    assert [[line[name] for name in same] for line in lines[:-1]] == [[row[name] for name in same] for row in rows]
    assert [line["step"] for line in lines[:-1]] == [*range(6)] and lines[0]["twin"]["made"] == stories.t
    alone = list(stream(stories, {"max_new_tokens": 3, "cache": False}))
    assert [line["made"] for line in alone[:-1]] == [stories.t, stories.t + 1, stories.t + 2]
    assert not alone[-1]["checks"] and all(line["bytes"] == 0 and line["twin"] is None for line in alone[:-1])


def test_the_stream_stops_within_a_token(stories: Pass) -> None:
    passes = []
    handle = stories.model.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    running = stream(stories, {"max_new_tokens": 100, "twin": False})
    next(running), next(running)
    running.close()
    handle.remove()
    assert len(passes) == 2


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 10**9}, "expected 1 to 4,096"),
        ({"temperature": -1}, "temperature is -1"),
        ({"fault": "other"}, "choose one of|one of"),
        ({"fault": "mask", "cache": False}, "cache, which is off"),
        ({"seed": -1}, "seed is -1"),
        ({"tokens": 3}, "unknown field"),
    ],
)
def test_wrong_calls_are_one_line(stories: Pass, values: dict[str, object], says: str) -> None:
    with pytest.raises(FathomError, match=says) as error:
        stream(stories, values)
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_it_ends_where_it_must(stories: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    full = a_pass(GPT, t=GPT.context_length)
    assert "fills the context of 23 tokens" in (panel(full, Options()).absent or "")
    near = panel(a_pass(GPT, t=20), Options())
    assert near.facts["done"] == "context" and len(near.facts["rows"]) == 3
    chosen = panel(stories, Options(max_new_tokens=8)).facts["rows"][2]["id"]
    monkeypatch.setattr(generation, "ends", lambda run, id: id == chosen)
    ended = panel(stories, Options(max_new_tokens=8))
    assert ended.facts["done"] == "end" and ended.facts["rows"][-1]["id"] == chosen
    monkeypatch.setattr(generation, "SECONDS", -1.0)
    assert len(panel(a_pass(LLAMA), Options()).facts["rows"]) == 1


def test_a_cache_of_another_size_is_red(stories: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.inspect.cache_view.cache_bytes", lambda *_: 1)
    shown = panel(stories, Options(max_new_tokens=2))
    assert [check.says for check in shown.checks if not check.ok] == ["cache bytes"]
    assert fathom.__doc__
