"""`quantize="keep"`: matrices stay in the format of their file, with its numbers to the bit; what runs is native."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fathom
from fathom.adapters.merge import merged_copy
from fathom.backend.inference import prepare_for_inference
from fathom.errors import FathomError
from fathom.families.registry import from_hf
from fathom.formats.detect import open_model
from fathom.formats.gguf_model import write_gguf
from fathom.model.config import ModelConfig
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.native.build import library
from fathom.quant.linear import QuantLinear, QuantUnembed
from fathom.quant.model import formats_of, linears, scheme_of
from fathom.tokenizer.characters import ByteTokenizer
from tests.architectures import model_of
from tests.backend.test_inference import PASSES, agree_in_eight_bits
from tests.families.test_gguf_columns import EVERY
from tests.formats.packers import write as write_packed

SIZES: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 256,
                         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
                         "num_local_experts": 3, "query_pre_attn_scalar": 64}  # fmt: skip
LLAMA = replace(LLAMA2_7B, vocab_size=61, context_length=64, d_model=256, n_layer=4, n_head=4, n_kv_head=2, d_ff=512)
IDS = torch.randint(61, (1, sum(PASSES)), generator=torch.Generator().manual_seed(2))


def of(name: str) -> ModelConfig:
    """A family's model of rows that are whole blocks."""
    return from_hf(EVERY[name] | {key: value for key, value in SIZES.items() if key in EVERY[name]}, "x")[1]


CONFIGS = {
    "llama": LLAMA,  # rows of q and k in another order
    "tied": replace(LLAMA, tie_embeddings=True),
    "gpt2": replace(GPT2, vocab_size=61, context_length=64, d_model=256, n_layer=2, n_head=4),  # q, k, v in one
    "gemma 2": of("Gemma 2"),  # logits with a cap
    "phi 3": of("Phi-3"),
    "mixtral": of("Mixtral"),
}


def both(path: Path, config: ModelConfig, kind: str) -> tuple[Transformer, Transformer]:
    """A model in floats and kept, of a file in which nothing is packed anew."""
    write_gguf(path, config, model_of(config, std=0.1).state_dict(), None, kind)
    return fathom.load(path, device="cpu")[0], fathom.load(path, device="cpu", quantize="keep")[0]


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K", "Q8_0"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_number_is_the_file_s(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QuantLinear, "quantized", None)
    floats, kept = both(tmp_path / "m.gguf", CONFIGS[name], kind)
    layers = [*(name for name in linears(floats) if not name.endswith("router")), "unembed"]
    for layer in layers:
        mine = kept.get_submodule(layer)
        assert isinstance(mine, QuantLinear)
        assert torch.equal(mine.weight, floats.get_submodule(layer).weight)
        assert all(x.stride(-1) == 1 for x in mine.packed.values())  # codes may lie in the file's blocks
    assert isinstance(kept.unembed, QuantUnembed) == (name == "gemma 2")
    assert torch.allclose(kept(IDS), floats(IDS), atol=1e-5)
    quants = {x.kind for x in open_model(tmp_path / "m.gguf").tensors.values() if "_K" in x.kind}
    assert {form.upper() for form in formats_of(kept)} - {"INT8"} == quants
    assert scheme_of(kept) == ("int8" if kind == "Q8_0" else "keep")


@pytest.mark.skipif(library("step") is None, reason="no C++ compiler")
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "mixtral"])
def test_all_of_it_runs_natively(name: str, tmp_path: Path) -> None:
    floats, kept = both(tmp_path / "m.gguf", CONFIGS[name], "Q4_K_M")
    agree_in_eight_bits(kept, IDS)
    quick = prepare_for_inference(kept)
    assert torch.equal(quick.unembed.weight, floats.unembed.weight)  # it is not packed a second time


def test_rows_that_are_no_whole_blocks_of_256(tmp_path: Path) -> None:
    """llama.cpp then takes Q5_0 and Q8_0: both are int8, to the bit."""
    floats, kept = both(tmp_path / "m.gguf", replace(LLAMA, d_model=96, d_ff=512), "Q4_K_M")
    kinds = {x.kind for x in open_model(tmp_path / "m.gguf").tensors.values()}
    assert kinds == {"F32", "Q5_0", "Q8_0", "Q4_K", "Q6_K"}
    assert set(formats_of(kept)) == {"int8", "q4_k", "q6_k"}
    for layer in [*linears(floats), "unembed"]:
        assert torch.equal(kept.get_submodule(layer).weight, floats.get_submodule(layer).weight)  # type: ignore[arg-type]
    assert prepare_for_inference(kept)(IDS, fathom.KVCache(kept.config, 1, 64)).isfinite().all()


def test_matrices_in_floats_stay_floats(tmp_path: Path) -> None:
    """Rows of 72 fill no block, and are fp16 in the file."""
    _, kept = both(tmp_path / "m.gguf", replace(LLAMA, d_ff=72), "Q6_K")
    assert type(kept.blocks[0].mlp.down) is nn.Linear and isinstance(kept.blocks[0].mlp.up, QuantLinear)  # type: ignore[union-attr]
    quick = prepare_for_inference(kept)
    assert quick(IDS, fathom.KVCache(kept.config, 1, 64)).isfinite().all()


def test_a_matrix_whose_codes_are_no_codes_of_ours_is_read_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    both(path, LLAMA, "Q4_K_S")
    at = open_model(path).tensors["blk.1.ffn_up.weight"].read.args[1].offset  # type: ignore[attr-defined]
    data = bytearray(path.read_bytes())
    data[at : at + 2] = np.array(np.inf, np.float16).tobytes()
    path.write_bytes(data)
    kept, _ = fathom.load(path, device="cpu", quantize="keep")
    up = kept.blocks[1].mlp.up  # type: ignore[union-attr]
    assert type(up) is nn.Linear and not up.weight.isfinite().all() and up.weight[5:].isfinite().all()


def test_what_was_tied_is_tied_again_as_floats(tmp_path: Path) -> None:
    floats, kept = both(tmp_path / "m.gguf", CONFIGS["tied"], "Q4_K_M")
    whole = merged_copy(kept)
    assert whole.config == floats.config and whole.unembed.weight is whole.embed.weight
    assert all(torch.equal(x, floats.state_dict()[name]) for name, x in whole.state_dict().items())


@pytest.mark.parametrize("name", ["tied", "gemma 2"])
def test_verified_and_tuned(name: str, tmp_path: Path) -> None:
    """The packed weights are those of the file, whose floats agree; adapters are trained on them."""
    path, text = tmp_path / "m.gguf", tmp_path / "text.txt"
    config = replace(CONFIGS[name], vocab_size=256)
    write_gguf(path, config, model_of(config, std=0.05).state_dict(), ByteTokenizer(), "Q4_K_S")
    certificate = fathom.verify(path, quantize="keep")
    assert all(c.passed for c in certificate.comparisons) and certificate.quantize == "q4_k, q5_k, q6_k"
    assert {c.reference: c for c in certificate.comparisons}[f"file:{path.name}"].max_difference < 1e-5
    text.write_text("to be or not to be, that is the question " * 40)
    run = tmp_path / "run"
    fathom.finetune(
        path, data=text, method="qlora", quantize="keep", max_iters=2, context_length=32, out_dir=run, device="cpu"
    )
    tuned, _ = fathom.load(run, device="cpu")
    assert scheme_of(tuned) == "keep" and tuned(IDS).isfinite().all()
    with pytest.warns(UserWarning, match="trained on the model in the formats of its file; load it with quantize keep"):
        fathom.load(path, adapter=run / "adapter", device="cpu")


def test_nf4_is_kept_too(tmp_path: Path) -> None:
    write_packed(tmp_path, "nf4, single")
    floats, kept = (fathom.load(tmp_path, device="cpu", quantize=quantize)[0] for quantize in (None, "keep"))
    assert formats_of(kept) == ["nf4-single"] == [scheme_of(kept)]
    assert all(torch.equal(kept.get_submodule(x).weight, floats.get_submodule(x).weight) for x in linears(floats))  # type: ignore[arg-type]


def test_nothing_to_keep_is_said(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, LLAMA, model_of(LLAMA).state_dict(), None, "BF16")
    with pytest.raises(FathomError, match=r"its matrices are BF16; expected some in Q8_0, .* choose --quantize int8"):
        fathom.load(path, device="cpu", quantize="keep")
    with pytest.raises(FathomError, match=r"quantize is 'kep'; did you mean keep\? .*nf4-single, keep"):
        fathom.load(path, device="cpu", quantize="kep")
