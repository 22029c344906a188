"""Foreign names live in one table: its column `ours` is what the models have, and all renamings come back."""

import pytest
import torch

from fathom.families.registry import families, of
from fathom.model.config import ModelConfig
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer


@pytest.mark.parametrize("config", [GPT2, LLAMA2_7B], ids=["GPT-2", "LLaMA 2"])
def test_the_table_is_the_state_dict(config: ModelConfig) -> None:
    with torch.device("meta"):
        tensors = set(Transformer(config).state_dict())
    tied = {"unembed.weight"} if config.tie_embeddings else set()
    family = of(config)
    assert set(family.places(config, "ours")) == tensors - tied
    for kind in family.columns:
        assert len(set(family.places(config, kind).values())) == len(tensors - tied)
        for ours in tensors:
            [there] = family.rename(ours, "ours", kind)
            assert ours in family.rename(there, kind, "ours")


def test_weight_names_hold_no_digits_but_the_layer() -> None:
    rows = [ours for family in families().values() for column in family.columns.values() for ours in column.tensors]
    assert not [ours for ours in rows if any(letter.isdigit() for letter in ours)]
