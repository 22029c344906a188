"""What peft keeps besides low-rank matrices: whole modules, biases, a vocabulary that has grown, rows of tokens.

Both ways, and with whatever version of peft is installed: features that it does not have are skipped.
"""

from pathlib import Path

import pytest
import torch

from fathom.adapters import lora
from fathom.adapters.merge import merged_copy
from fathom.adapters.peft import load
from fathom.errors import FathomError
from tests.adapters.peft_cases import CASES, GPT, LLAMA, TWO, Absent, adapted, differences, some_ids
from tests.adapters.test_peft import CLOSE, base_in, ours, peft, theirs


@pytest.mark.parametrize("case", CASES)
def test_we_read_theirs_and_they_read_ours(tmp_path: Path, case: str) -> None:
    peft()
    try:
        found = differences(case, tmp_path)
    except Absent as reason:
        pytest.skip(f"this version of peft: {reason}")
    assert max(x for x in found.values() if x == x) < CLOSE, found


@torch.no_grad()
@pytest.mark.parametrize("case", ["grown and trained", "tokens, tied", "all biases", "dora", "everything"])
def test_off_merged_and_removed(tmp_path: Path, case: str) -> None:
    name, added, settings = CASES[case]
    base = base_in(tmp_path, name)
    try:
        model = adapted(base, added, settings, tmp_path / "adapter")
    except Absent as reason:
        pytest.skip(f"this version of peft: {reason}")
    x, mine = some_ids(model), ours(base)
    before, logits = theirs(base)(x.clamp(max=60)).logits, model(x).logits
    load(mine, tmp_path / "adapter")
    lora.disable(mine)
    assert (mine(x.clamp(max=60))[..., :61] - before).abs().max() < CLOSE
    lora.enable(mine)
    lora.merge(mine)
    assert (mine(x) - logits).abs().max() < CLOSE
    lora.unmerge(mine)
    lora.remove(mine, "default")
    assert (mine(x.clamp(max=60))[..., :61] - before).abs().max() < CLOSE


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
    try:
        model = adapted(base, 0, {"target_modules": TWO, "lora_bias": True}, tmp_path / "adapter")
    except Absent as reason:
        pytest.skip(f"this version of peft: {reason}")
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
