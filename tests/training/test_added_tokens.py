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
from fathom.tokenizer.load import to_folder
from tests.adapters.models import CONFIGS
from tests.architectures import ARCHITECTURES, model_of
from tests.families.test_variants import EVERY
from tests.formats.hf import make


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
@pytest.mark.parametrize("name", ["llama", "sandwich", "scaled", "parallel", "scaled, tied, biased"])
def test_trained_rows_are_rows_of_the_matrices(name: str, tied: bool) -> None:
    """Where embeddings or logits are scaled, capped or have a bias, too."""
    model = model_of(replace(ARCHITECTURES[name], tie_embeddings=tied), std=0.2)
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


@pytest.mark.parametrize("name", ["Qwen3", "Gemma 2", "Granite", "Command-R", "GPT-J", "Phi"])
@torch.no_grad()
def test_new_rows_begin_as_in_transformers(tmp_path: Path, name: str) -> None:
    """`resize_token_embeddings` draws them about the mean of all, with a spread of a billionth of theirs."""
    theirs = make(EVERY[name])
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    ours, _ = fathom.load(tmp_path, device="cpu")
    theirs.resize_token_embeddings(64)  # type: ignore[operator]
    resize_vocabulary(ours, 64)
    ids = torch.tensor([[3, 61, 62, 4, 63, 60]])
    assert ours.config.vocab_size == 64
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 2e-3
    assert torch.equal(ours(ids)[..., :61].argmax(-1), theirs(ids).logits[..., :61].argmax(-1))


def test_a_token_without_a_row(tmp_path: Path, shared_data: Path) -> None:
    """Tokens of the tokenizer beyond the model's rows, such as Gemma 3's, leave the vocabulary as it is, unless the
    data has one."""
    tokenizer = with_tokens(load_tokenizer(shared_data / "llama2_tokenizer.model"), ["<image>"])
    config = replace(CONFIGS["llama"], vocab_size=32000, context_length=64)
    base = write_model(model_of(config), load_tokenizer(shared_data / "llama2_tokenizer.model"), "hf", tmp_path / "b")
    for file, data in to_folder(tokenizer).items():
        (base.path / file).write_bytes(data)
    (tmp_path / "d.txt").write_text("no picture is here. " * 300)
    options, train = {"rank": 2, "context_length": 16}, {"max_iters": 1, "batch_size": 2, "sample_tokens": 1}
    fathom.finetune(base.path, tmp_path / "d.txt", tmp_path / "run", options=options, train=train)
    assert fathom.load(tmp_path / "run", device="cpu")[0].config.vocab_size == 32000
    record = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so"}]}
    template = "{% for m in messages %}<image>{{ m.content }}</s>{% endfor %}"
    (tmp_path / "d.jsonl").write_text("\n".join([json.dumps(record)] * 9))
    (base.path / "chat_template.jinja").write_text(template)
    with pytest.raises(FathomError, match="has token 32000, '<image>', and the model has rows for 32,000 tokens"):
        fathom.finetune(base.path, tmp_path / "d.jsonl", tmp_path / "run2", options=options, train=train)
    assert not (tmp_path / "run2").exists()


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
