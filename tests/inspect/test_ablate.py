"""Parts taken away: nothing cut changes nothing, a cut is the edit that it says, a sweep is its cells."""

import pytest
import torch

from fathom.errors import FathomError
from fathom.inspect import ablate
from fathom.inspect.ablate import Cut, columns, continued, effect, logits_without, places, sweep
from fathom.inspect.edit import edit, zero
from fathom.inspect.identities import broken, zeroing_a_head
from fathom.inspect.look import look
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of

LAYERED = {name: config for name, config in ARCHITECTURES.items() if config.n_layer}
with_layers = pytest.mark.parametrize("config", LAYERED.values(), ids=LAYERED.keys())


@torch.no_grad()
def opened(config: ModelConfig, how: ablate.How = "zero", fault: ablate.Fault = "none") -> tuple[Cut, torch.Tensor]:
    model, ids = model_of(config, std=0.2), ids_for(config, 1)
    with look(model, "**") as seen:
        model(ids)
    return Cut(model, seen, how, places(11, 9, seed=3), fault), ids


def without(cut: Cut, ids: torch.Tensor, *parts: str) -> torch.Tensor:
    return logits_without(cut.model, ids, cut.edits([parts]))[0]


@with_layers
def test_nothing_cut_changes_no_bit(config: ModelConfig) -> None:
    cut, ids = opened(config)
    assert torch.equal(without(cut, ids), cut.seen["logits"][0])
    assert (effect(cut.seen["logits"][0], without(cut, ids), ids).kl == 0).all()


@with_layers
@torch.no_grad()
def test_a_part_cut_is_the_edit_of_its_name(config: ModelConfig) -> None:
    cut, ids = opened(config)
    after = "_after" * (config.residual in ("post", "sandwich"))
    with edit(cut.model, zero("blocks.1.attn.z", head=2)):
        assert torch.equal(without(cut, ids, "blocks.1.attn.head.2"), cut.model(ids)[0])
    written = [zero(f"blocks.1.attn{after}")] + [zero(f"blocks.1.mlp{after}")] * (config.mlp != "none")
    with edit(cut.model, *written):
        assert torch.equal(without(cut, ids, "blocks.1"), cut.model(ids)[0])
    if config.residual != "off":  # a block that writes nothing passes the stream on
        with look(cut.model, "blocks.1", "blocks.0") as seen:
            without(cut, ids, "blocks.1")
        assert torch.equal(seen["blocks.1"], seen["blocks.0"])


@pytest.mark.parametrize("how", ["mean", "resample"])
@torch.no_grad()
def test_what_stands_in_the_place_of_a_head(how: ablate.How) -> None:
    cut, ids = opened(LLAMA, how)
    with look(cut.model, "**.z") as seen:
        without(cut, ids, "blocks.1.attn.head.2")
    z, new = cut.seen["blocks.1.attn.z"][0, :, 2], seen["blocks.1.attn.z"][0, :, 2]
    torch.testing.assert_close(new, z.mean(0).expand_as(z) if how == "mean" else z[places(11, 9, 3)[:11]])
    assert torch.equal(seen["blocks.1.attn.z"][0, :, 3], cut.seen["blocks.1.attn.z"][0, :, 3])


@with_layers
@torch.no_grad()
def test_an_edge_cut_leaves_its_share_to_the_others(config: ModelConfig) -> None:
    cut, ids = opened(config)
    for name, heads in (("blocks.1.attn.head.2", [2]), ("blocks.1.attn", range(6))):
        with look(cut.model, "blocks.1.attn.pattern", "blocks.1.attn") as seen:
            without(cut, ids, f"{name}.query.7.key.6")
        pattern, before = seen["blocks.1.attn.pattern"][0], cut.seen["blocks.1.attn.pattern"][0]
        for head in range(6):
            row, old = pattern[head, 7], before[head, 7].clone()
            if head in heads:
                left = 1 - old[6]  # which a sink shares in, where there is one
                old[6] = 0
                old = old / left
            torch.testing.assert_close(row, old, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(pattern[:, :7], before[:, :7])


@with_layers
@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_a_cell_of_the_sweep_is_its_cut(config: ModelConfig, how: ablate.How, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate, "AT_ONCE", 4 * 11 * 37)  # so that four parts are cut at a time
    cut, ids = opened(config, how)
    before, names = cut.seen["logits"][0], columns(config)
    found = sweep(cut, ids, before, [0, 2])
    assert found.kl.shape == found.change.shape == (2, 6 + (1 if config.mlp == "none" else 3), 11)
    for row, layer in enumerate((0, 2)):
        for column in (0, 4, len(names) - 1):
            one = effect(before, without(cut, ids, f"blocks.{layer}{names[column]}"), ids)
            torch.testing.assert_close(found.kl[row, column], one.kl, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found.change[row, column], one.change, atol=1e-5, rtol=1e-4, equal_nan=True)


@torch.no_grad()
def test_the_effect_is_in_nats() -> None:
    before, after, ids = torch.randn(5, 37), torch.randn(5, 37), torch.randint(37, (1, 5))
    found, old, new = effect(before, after, ids), before.log_softmax(-1), after.log_softmax(-1)
    divergence = torch.nn.functional.kl_div(new, old, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found.kl, divergence)
    losses = [torch.nn.functional.cross_entropy(x[:-1], ids[0, 1:], reduction="none") for x in (before, after)]
    torch.testing.assert_close(found.change[:-1], losses[0] - losses[1])
    assert found.change[-1].isnan()


@pytest.mark.parametrize("name", ["gpt", "llama", "window", "sandwich", "experts", "no stream", "alibi"])
@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_text_goes_on_as_without_a_cache(name: str, how: ablate.How) -> None:
    cut, ids = opened(ARCHITECTURES[name], how)
    parts = ["blocks.1.attn.head.2", "blocks.2.mlp", "blocks.0.attn.head.1.query.7.key.6"]
    tokens, text = continued(cut, ids, parts, 6), ids
    for token in tokens:
        edits = cut.edits([parts])
        assert without_cache(cut.model, text, edits) == token
        text = torch.cat((text, torch.tensor([[token]])), 1)


@torch.no_grad()
def without_cache(model: Transformer, ids: torch.Tensor, edits: list[ablate.Edit]) -> int:
    return int(logits_without(model, ids, edits)[0, -1].argmax())


def test_slices_of_what_attention_adds_are_no_head() -> None:
    """C7's fault: the identity goes red."""
    for fault, red in (("none", []), ("slices", ["zeroed head is missing from attn"])):
        cut, ids = opened(GPT, fault=fault)  # type: ignore[arg-type]
        [one] = cut.edits([["blocks.1.attn.head.2"]])
        assert broken("zeroing_a_head", zeroing_a_head(cut.model, ids, 1, 2, one)) == red


@pytest.mark.parametrize(
    "name, says",
    [
        ("blocks.7", "blocks 0 to 2"),
        ("blocks.1.attn.head.6", "heads 0 to 5"),
        ("blocks.1.attn.haed.1", "no part that can be taken away"),
        ("blocks.1.attn.query.3.key.5", "comes later"),
        ("blocks.1.attn.query.30.key.5", "tokens 0 to 10"),
        ("blocks.1.attn.query.0.key.0", "nothing left"),
    ],
)
def test_what_is_no_part_is_said(name: str, says: str) -> None:
    cut, ids = opened(GPT)
    with pytest.raises(FathomError, match=says):
        without(cut, ids, name)


def test_a_key_outside_of_the_window_is_said() -> None:
    cut, ids = opened(ARCHITECTURES["window"])
    with pytest.raises(FathomError, match="window"):
        without(cut, ids, "blocks.1.attn.query.9.key.2")


def test_attention_alone_has_no_mlp_to_cut() -> None:
    cut, ids = opened(ARCHITECTURES["attention alone"])
    with pytest.raises(FathomError, match="no MLP"):
        without(cut, ids, "blocks.1.mlp")
