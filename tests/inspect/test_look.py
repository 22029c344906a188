"""Looking shows what the model computed, changes nothing, and leaves nothing behind."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fathom.errors import FathomError
from fathom.inspect.edit import edit, scale
from fathom.inspect.look import look
from fathom.model import tap
from fathom.model.attention import attend_fused
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def state(model: Transformer) -> list[object]:
    """Everything that looking could leave behind."""
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    return [list(map(bool, pair)) for pair in hooks] + [sorted(vars(m)) for m in model.modules()] + [tap.listener]


@every_architecture
def test_looking_changes_no_bit_and_leaves_nothing(config: ModelConfig) -> None:
    model, ids = model_of(config), ids_for(config)
    before, without = state(model), model(ids)
    with look(model, "**") as seen:
        logits = model(ids)
    assert torch.equal(logits, without)
    assert torch.equal(seen["logits"], without)
    assert state(model) == before
    assert all(block.attn.attend is attend_fused for block in model.blocks)


def test_gradients_are_those_without_looking() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    model(ids).sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    with look(model, "**") as seen:
        model(ids).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(plain, model.parameters()))  # type: ignore[arg-type]
    assert seen["blocks.1.mlp.act"].requires_grad


def test_only_what_was_asked_for() -> None:
    model = model_of(LLAMA)
    with look(model, "blocks.1.attn.pattern", "blocks.*.resid_post") as seen:
        model(ids_for(LLAMA))
    assert list(seen) == ["blocks.0", "blocks.1.attn.pattern", "blocks.1", "blocks.2"]
    assert torch.equal(seen["blocks.2.resid_post"], seen["blocks.2"])
    assert "blocks.1.resid_post" in seen and "logits" not in seen
    assert seen.get("logits") is None
    with pytest.raises(FathomError, match="was not recorded"):
        seen["blocks.1.attn.scores"]


def test_the_table() -> None:
    model = model_of(GPT)
    with look(model, "embed", "blocks.0.attn.scores") as seen:
        model(ids_for(GPT))
    header, embed, scores = seen.table().splitlines()
    assert header.split() == ["name", "shape", "dtype", "bytes", "mean", "rms"]
    assert embed.split()[:5] == ["embed", "2", "11", "20", "float32"]
    row = seen.rows()[1]
    visible = torch.ones(11, 11).tril().bool()
    assert row.rms == pytest.approx(seen["blocks.0.attn.scores"][:, :, visible].square().mean().sqrt().item())
    assert "nan" not in scores and "inf" not in scores


@pytest.mark.parametrize("name", ["gpt", "llama", "multi-query"])
def test_with_a_cache_the_pattern_spans_the_past(name: str) -> None:
    config = ARCHITECTURES[name]
    model, ids = model_of(config), ids_for(config)
    whole, parts = (KVCache(config, 2, 11) for _ in range(2))
    with torch.no_grad(), look(model, "**") as expected:
        model(ids, whole)
    with torch.no_grad(), look(model, "**") as seen:
        model(ids[:, :7], parts)
        without = model(ids[:, 7:8], parts)
        model(ids[:, 8:], parts)
    assert seen["blocks.1.attn.pattern"].shape == (2, 6, 3, 11) and without.shape[1] == 1
    for last in ("pattern", "k_rot" if config.position == "rope" else "k", "z"):
        found, right = seen[f"blocks.1.attn.{last}"], expected[f"blocks.1.attn.{last}"]
        right = right[:, :, 8:] if last == "pattern" else right[:, 8:]
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    assert seen["embed"].shape == (2, 3, 20)


def test_what_was_seen_outlives_the_cache() -> None:
    """A cache that is written over must not change a recording."""
    model, ids = model_of(GPT), ids_for(GPT)
    cache = KVCache(GPT, 2, 11)
    with torch.no_grad():
        with look(model, "blocks.0.attn.pattern") as expected:
            model(ids)
        with look(model, "blocks.0.attn.pattern") as seen:
            model(ids, cache)
    cache.store.zero_()
    torch.testing.assert_close(seen["blocks.0.attn.pattern"], expected["blocks.0.attn.pattern"])


def test_the_last_pass_is_what_is_seen() -> None:
    """Nothing of an earlier pass remains, not even what was read of it."""
    model, first, second = model_of(LLAMA), ids_for(LLAMA), ids_for(LLAMA, 1, 5)
    with look(model, "**.pattern", "logits") as seen:
        model(first)
        assert seen["blocks.0.attn.pattern"].shape == (2, 6, 11, 11)
        model.hidden(second)
        assert seen["blocks.0.attn.pattern"].shape == (1, 6, 5, 5)
        assert "logits" not in seen


def test_hidden_alone_is_a_pass_too() -> None:
    model, ids = model_of(GPT), ids_for(GPT)
    with look(model, "final_norm", "logits") as seen:
        hidden = model.hidden(ids)
    assert seen["final_norm"] is hidden and list(seen) == ["final_norm"]


def test_the_budget_is_checked_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = model_of(LLAMA), []
    model.embed.register_forward_hook(lambda *_: ran.append(1))
    with look(model, "**", max_bytes="4KiB"), pytest.raises(FathomError, match=r"largest: blocks\.0\.attn\.scores"):
        model(ids_for(LLAMA))
    assert not ran
    with look(model, "embed", max_bytes=2 * 11 * 20 * 4) as seen:
        model(ids_for(LLAMA))
    assert seen["embed"].nbytes == 2 * 11 * 20 * 4


def test_reading_before_running() -> None:
    with look(model_of(GPT), "embed") as seen, pytest.raises(FathomError, match="nothing was recorded"):
        seen["embed"]


def test_one_recording_at_a_time() -> None:
    model, other = model_of(GPT), model_of(GPT)
    with look(model, "embed"):
        for second in (lambda: look(model, "logits"), lambda: look(other, "embed"), lambda: edit(other)):
            with pytest.raises(FathomError, match="another look"), second():
                pass
    with look(model, "logits"), edit(model):
        pass


def in_thread(action: Callable[[], object]) -> object:
    found: list[object] = []

    def run() -> None:
        try:
            found.append(action())
        except FathomError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_another_thread_is_refused_and_not_recorded() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)

    def look_here() -> None:
        with look(model, "embed"):
            pass

    with edit(model, scale("blocks.*.attn.scores", 0.5), scale("**.q_rot", 2.0)), look(model, "**") as seen:
        assert "another thread" in str(in_thread(look_here))
        theirs = in_thread(lambda: model(ids[:1]))
        assert len(seen) == 0
        model(ids)
    assert torch.equal(theirs, model(ids[:1]))  # type: ignore[arg-type]
    assert seen["embed"].shape[0] == 2


def test_another_model_is_not_recorded() -> None:
    model, other = model_of(LLAMA), model_of(LLAMA)
    with look(model, "**.q_rot", "**.pattern") as seen:
        other(ids_for(LLAMA))
        assert len(seen) == 0


def test_an_exception_leaves_nothing_behind() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    before, without = state(model), model(ids)
    with pytest.raises(ZeroDivisionError), look(model, "**"):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="boom"), edit(model, scale("**.pattern", 2.0)), look(model, "**"):
        model.blocks[1].mlp.register_forward_hook(boom := Boom())  # type: ignore[union-attr]
        model(ids)
    boom.armed = False
    model.blocks[1].mlp._forward_hooks.clear()  # type: ignore[union-attr]
    assert state(model) == before
    assert torch.equal(model(ids), without)


class Boom:
    armed = True

    def __call__(self, *_: object) -> None:
        if self.armed:
            raise RuntimeError("boom")


def test_only_a_transformer_can_be_watched() -> None:
    with pytest.raises(FathomError, match="expected a Transformer, got Linear"), look(nn.Linear(2, 2), "embed"):  # type: ignore[arg-type]
        pass


def test_a_compiled_model_runs_its_plain_modules() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(ids)
        with look(model, "**") as seen:
            logits = compiled(ids)
        assert torch.equal(logits, model(ids)) and len(seen) > 40
        with edit(model, scale("blocks.0.attn.pattern", 0.5)):
            edited = compiled(ids)
        assert not torch.equal(edited, logits)
        assert torch.equal(compiled(ids), logits)
