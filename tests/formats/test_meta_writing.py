"""Meta's folders as they are written: read back to the bit, and what the format cannot hold is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.errors import FathomError
from fathom.families.llama import FAMILY
from fathom.formats.meta import open_meta, write_meta
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.model.presets import GPT2
from fathom.model.transformer import Transformer
from tests.formats.meta_files import (
    LLAMA31_70B,
    LLAMA32_1B,
    SEVEN,
    SEVENTY,
    SIZES,
    THIRTEEN,
    THREE,
    hidden,
    published,
    read,
)
from tests.mutants import survive

WRITTEN = [
    SEVEN,
    SEVENTY,
    replace(THREE, tie_embeddings=True, context_length=100),
    replace(SEVEN, context_length=512, d_ff=200, norm_eps=1e-6),
    replace(LLAMA31_70B, **SIZES | {"context_length": 131072}, d_model=96, n_head=16, d_ff=56),
    replace(LLAMA32_1B, **SIZES | {"context_length": 131072}, d_model=96, n_head=16, d_ff=56),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", WRITTEN)
def test_what_we_write_comes_back(tmp_path: Path, config: ModelConfig, dtype: torch.dtype) -> None:
    ours = {name: x.detach() for name, x in Transformer(config).to(dtype).state_dict().items()}
    write_meta(tmp_path / "out", config, ours, None)
    opened = open_meta(tmp_path / "out")
    assert opened.config == config and opened.tokenizer() is None
    back = read(opened)
    assert all(torch.equal(back[name], x) and back[name].dtype == dtype for name, x in ours.items() if name in back)
    assert back.keys() | {"unembed.weight"} == ours.keys()


@pytest.mark.parametrize("config", WRITTEN)
def test_metas_code_would_build_the_same(tmp_path: Path, config: ModelConfig) -> None:
    """Torch loads every tensor that Meta's model asks for; params.json has no field that its ModelArgs would refuse."""
    ours = Transformer(config).state_dict()
    write_meta(tmp_path / "out", config, ours, None)
    values = json.loads((tmp_path / "out" / "params.json").read_text())
    assert hidden(**values) == config.d_ff
    llama2 = {"dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps"}
    assert config.rope.theta != 10_000 or values.keys() <= llama2
    state = torch.load(tmp_path / "out" / "consolidated.00.pth", weights_only=True)
    assert torch.equal(state["output.weight"], ours["unembed.weight"])
    assert torch.equal(state["layers.1.feed_forward.w3.weight"], ours["blocks.1.mlp.up.weight"])
    size = (tmp_path / "out" / "consolidated.00.pth").stat().st_size
    assert size < 1.2 * sum(x.nbytes for x in {x.data_ptr(): x for x in ours.values()}.values()) + 10_000


def test_a_part_is_written_without_the_whole(tmp_path: Path) -> None:
    ours = {name: torch.cat([x] * 50)[: len(x)] for name, x in Transformer(SEVEN).state_dict().items()}
    write_meta(tmp_path / "out", SEVEN, ours, None)
    assert (tmp_path / "out" / "consolidated.00.pth").stat().st_size < 2 * sum(x.nbytes for x in ours.values())


@pytest.mark.parametrize("d_model", [1, 2, 24, 64, 4096, 5120, 8192])
def test_the_width_comes_out_as_it_is(d_model: int) -> None:
    for d_ff in [*range(1, 40), 172, 11008, 13824, 14336, 28672, 8 * d_model // 3, 4 * d_model]:
        config = replace(SEVEN, d_model=d_model, n_head=1, head_dim=d_model, d_ff=max(d_ff, 1), position="none")
        assert hidden(**FAMILY.write("meta", config)) == config.d_ff


@pytest.mark.parametrize(
    "config, says",
    [
        (replace(GPT2, n_layer=1), "no biases"),
        (replace(SEVEN, position="learned"), r"position=learned \(LLaMA has position=rope\)"),
        (replace(SEVEN, head_dim=10), "head_dim"),
        (replace(SEVEN, bias=True), "no biases"),
        (replace(SEVEN, qk_norm="on"), "qk_norm"),
        (replace(SEVEN, n_layer=0), "without layers"),
        (replace(SEVEN, rope=Rotary(scaling=RopeScaling(kind="linear", factor=2.0))), "linear"),
        (replace(SEVEN, rope=Rotary(scaling=RopeScaling(kind="llama3", factor=8.0))), "llama3"),
    ],
)
def test_what_the_format_cannot_say_is_refused(tmp_path: Path, config: ModelConfig, says: str) -> None:
    with pytest.raises(FathomError, match=says):
        write_meta(tmp_path / "out", config, Transformer(config).state_dict(), None)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(FathomError, match="not empty"):
        write_meta(tmp_path, SEVEN, Transformer(SEVEN).state_dict(), None)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("above", [False, True], ids=["beside", "one folder up"])
def test_the_tokenizer_is_found(tmp_path: Path, shared_data: Path, above: bool) -> None:
    config = replace(SEVEN, vocab_size=32000, n_layer=1)
    published(tmp_path / "7B", config)
    (tmp_path / ("." if above else "7B") / "tokenizer.model").write_bytes(
        (shared_data / "llama2_tokenizer.model").read_bytes()
    )
    tokenizer = open_meta(tmp_path / "7B").tokenizer()
    assert tokenizer is not None and tokenizer.vocab_size == 32000
    model = Transformer(config)
    write_meta(tmp_path / "out", config, model.state_dict(), tokenizer)
    again = open_meta(tmp_path / "out").tokenizer()
    assert again is not None and again.encode("Once upon") == tokenizer.encode("Once upon") and again.bos == 1


def read_whole(path: Path) -> None:
    read(open_meta(path.parent))


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["params.json", "consolidated.01.pth"])
def test_mutants(tmp_path: Path, name: str, count: int) -> None:
    published(tmp_path, replace(THIRTEEN, n_layer=1), 2)
    survive(read_whole, tmp_path / name, count)
