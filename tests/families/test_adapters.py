"""LoRA of peft on models of every layout of q, k and v: read, and written again, it computes what peft does."""

from pathlib import Path

import pytest
import torch

import fathom
from fathom.adapters import peft as ours
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.training.loss import next_token_loss
from tests.families.test_variants import EVERY, logits

MODELS = (
    "Qwen3",
    "Gemma 2",
    "Phi-3, longrope",
    "ERNIE 4.5",
    "GLM-4",
    "Command-R",
    "Pythia",
    "GPT-J",
    "OPT",
    "StarCoder2",
    "Falcon",
    "Falcon 40B",
)
WORDS = (
    "q",
    "k",
    "v",
    "o",
    "qkv",
    "query_key_value",
    "dense",
    "out",
    "down",
    "up",
    "gate_up",
    "fc1",
    "c_fc",
    "fc_in",
    "dense_h_to_4h",
    "dense_4h_to_h",
)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_an_adapter_of_peft_both_ways(tmp_path: Path, name: str) -> None:
    library = pytest.importorskip("peft", reason="needs the extra `peers`")
    from tests.formats.hf import make

    theirs = make(EVERY[name])
    theirs.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    linear = {part.rpartition(".")[2] for part, module in theirs.named_modules() if isinstance(module, torch.nn.Linear)}
    targets = sorted(word for word in linear if word.removesuffix("_proj") in WORDS)
    assert len(targets) >= 3
    torch.manual_seed(4)
    wrapped = library.get_peft_model(theirs, library.LoraConfig(r=3, lora_alpha=5, target_modules=targets))
    for part, tensor in wrapped.named_parameters():
        if "lora_B" in part:
            tensor.normal_(std=0.2)
    wrapped.save_pretrained(tmp_path / "adapter")
    expected = logits(wrapped)
    model, _ = fathom.load(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")
    bound = 1e-5 * max(1.0, float(expected.abs().max()) / 10)
    assert (logits(model) - expected).abs().max() <= bound
    assert (logits(fathom.load(tmp_path / "base", device="cpu")[0]) - expected).abs().max() > 0.01

    ours.save(model, tmp_path / "again")
    base = type(theirs).from_pretrained(tmp_path / "base").eval()  # type: ignore[attr-defined]
    assert (logits(library.PeftModel.from_pretrained(base, tmp_path / "again").eval()) - expected).abs().max() <= bound


def test_the_loss_of_a_frozen_unembedding_knows_its_bias() -> None:
    """A frozen matrix goes through a loss of its own, which has no place for a bias."""
    from fathom.training.batches import MicroBatch

    config = ModelConfig(vocab_size=23, context_length=9, d_model=8, n_layer=1, bias=("unembed",))
    torch.manual_seed(0)
    model = Transformer(config)
    model.unembed.requires_grad_(False).bias.normal_()
    ids = torch.randint(23, (2, 9))
    batch = MicroBatch(ids[:, :-1], ids[:, 1:].flatten(), None, None)
    logit = model(ids[:, :-1]).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logit, batch.targets, reduction="sum")
    torch.testing.assert_close(next_token_loss(model, batch), expected)
