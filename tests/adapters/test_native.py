"""Adapters in native code: the numbers of the blocks one by one, and the same bits whatever rows are beside them."""

import copy
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fathom.adapters import lora
from fathom.adapters.lora import blend, per_row, switch
from fathom.adapters.options import LoraOptions
from fathom.backend.inference import InferenceModel, prepare_for_inference
from fathom.backend.pages import PAGE, PagedCache, Pages, pages_for
from fathom.errors import FathomError
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.adapters.test_lora import nudged
from tests.backend.test_inference import any_config, random_model
from tests.native.test_paged import EVEN, ODD, packed_model

ADAPTERS = {"wide": LoraOptions(rank=5), "narrow": LoraOptions(rank=2, targets=("attn.*",)),
            "deep": LoraOptions(rank=20, targets=("mlp.down", "attn.out"))}  # fmt: skip
CHOSEN = ["wide", None, "narrow", "deep", "wide"]


def with_adapters(model: Transformer, most: int = 20) -> Transformer:
    """most: their rank, as small matrices have none above their size."""
    for name, options in ADAPTERS.items():
        lora.add(model, replace(options, rank=min(most, options.rank)), name)
        nudged(model, name)
    return model.eval().requires_grad_(False)


def read(model: Transformer, ids: Tensor) -> Tensor:
    cache = KVCache(model.config, len(ids), ids.shape[1], dtype=model.embed.weight.dtype)
    return torch.cat([model(piece, cache) for piece in ids.split([20, 1, 3], 1)], 1)


def require_step(model: Transformer) -> None:
    assert isinstance(model, InferenceModel) and model.step is not None, model.status  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(20))
@torch.no_grad()
def test_fp32_is_the_plain_model(isa: str, seed: int) -> None:
    choice = random.Random(seed)
    model = random_model(config := any_config(choice))
    if config.mlp == "none":
        return
    plain = with_adapters(model, most=2)
    quick = prepare_for_inference(copy.deepcopy(plain))
    exact, ids = copy.deepcopy(plain).double(), torch.randint(0, config.vocab_size, (5, 24))
    require_step(quick)
    outcomes = []
    for one in (exact, plain, quick):
        with per_row(one, CHOSEN):
            outcomes.append(read(one, ids))
        blend(one, {"deep": 0.5, "wide": -1.5})
        outcomes.append(read(one, ids))
        switch(one, None)
        outcomes.append(read(one, ids))
    require_step(quick)
    for truth, near, nearer in zip(*(outcomes[i : i + 3] for i in (0, 3, 6))):
        assert (nearer - truth).abs().max() <= 4 * (near - truth).abs().max() + 1e-6


CASES = [("floats", torch.float32, ODD), ("floats", torch.bfloat16, EVEN), ("int4", torch.bfloat16, ODD),
         ("q4_k", torch.float32, EVEN)]  # fmt: skip


@pytest.mark.parametrize(("kind", "dtype", "config"), CASES, ids=lambda x: str(x)[:14])
@torch.no_grad()
def test_a_text_has_the_same_bits_whatever_adapters_are_beside_it(
    isa: str, kind: str, dtype: torch.dtype, config: ModelConfig
) -> None:
    choice, model = random.Random(kind), prepare_for_inference(with_adapters(packed_model(kind, dtype, config)))
    require_step(model)
    rows = [choice.choice([None, *ADAPTERS]) for _ in range(64)]
    rows[:5] = CHOSEN
    texts = [torch.randint(0, 40, (5 + choice.randrange(40),)) for _ in rows]
    pages = Pages(model.config, 4 * PAGE * len(rows), dtype)

    def hidden(which: list[int], start: list[int], t: int, tables: list[list[int]]) -> Tensor:
        ids = torch.stack([texts[row][at : at + t] for row, at in zip(which, start)])
        with per_row(model, [rows[row] for row in which]):
            return model.hidden(ids, PagedCache(pages, [tables[row] for row in which], start))

    tables = [pages.ledger.take(pages_for(len(text))) for text in texts]
    whole = [hidden([row], [0], len(text), tables)[0] for row, text in enumerate(texts)]
    tables = [[*reversed(table)] for table in tables]
    for row, text in enumerate(texts):
        hidden([row], [0], len(text) - 4, tables)
    everyone = list(range(len(rows)))
    for t, back in ((1, 4), (3, 3)):
        crowd = hidden(everyone, [len(text) - back for text in texts], t, tables)
        for row, text in enumerate(texts):
            assert torch.equal(crowd[row], whole[row][len(text) - back :][:t]), row
    switch(model, None)
    assert any(not torch.equal(one[:, 0], whole[0][:1]) for one in [model.hidden(texts[0][None])])


def prepared(**adapters: LoraOptions) -> InferenceModel:
    plain = random_model(ODD)
    for name, options in adapters.items():
        lora.add(plain, options, name)
        nudged(plain, name)
    model = prepare_for_inference(plain.eval().requires_grad_(False))
    assert isinstance(model, InferenceModel)
    return model


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (LoraOptions(rank=2, dora=True), "more than a LoRA"),
        (LoraOptions(rank=2, init="pissa"), "more than a LoRA"),
        (LoraOptions(rank=2, targets=("embed", "attn.q")), "embed is"),
    ],
)
@torch.no_grad()
def test_other_adapters_run_block_by_block(isa: str, options: LoraOptions, reason: str) -> None:
    model = prepared(default=options)
    assert model.step is None and reason in model.status
    assert read(model, torch.zeros(2, 24, dtype=torch.long)).isfinite().all()


@torch.no_grad()
def test_adapters_are_chosen_changed_and_merged(isa: str) -> None:
    model, ids = prepared(**ADAPTERS), torch.randint(0, 40, (5, 24))
    base = (switch(model, None), read(model, ids))[1]
    blend(model, {"wide": 1.0, "deep": 1.0})
    both = read(model, ids)
    for parameter in lora.parameters(model, "deep"):
        parameter.mul_(0.0)
    switched = read(model, ids)
    switch(model, "wide")
    assert torch.equal(read(model, ids), switched) and (both - switched).abs().max() > 1e-3
    lora.merge(model, "wide")
    assert model.step is None and "merged" in model.status
    assert (read(model, ids) - switched).abs().max() < 1e-4
    lora.unmerge(model)
    require_step(model)
    assert torch.equal(read(model, ids), switched)
    switch(model, None)
    assert torch.equal(read(model, ids), base)


@torch.no_grad()
def test_rows_for_which_nothing_was_chosen_are_refused(isa: str) -> None:
    model = prepared(**ADAPTERS)
    with per_row(model, CHOSEN):
        for ids in (torch.zeros(3, 24, dtype=torch.long), torch.zeros(1, 24, dtype=torch.long)):
            with pytest.raises(FathomError, match=f"{len(ids)} rows?, and adapters for 5"):
                read(model, ids)
