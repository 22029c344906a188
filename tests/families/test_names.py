"""The table: our column is what the models have; every name finds its way there and back; a wrong one is told so."""

from dataclasses import replace

import pytest
import torch

from fathom.errors import FathomError
from fathom.families.registry import families, formats, of
from fathom.model.config import ModelConfig
from fathom.model.presets import BIGRAM, GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer

COLUMNS = [(name, kind) for name, family in families().items() for kind in family.columns if name in ("gpt2", "llama")]
PRESETS = {"gpt2": GPT2, "llama": LLAMA2_7B}


def tensors(config: ModelConfig) -> set[str]:
    with torch.device("meta"):
        return set(Transformer(config).state_dict())


@pytest.mark.parametrize("config", [GPT2, LLAMA2_7B, replace(LLAMA2_7B, bias=True, qk_norm="on", n_kv_head=4)])
def test_our_column_is_the_state_dict(config: ModelConfig) -> None:
    tied = {"unembed.weight"} if config.tie_embeddings else set()
    places = families()["gpt2" if config is GPT2 else "llama"].places(config, "ours")
    assert set(places) | tied == tensors(config)
    assert all(place.name == ours for ours, place in places.items())


@pytest.mark.parametrize("name, kind", COLUMNS)
def test_every_tensor_finds_its_way_there_and_back(name: str, kind: str) -> None:
    family = families()[name]
    for ours in tensors(PRESETS[name]):
        [there] = family.rename(ours, "ours", kind)
        assert ours in family.rename(there, kind, "ours")
        assert len(family.rename(there, kind, "ours")) == (3 if "attn_qkv" in there or "c_attn" in there else 1)


@pytest.mark.parametrize("name, kind", COLUMNS)
def test_no_two_tensors_share_a_place(name: str, kind: str) -> None:
    found = list(families()[name].places(PRESETS[name], kind).values())
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "name, source, target, kind, expected",
    [
        ("blocks.31.attn.out.weight", "ours", "hf", "llama", ["model.layers.31.self_attn.o_proj.weight"]),
        ("model.layers.0.mlp.up_proj.weight", "hf", "meta", "llama", ["layers.0.feed_forward.w3.weight"]),
        ("layers.10.feed_forward.w2.weight", "meta", "gguf", "llama", ["blk.10.ffn_down.weight"]),
        ("model.layers.3.self_attn.q_proj", "hf", "ours", "llama", ["blocks.3.attn.q"]),
        ("blk.7.attn_norm.bias", "gguf", "hf", "gpt2", ["transformer.h.7.ln_1.bias"]),
        ("transformer.h.2.attn.c_attn.bias", "hf", "ours", "gpt2", [f"blocks.2.attn.{x}.bias" for x in "qkv"]),
        ("transformer.h.2.attn.c_attn.weight", "hf", "gguf", "gpt2", ["blk.2.attn_qkv.weight"]),
        ("blocks.N.attn.v", "ours", "hf", "llama", ["model.layers.N.self_attn.v_proj"]),
        ("blocks.11.attn.k.weight", "ours", "hf", "gpt2", ["transformer.h.11.attn.c_attn.weight"]),
    ],
)
def test_known_names(name: str, source: str, target: str, kind: str, expected: list[str]) -> None:
    assert families()[kind].rename(name, source, target) == expected


@pytest.mark.parametrize(
    "name, source, target, says",
    [
        ("model.layers.3.self_attn.qproj.weight", "hf", "ours", "did you mean model.layers.3.self_attn.q_proj.weight"),
        ("blocks.0.attn.q_norm.weight", "ours", "gguf", "gguf has no name for 'blocks.0.attn.q_norm.weight'"),
        ("embed.weight", "ours", "hff", "no format 'hff' of llama models; did you mean hf?"),
        ("", "ours", "hf", "'' is no part"),
        ("blocks.x.attn.q.weight", "ours", "hf", "is no part"),
        ("blocks.0.attn.q.weight.weight", "ours", "hf", "is no part"),
    ],
)
def test_wrong_names_are_told(name: str, source: str, target: str, says: str) -> None:
    with pytest.raises(FathomError, match=says.replace("?", r"\?")):
        families()["llama"].rename(name, source, target)


def test_families_follow_from_the_choices() -> None:
    assert of(GPT2).name == "gpt2" and of(replace(GPT2, tie_embeddings=False)).name == "gpt2"
    assert of(LLAMA2_7B).name == "llama" and of(replace(LLAMA2_7B, n_kv_head=8, bias=True)).name == "llama"


OTHERS = {  # and the fields that stand in the way
    "position=none, norm=none .* has position=": BIGRAM,
    r"norm=rms \(GPT-2 has norm=layer\)": replace(GPT2, norm="rms"),
    r".*head_dim=128, bias=off \(which StableLM cannot have\)": replace(LLAMA2_7B, norm="layer"),
    r"residual=off \(LLaMA has residual=on\)": replace(LLAMA2_7B, residual="off"),
    r"mlp=relu2 \(Apertus has mlp=xielu\)": replace(LLAMA2_7B, mlp="relu2", qk_norm="on"),
    ".*n_head=12, n_kv_head=4": replace(GPT2, n_kv_head=4),
}


@pytest.mark.parametrize("words", OTHERS)
def test_other_models_belong_to_no_family_and_the_fields_in_the_way_are_named(words: str) -> None:
    with pytest.raises(FathomError, match=f"no other format holds a model with {words}"):
        of(OTHERS[words])
    assert formats(OTHERS[words]) is None


def test_formats_that_hold_a_model() -> None:
    held = {name: formats(config) for name, config in (("gpt", GPT2), ("llama", LLAMA2_7B))}
    assert {name: found and (found[0].name, found[1]) for name, found in held.items()} == {
        "gpt": ("gpt2", ["hf", "gguf"]),
        "llama": ("llama", ["hf", "meta", "gguf"]),
    }
    qwen = formats(replace(LLAMA2_7B, qk_norm="on"))
    assert qwen is not None and (qwen[0].name, qwen[1]) == ("qwen3", ["hf", "gguf"])
