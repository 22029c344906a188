"""`fathom look` ends with 0 for a right model and with 1 for a wrong one, and names the identity that fails: each fault
of the table of identities is planted in the model or in what is computed from it, with no switch on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import fathom.glass.lora as lora_panel
from fathom.adapters.svd import SVD
from fathom.anatomy.swap import swap
from fathom.cli.main import main
from fathom.demos import FOLDER
from fathom.formats.config_file import CONFIG
from fathom.glass import ablation, attribution, cost, document, next_token, packing
from fathom.inspect import ablate, group_view, hooks, quant_view
from fathom.model import attention
from fathom.model.attention import Attention, attend
from fathom.model.cache import KVCache
from fathom.model.transformer import Block, Transformer

Patch = pytest.MonkeyPatch
PROMPT = "a function that returns"
LONG = (
    "Return the number of items in the sequence; if the argument is not an integer, the exception ValueError is "
    "raised. See also the documentation of the class."
)


@pytest.fixture(autouse=True)
def without_the_bundle(monkeypatch: Patch) -> None:
    monkeypatch.setattr(document, "bundle", lambda: ("", ""))


def look(folder: Path, model: str, panel: str, prompt: str = PROMPT) -> int:
    return main(["look", model, "-p", prompt, "-o", str(folder / "look.html"), "--panels", panel])


def mask_dropped(patch: Patch) -> None:
    patch.setattr(attention, "causal", lambda t, s, device: torch.ones(t, s, dtype=torch.bool))


def softmax_over_the_wrong_axis(patch: Patch) -> None:
    softmax = Tensor.softmax
    patch.setattr(Tensor, "softmax", lambda x, dim: softmax(x, -2))


def heads_not_permuted(patch: Patch) -> None:
    def forward(self, x, rotate, visible, cache):
        q, k, v = (self.heads(linear(x)) for linear in (self.q, self.k, self.v))
        return self.out(self.attend(q, k, v, visible, 0.0).reshape(*x.shape[:2], -1))

    patch.setattr(Attention, "forward", forward)


def mlp_reads_the_stream_before_attention(patch: Patch) -> None:
    def forward(self, x, *rest):
        return self.join(self.join(x, self.attn(self.attn_norm(x), *rest)), self.mlp(self.mlp_norm(x)))

    patch.setattr(Block, "forward", forward)


def normed_twice(patch: Patch) -> None:
    patch.setattr(Transformer, "forward", lambda self, ids: self.unembed(self.final_norm(self.hidden(ids))))


def bias_forgotten(patch: Patch) -> None:
    right = attribution.contributions
    patch.setattr(
        attribution, "contributions", lambda *of: {n: x for n, x in right(*of).items() if n != "blocks.1.mlp.bias"}
    )


def explicit_path_while_only_reading(patch: Patch) -> None:
    ordinary = hooks.Hooks._hook_attend

    def hook(self: hooks.Hooks, path: str) -> None:
        self.undo.callback(swap(self.model, attend=attend, names=[path]).undo)
        ordinary(self, path)

    patch.setattr(hooks.Hooks, "_hook_attend", hook)


def slicing_what_attention_wrote(patch: Patch) -> None:
    cut = ablate.Cut
    patch.setattr(ablation, "Cut", lambda *given, **named: replace(cut(*given, **named), fault="slices"))


def positions_off_by_one(patch: Patch) -> None:
    positions = KVCache.positions
    patch.setattr(KVCache, "positions", lambda self, t: positions(self, t) + (1 if self.length else 0))


def tile_for_repeat_interleave(patch: Patch) -> None:
    patch.setattr(group_view, "groups", group_view.tiled)


def an_adapter_that_is_not_zero(patch: Patch) -> None:
    ordinary = lora_panel.lab.new_adapter

    def wrong(*given):
        adapter = ordinary(*given)
        torch.nn.init.constant_(adapter.b, 0.1)
        return adapter

    patch.setattr(lora_panel.lab, "new_adapter", wrong)


def v_for_its_transpose(patch: Patch) -> None:
    def matrix(self: SVD) -> Tensor:
        n = self.v.shape[1]
        return (self.u * self.s) @ self.v[:n].T @ torch.eye(n, len(self.v))

    patch.setattr(SVD, "matrix", matrix)


def nibbles_exchanged(patch: Patch) -> None:
    right = quant_view.there_and_back
    patch.setattr(packing, "there_and_back", lambda weight, scheme, _: right(weight, scheme, True))


def an_embedding_counted_as_a_product(patch: Patch) -> None:
    right = cost.products_of
    patch.setattr(cost, "products_of", lambda config, work, fault: right(config, work, "embedding"))


def softmax_over_the_top(patch: Patch) -> None:
    def wrong(logits: Tensor) -> Tensor:
        kept = logits >= logits.topk(50).values[..., -1:]
        return logits.double().masked_fill(~kept, float("-inf")).softmax(-1)

    patch.setattr(next_token, "probabilities", wrong)


FAULTS: list[tuple[str, str, str, Callable[[Patch], None]]] = [
    ("C1", "llama-gqa", "heads", mask_dropped),
    ("C1", "llama-gqa", "heads", softmax_over_the_wrong_axis),
    ("C2", "gpt-tiny", "microscope", heads_not_permuted),
    ("C3", "llama-gqa", "lens", mlp_reads_the_stream_before_attention),
    ("C4", "llama-gqa", "lens", normed_twice),
    ("C5", "gpt-tiny", "attribution", bias_forgotten),
    ("C6", "llama-gqa", "microscope", explicit_path_while_only_reading),
    ("C7", "gpt-tiny", "ablation", slicing_what_attention_wrote),
    ("C9", "llama-gqa", "generation", positions_off_by_one),
    ("C10", "llama-gqa", "groups", tile_for_repeat_interleave),
    ("C11", "llama-mha", "lora", an_adapter_that_is_not_zero),
    ("C12", "llama-mha", "lora", v_for_its_transpose),
    ("C13", "llama-gqa", "packing", nibbles_exchanged),
    ("C14", "gpt-tiny", "cost", an_embedding_counted_as_a_product),
    ("C15", "llama-gqa", "next-token", softmax_over_the_top),
]


@pytest.mark.parametrize(("id", "name", "panel", "plant"), FAULTS, ids=[fault[-1].__name__ for fault in FAULTS])
def test_a_fault_ends_with_1(
    id: str, name: str, panel: str, plant: Callable[[Patch], None], tmp_path: Path, monkeypatch: Patch, capfd
) -> None:
    plant(monkeypatch)
    assert look(tmp_path, f"demo:{name}", panel) == 1
    assert f"check failed: A/{panel}" in (said := capfd.readouterr().err) and f": {id}, " in said


def test_a_wrong_conversion_ends_with_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """C8: a file whose rows of q and k are interleaved, read as half-split."""
    wrong = tmp_path / "wrong"
    shutil.copytree(FOLDER / "llama-mha", wrong)
    tensors = load_file(wrong / "model.safetensors")
    found = [name for name in tensors if name.endswith(("attn.q.weight", "attn.k.weight"))]
    for name in found:
        rows = tensors[name].unflatten(0, (4, 2, -1))  # head, half, pair
        tensors[name] = rows.transpose(1, 2).flatten(0, 2).contiguous()
    assert found and (wrong / CONFIG).is_file()
    save_file(tensors, wrong / "model.safetensors")
    assert look(tmp_path, "demo:llama-mha", "positions", LONG) == 0
    assert look(tmp_path, str(wrong), "positions", LONG) == 1
    assert "check failed: A/positions" in (said := capfd.readouterr().err) and ": C8, " in said


def test_an_adapter_alone_says_how_to_see_what_it_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = ["look", "demo:llama-mha", "-p", PROMPT, "-o", str(tmp_path / "look.html"), "--panels", "next-token"]
    call += ["--adapter", str(FOLDER / "adapter" / "adapter")]
    assert main(call) == 0 and "--beside demo:llama-mha" in capfd.readouterr().err
    assert main([*call, "--beside", "demo:llama-mha"]) == 0 and "--beside" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["gpt-tiny", "llama-gqa"])
def test_a_right_model_ends_with_0(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = ["look", f"demo:{name}", "-p", PROMPT, "-o", str(tmp_path / "look.html"), "--json"]
    assert main(call) == 0
    said = capfd.readouterr()
    made = json.loads(said.out)
    assert made["failed"] == [] and made["checks"] > 30 and "check failed" not in said.err
