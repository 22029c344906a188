"""What peft keeps in a folder, case by case, and how far from it we are: read, merged, written for it, read again.

For tests with the peft that is installed, and for `benchmarks/peft_versions.py`, which makes a table of several.
"""

import dataclasses
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fathom.adapters.merge import merged_copy
from fathom.adapters.peft import load, save
from fathom.adapters.peft_tensors import WEIGHTS
from tests.adapters.test_peft import BASES, base_in, nudge, ours, peft, theirs
from tests.families.test_variants import EVERY
from tests.formats import hf

BASES |= {"llama, biased": hf.LLAMA | {"attention_bias": True, "mlp_bias": True}}
BASES |= {name: EVERY[name] for name in ("Gemma 2", "Granite", "GPT-J", "Phi")}  # scaled, or with a bias of logits
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
    "grown, scaled and capped": ("Gemma 2", 3, {"target_modules": TWO}),
    "grown and trained, scaled": ("Granite", 3,
     {"target_modules": TWO, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "grown and adapted, scaled": ("Granite", 2, {"target_modules": [*TWO, "embed_tokens", "lm_head"]}),
    "an adapted head, scaled, dora": ("Granite", 0, {"target_modules": [*TWO, "lm_head"], "use_dora": True}),
    "an adapted table, scaled and capped": ("Gemma 2", 0, {"target_modules": [*TWO, "embed_tokens"]}),
    "tokens that were added, scaled": ("Gemma 2", 2, {"target_modules": TWO, "trainable_token_indices": [61, 62]}),
    "grown, a bias of logits": ("GPT-J", 3, {"target_modules": TWO}),
    "shrunk, a bias of logits": ("Phi", -3, {"target_modules": TWO}),
    "grown and trained, a bias of logits": ("Phi", 3,
     {"target_modules": TWO, "modules_to_save": ["embed_tokens", "lm_head"]}),
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
    "a pattern with ^": (LLAMA, 0,
     {"target_modules": TWO, "rank_pattern": {r"^model\.layers\.1\.self_attn\.q_proj": 2}}),
    "an alpha with ^": (LLAMA, 0,
     {"target_modules": TWO, "alpha_pattern": {r"^model\.layers\.0\..*": 20, "v_proj": 3}}),
    "ranks and alphas of other patterns": (LLAMA, 0,
     {"target_modules": TWO, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"(q_proj|v_proj)": 9}}),
    "regular expressions as patterns": (LLAMA, 0,
     {"target_modules": [*TWO, "up_proj"], "rank_pattern": {r"layers\.[0-9]{1,2}\.self_attn\.(q|k)_proj": 3},
      "alpha_pattern": {r"(?:mlp\.(up|down)|v)_proj": 11, r"layers\.1\.(?!mlp).*": 2}}),
    "alternatives without brackets": (LLAMA, 0,
     {"target_modules": TWO, "rank_pattern": {"layers.0.self_attn.q_proj|layers.1.self_attn.v_proj": 2}}),
    "ranks, rslora": (GPT, 0,
     {"target_modules": ["c_attn", "c_fc"], "rank_pattern": {"c_attn": 6}, "alpha_pattern": {"c_fc": 3},
      "use_rslora": True}),
    "layers [0]": (LLAMA, 0, {"target_modules": TWO, "layers_to_transform": [0], "layers_pattern": "layers"}),
    "layers [], which are all": (LLAMA, 0, {"target_modules": TWO, "layers_to_transform": []}),
    "a regular expression for layers": (GPT, 0,
     {"target_modules": ["c_attn"], "layers_to_transform": [1], "layers_pattern": "(?:h|layers)"}),
    "saved and a target": (LLAMA, 0, {"target_modules": [*TWO, "lm_head"], "modules_to_save": ["lm_head"]}),
    "rslora": (GPT, 0, {"target_modules": "all-linear", "use_rslora": True}),
    "dora": (LLAMA, 0, {"target_modules": "all-linear", "use_dora": True}),
    "tied ends, saved": (TIED, 0,
     {"target_modules": TWO, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "tied ends, tokens": (TIED, 0,
     {"target_modules": TWO, "trainable_token_indices": [3], "ensure_weight_tying": True}),
    "tied ends, adapted": (TIED, 0, {"target_modules": [*TWO, "embed_tokens"], "ensure_weight_tying": True}),
    "everything": (LLAMA, 3,
     {"target_modules": [*TWO, "down_proj"], "modules_to_save": ["embed_tokens", "lm_head"], "use_rslora": True,
      "layers_to_transform": [0, 1], "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"down_proj": 9.5}}),
}  # fmt: skip


class Absent(Exception):
    """This version of peft does not have the feature, or has it wrong."""


def adapted(base: Path, added: int, settings: dict[str, Any], folder: Path) -> nn.Module:
    """A model with a peft adapter that has learned something, saved in `folder`."""
    if unknown := settings.keys() - {field.name for field in dataclasses.fields(peft().LoraConfig)}:
        raise Absent(f"no {', '.join(sorted(unknown))}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = theirs(base)
        if added:
            model.resize_token_embeddings(model.config.vocab_size + added)
        try:
            config = peft().LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **settings)
            model = peft().get_peft_model(model, config)
        except (AttributeError, ValueError, TypeError) as problem:
            raise Absent(f"peft cannot make it: {problem}") from None
        nudge(parameter for parameter in model.parameters() if parameter.requires_grad)
        model.eval().save_pretrained(folder)
    if settings.get("bias", "none") != "none" and not any(".bias" in name for name in load_file(folder / WEIGHTS)):
        raise Absent("peft forgets biases")
    return model  # type: ignore[no-any-return]


def some_ids(model: Any) -> Tensor:
    """Every token once, the added ones too."""
    return torch.randperm(model.config.vocab_size)[None]


@contextmanager
def silently() -> Iterator[None]:
    """AssertionError where peft warns or logs a warning."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", UserWarning)  # peft's are; transformers announces what it will change
            warnings.filterwarnings("ignore", message=".*(tied|tie_word_embeddings)")  # whatever adapts a tied matrix
            yield
    finally:
        logging.getLogger().removeHandler(handler)
    assert not said, said


def read_again(base: Path, added: int, folder: Path) -> nn.Module:
    """As peft reads it, without a warning."""
    model: Any = theirs(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if added:
            model.resize_token_embeddings(model.config.vocab_size + added)
    with silently():
        model = peft().PeftModel.from_pretrained(model, folder).eval()
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def differences(case: str, folder: Path) -> dict[str, float]:
    """The largest difference from peft's logits of its adapter as we read it, as we merge it, as peft reads what we
    write, and as we read that. Absent: not with this peft."""
    name, added, settings = CASES[case]
    base = base_in(folder, name)
    model = adapted(base, added, settings, folder / "adapter")
    x, found = some_ids(model), dict[str, float]()
    expected = model(x).logits
    mine = ours(base)
    load(mine, folder / "adapter")
    found["read"] = float((mine(x) - expected).abs().max())
    found["merged"] = float("nan")
    if not settings.get("lora_bias") or "bias" in name or name == GPT:  # a bias of b has no place elsewhere
        found["merged"] = float((merged_copy(mine)(x) - expected).abs().max())
    save(mine, folder / "again", base=base)
    again = read_again(base, added, folder / "again")
    found["written"] = float((again(x).logits - expected).abs().max())
    second = ours(base)
    load(second, folder / "again", base=base)
    found["read again"] = float((second(x) - expected).abs().max())
    return found
