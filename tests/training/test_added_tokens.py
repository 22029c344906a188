"""Tokens that a fine-tuning adds: their rows alone are trained, saved as peft saves a vocabulary that has grown."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fathom
from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.adapters.rows import add_rows
from fathom.adapters.whole import resize_vocabulary
from fathom.errors import FathomError
from fathom.formats.export import write_model
from fathom.tokenizer.add import with_tokens
from fathom.tokenizer.load import load as load_tokenizer
from tests.adapters.models import CONFIGS
from tests.architectures import model_of


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_added_tokens_are_trained_and_saved(tmp_path: Path, shared_data: Path, tied: bool) -> None:
    tokenizer = load_tokenizer(shared_data / "llama2_tokenizer.model")
    config = replace(CONFIGS["llama"], vocab_size=32000, context_length=64, tie_embeddings=tied)
    base = write_model(model_of(config), tokenizer, "hf", tmp_path / "base").path
    records = [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"{i}"}]} for i in range(9)
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, records)))
    options = {"add_token": ("<|im_start|>", "<|im_end|>"), "rank": 2}
    train = {"max_iters": 2, "batch_size": 2, "learning_rate": 0.1, "sample_tokens": 1}
    fathom.finetune(base, tmp_path / "d.jsonl", tmp_path / "run", options=options, train=train)
    fathom.finetune(None, None, tmp_path / "run", train={"max_iters": 3}, mode="resume")
    model, its_own = fathom.load(tmp_path / "run", device="cpu")
    assert its_own is not None and its_own.special.names["<|im_end|>"] == 32001
    assert model.config.vocab_size == len(model.embed.weight) == 32002
    before, _ = fathom.load(base, device="cpu")
    assert torch.equal(model.embed.weight[:32000], before.embed.weight)
    assert not torch.equal(model.unembed.weight[32000], before.unembed.weight.mean(0))
    names = {
        name for name in load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors") if "lora" not in name
    }
    head = set() if tied else {"base_model.model.lm_head.weight"}
    assert names == {"base_model.model.model.embed_tokens.weight"} | head
    merged = fathom.merge(base, tmp_path / "run", tmp_path / "merged")
    assert merged.max_difference < 1e-4 and not merged.untied


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_trained_rows_are_rows_of_the_matrices(tied: bool) -> None:
    model = model_of(replace(CONFIGS["llama"], tie_embeddings=tied), std=0.2)
    resize_vocabulary(model, model.config.vocab_size + 2)
    new = [model.config.vocab_size - 2, model.config.vocab_size - 1]
    lora.add(model, LoraOptions(rank=2))
    add_rows(model, new)
    ids = torch.tensor([[1, *new, 3]])
    before = model(ids)
    rows = {id(p): p for name, p in model.named_parameters() if name.endswith(".rows")}
    assert len(rows) == 2 - tied and all(p.requires_grad for p in rows.values())
    for parameter in rows.values():
        parameter.normal_()
    logits = model(ids)
    assert (logits - before).abs().max() > 0.1
    lora.merge(model)
    assert torch.allclose(model(ids), logits, atol=1e-5)


def test_what_cannot_be_added(shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "llama2_tokenizer.model")
    added = with_tokens(tokenizer, ["<|im_start|>", "</s>"])
    assert (
        added.vocab_size == 32001 and added.special.names["<|im_start|>"] == 32000 and added.prefix == tokenizer.prefix
    )
    with pytest.raises(FathomError, match="a token to add is empty"):
        with_tokens(tokenizer, [" "])
    model = model_of(CONFIGS["llama"])
    lora.add(model, LoraOptions(rank=2, targets=("embed",)))
    with pytest.raises(FathomError, match="tokens are added, and embed is a target; leave it out"):
        add_rows(model, [0])
