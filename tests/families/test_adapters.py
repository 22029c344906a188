"""Adapters on every dense family: peft's are read and written, llama.cpp adds ours, packed models learn, `svd` and
`look` know them. Fused modules, scaled ends and biases of logits are where they differ."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.adapters import lora
from fathom.adapters import peft as ours
from fathom.adapters.export import export
from fathom.adapters.merge import merged_copy
from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError
from fathom.formats.export import write_model
from fathom.lab.survey import survey
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.quant.model import quantize_model
from fathom.training.loss import next_token_loss
from tests.adapters.peft_cases import silently
from tests.architectures import model_of
from tests.families.test_gguf_columns import GELU
from tests.families.test_gguf_columns import config_of as gguf_config
from tests.families.test_variants import EVERY
from tests.formats.hf import make

CLOSE = 1e-5
DENSE = {name: values for name, values in EVERY.items() if "num_experts_per_tok" not in values}
ONE = {values["model_type"]: name for name, values in reversed(DENSE.items())}  # of each family
OTHERS = {"Falcon, biases, in order", "Falcon 2", "Falcon 40B", "Gemma 2, untied, no cap", "Phi-3, longrope"}
NAMES = [name if name in {*ONE.values(), *OTHERS} else pytest.param(name, marks=pytest.mark.slow) for name in DENSE]
KINDS: dict[str, tuple[int, dict[str, Any]]] = {  # tokens added to the vocabulary, settings
    "linear": (0, {"trainable_token_indices": [3, 60], "bias": "all"}),
    "dora, embedding": (0, {"use_dora": True, "modules_to_save": ["input"]}),
    "grown": (3, {}),
    "ends": (0, {"target_modules": ["input", "output"]}),
}


def vary(model: Any, part: float = 0.1) -> None:
    """As if all that can learn had learned."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * part * (1 + parameter.abs().mean()))


def named(model: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the model's own names of its two ends."""
    ends = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    names = {word: next(name for name, x in model.named_modules() if x is end) for word, end in ends.items()}
    return {
        key: [names.get(x, x) for x in value] if isinstance(value, list) else value for key, value in settings.items()
    }


@pytest.mark.filterwarnings("ignore:.*(tied|tie_word_embeddings)")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_an_adapter_of_peft_both_ways(tmp_path: Path, name: str, kind: str) -> None:
    library = pytest.importorskip("peft", reason="needs the extra `peers`")
    added, settings = KINDS[kind]
    saved = make(DENSE[name])
    saved.save_pretrained(tmp_path / "base")  # type: ignore[operator]

    def base() -> Any:
        model: Any = type(saved).from_pretrained(tmp_path / "base").eval()  # type: ignore[attr-defined]
        if added:
            model.resize_token_embeddings(61 + added)
        return model

    theirs = base()
    if kind == "ends" and theirs.config.tie_word_embeddings:
        settings = {"target_modules": ["input"]}
    config = {"target_modules": "all-linear", **named(theirs, settings)}
    wrapped = library.get_peft_model(theirs, library.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, **config))
    vary(wrapped.eval())
    wrapped.save_pretrained(tmp_path / "adapter")
    ids = torch.randint(61 + added, (2, 40))
    expected = wrapped(ids).logits
    plain, _ = fathom.load(tmp_path / "base", device="cpu")
    assert added or (plain(ids) - expected).abs().max() > 0.01

    model, _ = fathom.load(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")
    bound = CLOSE * max(1.0, float(expected.abs().max()) / 2)
    assert (model(ids) - expected).abs().max() <= bound
    assert (merged_copy(model)(ids) - expected).abs().max() <= bound
    ours.save(model, tmp_path / "again", base=tmp_path / "base")
    again = base()
    with silently():
        again = library.PeftModel.from_pretrained(again, tmp_path / "again").eval()
    assert (again(ids).logits - expected).abs().max() <= bound


ARCHITECTURES = [*GELU, "Phi-3, longrope", "SmolLM3", "Granite", "OLMo", "OLMo 2", "OLMo 3", "GLM-4", "GLM-4 0414"]
ARCHITECTURES += ["StableLM", "StableLM 2 12B", "Nemotron", "Command-R", "Command-R7B", "EXAONE 4"]


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_llama_cpp_adds_our_adapter(tmp_path: Path, name: str) -> None:
    """Equal logits: fused tensors, rows in llama.cpp's order, and the embedding where the head does not share it."""
    library: Any = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    model = model_of(gguf_config(name), std=0.15)
    base = write_model(model, None, "hf", tmp_path / "base").path
    export(base, tmp_path / "base.gguf", "gguf")
    targets = ("all-linear",) if model.config.tie_embeddings else ("all-linear", "unembed")
    lora.add(model, LoraOptions(rank=2, targets=targets, ranks=(("attn.k", 3), ("mlp.up", 1))))
    vary(model, 0.15)
    ours.save(model, tmp_path / "adapter", base=base)
    export(tmp_path / "adapter", tmp_path / "adapter.gguf", "gguf")
    files = {"model_path": str(tmp_path / "base.gguf"), "lora_path": str(tmp_path / "adapter.gguf")}
    theirs = library.Llama(**files, logits_all=True, n_ctx=64, verbose=False, type_k=0, type_v=0)  # fp32 in its cache
    ids = torch.randint(61, (1, 32))
    theirs.eval(ids[0].tolist())
    expected = torch.tensor(theirs.scores[:32])
    lora.disable(model)
    assert (model(ids)[0] - expected).abs().max() > 0.05
    lora.enable(model)
    assert (model(ids)[0] - expected).abs().max() < (5e-3 if name in GELU else 1e-3)  # GELU is a table of fp16 there


@pytest.mark.parametrize("name", NAMES)
def test_packed_models_learn_and_are_looked_at(tmp_path: Path, name: str) -> None:
    """QLoRA lowers the loss of a batch; the adapter that it leaves is peft's; its spectrum and activations are seen."""
    from fathom.families.registry import from_hf
    from fathom.training.batches import MicroBatch

    config = from_hf(DENSE[name], "config.json")[1]
    model = model_of(config, std=0.1)
    try:
        base = write_model(model, None, "hf", tmp_path / "base").path
    except FathomError as error:
        pytest.skip(str(error))
    quantize_model(model, "nf4")
    lora.add(model, LoraOptions(rank=2))
    ids = torch.randint(61, (2, 12))
    batch = MicroBatch(ids[:, :-1], ids[:, 1:].flatten(), None, None)
    optimizer = torch.optim.Adam(lora.parameters(model), lr=0.02)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = next_token_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] and all(p.grad is not None for p in lora.parameters(model))
    with fathom.look(model, "blocks.*.attn.z", "logits") as seen, torch.no_grad():
        logits = model(ids)
    assert torch.equal(seen["logits"], logits) and len(seen) == 1 + config.n_layer
    ours.save(model, tmp_path / "adapter", base=base)
    again, _ = fathom.load(base, device="cpu", quantize="nf4", adapter=tmp_path / "adapter")
    with torch.no_grad():
        assert (again(ids) - logits).abs().max() < 1e-4 * logits.abs().max()
    weights, change = survey(base, [], [tmp_path / "adapter"], ("blocks.*",)).sections
    assert {each.name for each in change.measured} == {f"{layer}.weight" for layer in lora.wrapped(model)}
    assert len(weights.measured) >= len(change.measured)


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
