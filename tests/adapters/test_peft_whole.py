"""What peft keeps besides low-rank matrices: whole modules, biases, a vocabulary that has grown, rows of tokens.

Both ways, and with whatever version of peft is installed: features that it does not have are skipped.
"""

import dataclasses
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fathom.adapters import lora
from fathom.adapters.merge import merged_copy
from fathom.adapters.peft import load, save
from fathom.adapters.peft_tensors import WEIGHTS
from fathom.errors import FathomError
from tests.adapters.test_peft import BASES, CLOSE, base_in, nudge, ours, peft, theirs
from tests.formats import hf

BASES |= {"llama, biased": hf.LLAMA | {"attention_bias": True, "mlp_bias": True}}
GPT, LLAMA, TIED, BIASED = "gpt2", "llama", "llama, tied", "llama, biased"
TWO = ["q_proj", "v_proj"]
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {  # base, tokens added to the vocabulary, settings
    "head": (LLAMA, 0, {"target_modules": TWO, "modules_to_save": ["lm_head"]}),
    "both ends": (LLAMA, 0, {"target_modules": TWO, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "embedding and norms": (LLAMA, 0, {"target_modules": TWO, "modules_to_save": ["embed_tokens", "norm"]}),
    "norms of layers": (GPT, 0, {"target_modules": ["c_attn"], "modules_to_save": ["ln_1"]}),
    "a whole part": (LLAMA, 0, {"target_modules": TWO, "modules_to_save": ["mlp"]}),
    "one matrix of GPT-2": (GPT, 0, {"target_modules": ["c_fc"], "modules_to_save": ["c_attn"]}),
    "tied, the embedding": (TIED, 0, {"target_modules": TWO, "modules_to_save": ["embed_tokens"]}),
    "tied, the head": (TIED, 0, {"target_modules": TWO, "modules_to_save": ["lm_head"]}),
    "grown": (LLAMA, 3, {"target_modules": TWO}),
    "shrunk": (LLAMA, -3, {"target_modules": TWO}),
    "grown, tied": (TIED, 3, {"target_modules": TWO}),
    "grown, GPT-2": (GPT, 3, {"target_modules": ["c_attn"]}),
    "grown and trained": (LLAMA, 3, {"target_modules": TWO, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "grown and adapted": (LLAMA, 3, {"target_modules": [*TWO, "embed_tokens", "lm_head"]}),
    "a copy of the head": (LLAMA, 0, {"target_modules": [*TWO, "lm_head"], "use_dora": True}),
    "tokens": (LLAMA, 0, {"target_modules": TWO, "trainable_token_indices": [3, 60, 7]}),
    "tokens, tied": (TIED, 0, {"target_modules": TWO, "trainable_token_indices": [3, 60]}),
    "tokens, tied, GPT-2": (GPT, 0, {"target_modules": ["c_attn"], "trainable_token_indices": {"wte": [3, 60]}}),
    "tokens of both": (LLAMA, 0,
     {"target_modules": TWO, "trainable_token_indices": {"embed_tokens": [3], "lm_head": [4]}}),
    "tokens that were added": (LLAMA, 2, {"target_modules": TWO, "trainable_token_indices": [61, 62]}),
    "all biases": (GPT, 0, {"target_modules": ["c_attn", "c_fc"], "bias": "all"}),
    "biases of layers": (BIASED, 0, {"target_modules": TWO, "bias": "lora_only"}),
    "all biases of LLaMA": (BIASED, 0, {"target_modules": TWO, "bias": "all"}),
    "a bias of b": (GPT, 0, {"target_modules": ["c_attn", "c_fc"], "lora_bias": True}),
    "a bias of b, rslora": (BIASED, 0, {"target_modules": [*TWO, "down_proj"], "lora_bias": True, "use_rslora": True}),
    "layer 0": (LLAMA, 0, {"target_modules": TWO, "layers_to_transform": 0, "layers_pattern": "layers"}),
    "layers and a pattern": (GPT, 0,
     {"target_modules": ["c_attn"], "layers_to_transform": [0, 1], "layers_pattern": ["h"]}),
    "layer 1, no pattern": (LLAMA, 0, {"target_modules": TWO, "layers_to_transform": [1]}),
    "all but some": (LLAMA, 0,
     {"target_modules": [*TWO, "o_proj"], "exclude_modules": r".*layers\.1\.self_attn\.v_proj"}),
    "all but a list": (LLAMA, 0,
     {"target_modules": [*TWO, "o_proj"], "exclude_modules": ["layers.0.self_attn.o_proj"]}),
    "a regular expression": (LLAMA, 0, {"target_modules": r".*\.layers\.\d+\.mlp\.(up|down)_proj"}),
    "one it cannot follow": (LLAMA, 0, {"target_modules": r"(?!.*layers\.0).*(q|up)_proj"}),
    "ranks and alphas": (LLAMA, 0,
     {"target_modules": TWO, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 9}}),
}  # fmt: skip


def adapted(base: Path, added: int, settings: dict[str, Any], folder: Path) -> nn.Module:
    """A model with a peft adapter that has learned something, saved in `folder`."""
    if unknown := settings.keys() - {field.name for field in dataclasses.fields(peft().LoraConfig)}:
        pytest.skip(f"this version of peft has no {unknown}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = theirs(base)
        if added:
            model.resize_token_embeddings(model.config.vocab_size + added)
        try:
            config = peft().LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **settings)
            model = peft().get_peft_model(model, config)
        except (AttributeError, ValueError) as problem:
            pytest.skip(f"this version of peft cannot make it: {problem}")
        nudge(parameter for parameter in model.parameters() if parameter.requires_grad)
        model.eval().save_pretrained(folder)
    if settings.get("bias", "none") != "none" and not any(".bias" in name for name in load_file(folder / WEIGHTS)):
        pytest.skip("this version of peft forgets biases")
    return model  # type: ignore[no-any-return]


def some_ids(model: Any) -> Tensor:
    """Every token once, the added ones too."""
    return torch.randperm(model.config.vocab_size)[None]


def read_again(base: Path, added: int, folder: Path, caplog: pytest.LogCaptureFixture) -> nn.Module:
    """As peft reads it, without a warning."""
    model: Any = theirs(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if added:
            model.resize_token_embeddings(model.config.vocab_size + added)
        warnings.simplefilter("error", UserWarning)  # peft's are; what transformers will change is its own business
        warnings.filterwarnings("ignore", message=".*(tied|tie_word_embeddings)")  # of whatever adapts a tied matrix
        caplog.clear()
        model = peft().PeftModel.from_pretrained(model, folder).eval()
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", CASES)
def test_we_read_theirs_and_they_read_ours(tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    name, added, settings = CASES[case]
    base = base_in(tmp_path, name)
    model = adapted(base, added, settings, tmp_path / "adapter")
    x = some_ids(model)
    mine = ours(base)
    load(mine, tmp_path / "adapter")
    if added >= 0:
        lora.disable(mine)
        assert (mine(x.clamp(max=60))[..., :61] - theirs(base)(x.clamp(max=60)).logits).abs().max() < CLOSE
        lora.enable(mine)
    logits = model(x).logits
    assert (mine(x) - logits).abs().max() < CLOSE
    save(mine, tmp_path / "again", base=base)
    again = read_again(base, added, tmp_path / "again", caplog)
    assert (again(x).logits - logits).abs().max() < CLOSE
    mine = ours(base)
    load(mine, tmp_path / "again", base=base)
    assert (mine(x) - logits).abs().max() < CLOSE
    assert (merged_copy(mine)(x) - logits).abs().max() < CLOSE
    lora.merge(mine)
    assert (mine(x) - logits).abs().max() < CLOSE
    lora.unmerge(mine)
    lora.remove(mine, "default")
    if not added:
        assert (mine(x) - theirs(base)(x).logits).abs().max() < CLOSE


def test_an_embedding_that_was_not_saved(tmp_path: Path) -> None:
    """Where the head alone is a target, peft saves the head alone: the rows of the added tokens are gone."""
    base = base_in(tmp_path, LLAMA)
    adapted(base, 3, {"target_modules": [*TWO, "lm_head"]}, tmp_path / "adapter")
    mine = ours(base)
    with pytest.raises(FathomError, match=r"embed_tokens.weight is missing, and the vocabulary is another"):
        load(mine, tmp_path / "adapter")
    assert mine.config.vocab_size == len(mine.embed.weight) == 61


def test_a_bias_of_b_has_no_place_in_a_model_without_biases(tmp_path: Path) -> None:
    """As in peft, which refuses the merge."""
    base = base_in(tmp_path, LLAMA)
    model = adapted(base, 0, {"target_modules": TWO, "lora_bias": True}, tmp_path / "adapter")
    mine, x = ours(base), some_ids(model)
    load(mine, tmp_path / "adapter")
    assert (mine(x) - model(x).logits).abs().max() < CLOSE
    with pytest.raises(FathomError, match=r"blocks.0.attn.q has a bias with the adapter .*; run it unmerged"):
        merged_copy(mine)


def test_half_of_a_whole_weight(tmp_path: Path) -> None:
    """Weights of adapters count for what they hold whole, too; rows of a batch share it."""
    base = base_in(tmp_path, GPT)
    adapted(base, 0, {"target_modules": ["c_attn"], "modules_to_save": ["ln_1"]}, tmp_path / "adapter")
    mine = ours(base)
    before = mine.blocks[0].attn_norm.weight.clone()
    load(mine, tmp_path / "adapter")
    after = mine.blocks[0].attn_norm.weight.clone()
    lora.scale(mine, "default", 0.5)
    assert torch.allclose(mine.blocks[0].attn_norm.weight, (before + after) / 2)
    with pytest.raises(FathomError, match="holds whole weights, which all rows of a batch share"):
        lora.scale(mine, "default", torch.ones(2, 1, 1))
    lora.remove(mine, "default")
    assert torch.equal(mine.blocks[0].attn_norm.weight, before)
