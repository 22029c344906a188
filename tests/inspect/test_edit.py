"""Edits change exactly what they name, only inside their `with`, and never silently do nothing."""

from dataclasses import replace as change

import pytest
import torch

from fathom.errors import FathomError
from fathom.inspect.edit import Edit, edit, replace, scale, zero
from fathom.inspect.hooks import ROUTED
from fathom.inspect.look import look
from fathom.inspect.names import names
from fathom.model.attention import attend_fused
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of

EXPERTS = ARCHITECTURES["experts"]
every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def editable(config: ModelConfig) -> list[str]:
    """All names but those that only follow from another."""
    return [name for name in names(config) if not name.endswith(ROUTED)]


@every_architecture
@torch.no_grad()
def test_an_edit_of_every_name_reaches_the_logits(config: ModelConfig) -> None:
    """What is edited is what the model goes on with, whatever the name; afterwards all is as before."""
    model, ids = model_of(config), ids_for(config)
    without = model(ids)
    for name in editable(config):
        with edit(model, replace(name, lambda x: x + torch.linspace(0, 1, x.shape[-1]))), look(model, "logits") as seen:
            logits = model(ids)
        read_later = config.residual or not name.endswith(("embed", "resid_pre", "resid_mid")) or config.n_layer == 0
        if read_later and not (name.endswith(("k", "k_rot")) and config.position == "none"):
            assert not torch.equal(logits, without), name
        assert torch.equal(seen["logits"], logits)
        assert torch.equal(model(ids), without), name


@every_architecture
@torch.no_grad()
def test_patching_in_what_was_recorded_changes_nothing(config: ModelConfig) -> None:
    model, ids = model_of(config), ids_for(config)
    with look(model, "**") as seen:
        plain = model(ids)
    for name in editable(config):
        with edit(model, replace(name, lambda x: x)):  # of scores and pattern: the explicit path
            without = model(ids)
        with edit(model, replace(name, lambda x, name=name: seen[name])):  # type: ignore[misc]
            assert torch.equal(model(ids), without), name
        assert torch.equal(without, plain) or name.endswith(("scores", "pattern")), name


@torch.no_grad()
def test_patching_the_stream_carries_another_text_over() -> None:
    """With the last stream of another text, the logits are that text's."""
    model, ids, other = model_of(LLAMA), ids_for(LLAMA), ids_for(LLAMA)
    with look(model, "blocks.2", "blocks.0.resid_mid") as seen:
        expected = model(other)
    with edit(model, replace("blocks.2.resid_post", lambda x: seen["blocks.2"])):
        assert torch.equal(model(ids), expected)
    with edit(model, replace("blocks.0.resid_mid", lambda x: seen["blocks.0.resid_mid"])):
        assert torch.equal(model(ids), expected)  # the stream itself, not only what mlp_norm reads


@torch.no_grad()
def test_heads() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    with look(model, "blocks.1.attn.*") as plain:
        model(ids)
    edits = (
        zero("blocks.1.attn.z", head=4),
        scale("blocks.1.attn.pattern", 0.5, head=1),
        zero("blocks.1.attn.v", head=-1),
    )
    with edit(model, *edits), look(model, "blocks.1.attn.*") as seen:
        model(ids)
    assert (seen["blocks.1.attn.z"][:, :, 4] == 0).all() and (seen["blocks.1.attn.v"][:, :, 1] == 0).all()
    assert (seen["blocks.1.attn.z"][:, :, 3] == 0).all()  # heads 3 to 5 read the second group
    torch.testing.assert_close(seen["blocks.1.attn.z"][:, :, 1], plain["blocks.1.attn.z"][:, :, 1] / 2)
    torch.testing.assert_close(seen["blocks.1.attn.z"][:, :, 0], plain["blocks.1.attn.z"][:, :, 0])
    torch.testing.assert_close(seen["blocks.1.attn.pattern"][:, 1], plain["blocks.1.attn.pattern"][:, 1] / 2)


@torch.no_grad()
def test_edited_scores_never_show_the_future() -> None:
    model, ids = model_of(GPT), ids_for(GPT)
    with edit(model, zero("blocks.0.attn.scores")), look(model, "blocks.0.attn.*") as seen:
        model(ids)
    uniform = torch.ones(11, 11).tril() / torch.arange(1, 12)[:, None]
    torch.testing.assert_close(seen["blocks.0.attn.pattern"], uniform.expand(2, 6, 11, 11))


@torch.no_grad()
def test_an_expert_is_switched_off_by_its_score() -> None:
    """The use of experts that is recorded is that of the edited pass; what only follows from it cannot be edited."""
    model, ids = model_of(EXPERTS), ids_for(EXPERTS)
    without_first = replace("blocks.1.mlp.router", lambda x: x.index_fill(-1, torch.tensor([0]), -torch.inf))
    with look(model, "blocks.1.mlp.weights", "blocks.*.mlp.tokens") as seen:
        model(ids)
        assert seen["blocks.1.mlp.tokens"].sum() == seen["blocks.0.mlp.tokens"].sum() == 2 * ids.numel()
        assert seen["blocks.1.mlp.tokens"][0] > 0
        with edit(model, without_first):
            model(ids)
            tokens, weights = seen["blocks.1.mlp.tokens"], seen["blocks.1.mlp.weights"]
    assert tokens[0] == 0 and tokens.sum() == 2 * ids.numel() and not weights[..., 0].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(ids.shape))
    for name in ("tokens", "weights"):
        with (
            pytest.raises(FathomError, match=rf"blocks\.1\.mlp\.{name} follows from blocks\.1\.mlp\.router"),
            edit(model, zero(f"blocks.1.mlp.{name}")),
        ):
            pass


@torch.no_grad()
def test_only_the_edited_layer_takes_the_explicit_path() -> None:
    model, ids, plain = model_of(LLAMA), ids_for(LLAMA), []
    model.blocks[0].attn.attend = lambda *args: plain.append(0) or attend_fused(*args)  # type: ignore[func-returns-value]
    model.blocks[1].attn.attend = mine = lambda *args: plain.append(1) or attend_fused(*args)  # type: ignore[func-returns-value]
    with edit(model, scale("blocks.1.attn.pattern", 1.0)), look(model, "**"):
        model(ids)
    assert plain == [0]
    assert model.blocks[1].attn.attend is mine


@torch.no_grad()
def test_edits_with_a_cache_act_on_every_step() -> None:
    model, ids = model_of(GPT), ids_for(GPT)
    with edit(model, zero("blocks.*.attn.z", head=2), scale("blocks.0.attn.scores", 0.5)):
        whole = model(ids)
        cache = KVCache(GPT, 2, 11)
        parts = torch.cat([model(ids[:, i : i + 1], cache) for i in range(11)], dim=1)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_edits_in_order_nest_and_are_seen_from_outside() -> None:
    model, ids = model_of(GPT), ids_for(GPT)
    with look(model, "blocks.0.mlp", "logits") as seen:
        logits = model(ids)
        before = seen["blocks.0.mlp"]
        with edit(model, replace("blocks.0.mlp", lambda x: x + 1), scale("blocks.0.mlp", 2.0)):
            with edit(model, scale("blocks.0.mlp", 10.0)):
                model(ids)
                assert torch.equal(seen["blocks.0.mlp"], (before + 1) * 2 * 10)
            model(ids)
            assert torch.equal(seen["blocks.0.mlp"], (before + 1) * 2)
        assert torch.equal(model(ids), logits)


@torch.no_grad()
def test_an_edit_in_place_touches_nothing_else() -> None:
    model, ids = model_of(GPT), ids_for(GPT)
    with (
        edit(model, replace("blocks.1.resid_pre", torch.Tensor.zero_)),
        look(model, "blocks.*", "**.resid_pre") as seen,
    ):
        model(ids)
    assert (seen["blocks.1.resid_pre"] == 0).all() and not (seen["blocks.0"] == 0).any()


def test_gradients_flow_through_an_edit() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    with edit(model, zero("blocks.2.attn.z", head=0), scale("blocks.2.attn.scores", 0.5, head=1)):
        model(ids).sum().backward()
    out = model.blocks[2].attn.out.weight.grad
    assert out is not None and (out[:, :4] == 0).all() and (out[:, 4:] != 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (zero("blocks.0.atn.z"), "did you mean blocks.0.attn.z"),
        (zero("blocks.0.mlp", head=1), "blocks.0.mlp has no heads"),
        (zero("blocks.0.attn.z", head=6), "heads 0 to 5"),
        (zero("blocks.0.attn.v", head=2), "heads 0 to 1"),
        (replace("blocks.0", lambda x: x[:, :1]), "returned shape"),
        (replace("blocks.0.attn.z", lambda x: x.flatten(2)), "returned shape"),
        (replace("blocks.0.attn.z", lambda x: x[..., :1], head=1), "returned shape"),
        (replace("embed", torch.Tensor.half), "returned dtype torch.float16; expected torch.float32"),
        (replace("embed", lambda x: x.to("meta")), "returned device meta"),
        (replace("embed", lambda x: None), "returned NoneType"),  # type: ignore[arg-type,return-value]
    ],
)
def test_a_wrong_edit_is_one_line(wrong: Edit, message: str) -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    without = model(ids)
    with pytest.raises(FathomError) as caught, edit(model, wrong):
        model(ids)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert torch.equal(model(ids), without)


def test_an_edit_that_was_never_applied() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    idle = edit(model, zero("embed"), zero("logits"))
    with pytest.raises(FathomError, match="the edit of embed, logits was never applied"), idle:
        pass
    with pytest.raises(FathomError, match="the edit of logits was never"), edit(model, zero("embed"), zero("logits")):
        model.hidden(ids)
    with pytest.raises(KeyError), edit(model, zero("embed")):  # the first error is the one that is told
        raise KeyError


def test_dropout_and_training_go_through_the_explicit_path_too() -> None:
    config = change(GPT, dropout=0.5)
    model, ids = Transformer(config).train(), ids_for(config)
    with edit(model, scale("**.pattern", 1.0)):
        torch.manual_seed(1)
        first = model(ids)
        torch.manual_seed(2)
        assert not torch.equal(model(ids), first)
