"""An export reads back what it wrote: equal to the bit, or by how far it is off; and it never writes over anything."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.errors import FathomError
from fathom.formats import export as exporting
from fathom.formats.export import write_model
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.tokenizer.characters import ByteTokenizer

LLAMA = replace(LLAMA2_7B, vocab_size=256, context_length=32, d_model=64, n_layer=2, n_head=4, n_kv_head=2, d_ff=96)
TINY_GPT2 = replace(GPT2, vocab_size=256, context_length=32, d_model=64, n_layer=2, n_head=4)


@pytest.fixture
def model() -> Transformer:
    return Transformer(LLAMA).eval()


@pytest.mark.parametrize("format", ["hf", "gguf"])
@pytest.mark.parametrize("config", [LLAMA, TINY_GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_comes_back_to_the_bit(format: str, config: object, dtype: torch.dtype, tmp_path: Path) -> None:
    model = Transformer(config).to(dtype).eval()  # type: ignore[arg-type]
    done = write_model(model, ByteTokenizer(), format, tmp_path / "out")
    assert done.equal and done.tokenizer is True
    assert sum(part.tensors for part in done.parts) == len(model.state_dict()) - model.config.tie_embeddings


@pytest.mark.parametrize(
    ("format", "quantize", "least", "most"),
    [("gguf", "q8_0", 0.003, 0.007), ("gguf", "q4_0", 0.05, 0.12), ("llama2c", "q8_0", 0.003, 0.007)],
)
def test_what_quantising_costs_is_said_for_each_kind_of_tensor(
    format: str, quantize: str, least: float, most: float, model: Transformer, tmp_path: Path
) -> None:
    """Steps of 1/127 and 1/8 of the largest of 32 or 64 normal numbers, and uniform errors within a step."""
    done = write_model(model, None, format, tmp_path / "out", quantize)
    matrices = [part for part in done.parts if "norm" not in part.name]
    assert len(matrices) == 9 and all(least < part.relative < most and part.equal == 0 for part in matrices)
    assert all(part.equal == part.tensors for part in done.parts if "norm" in part.name)


def test_a_writer_that_errs_is_caught(model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = exporting.writer

    def careless(*call: object) -> object:
        write, settings = original(*call)  # type: ignore[arg-type]

        def swapped(path: Path, config: object, state: dict[str, torch.Tensor], *rest: object, **named: object) -> None:
            q = "blocks.0.attn.q.weight"
            write(path, config, state | {q: state[q].flip(0)}, *rest, **named)

        return swapped, settings

    monkeypatch.setattr(exporting, "writer", careless)
    done = write_model(model, None, "hf", tmp_path / "out")
    wrong = next(part for part in done.parts if part.name == "blocks.N.attn.q.weight")
    assert not done.equal and (wrong.tensors, wrong.equal) == (2, 1) and wrong.relative > 1


@pytest.mark.parametrize(
    ("format", "quantize", "says"),
    [
        ("ggml", None, "did you mean gguf"),
        ("gguf", "q5_1", "choose one of f32, f16, bf16, q8_0, q6_k"),
        ("hf", "q8_0", "hf files do not have; leave it out"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    format: str, quantize: str | None, says: str, model: Transformer, tmp_path: Path
) -> None:
    with pytest.raises(FathomError, match=says):
        write_model(model, None, format, tmp_path / "out", quantize)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["hf", "gguf", "llama2c", "meta"])
def test_nothing_is_written_over(format: str, model: Transformer, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(FathomError, match="exists"):
        write_model(model, None, format, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize("format", ["hf", "gguf", "llama2c", "meta"])
def test_a_model_of_no_family_stays_a_run(format: str, tmp_path: Path) -> None:
    model = Transformer(replace(LLAMA, mlp="geglu"))
    with pytest.raises(FathomError, match=r"choose another format|mlp=geglu .*; keep the run folder"):
        write_model(model, None, format, tmp_path / "out")
    assert not list(tmp_path.iterdir())
