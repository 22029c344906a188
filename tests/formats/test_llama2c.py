"""llama2.c's files against its published layout written out in numpy, and against a model it was trained to run."""

import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.errors import FathomError
from fathom.formats.convert import from_ours, read_ours
from fathom.formats.llama2c import SIZES, is_llama2c, open_llama2c, write_llama2c
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from tests.formats import llama2c_files
from tests.mutants import survive

SMALL = {"vocab_size": 11, "context_length": 12, "d_model": 24, "n_layer": 2, "d_ff": 40, "n_head": 3}
TIED = replace(LLAMA2_7B, **SMALL, tie_embeddings=True)
GQA = replace(LLAMA2_7B, **SMALL | {"n_head": 6}, n_kv_head=2, head_dim=4)
CONFIGS = {"tied": TIED, "gqa": GQA}


def random(config: ModelConfig) -> Transformer:
    model = Transformer(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(std=0.3)
    return model


def read(path: Path) -> Transformer:
    opened = open_llama2c(path)
    model = Transformer(opened.config).eval()
    model.load_state_dict(dict(read_ours(opened)), strict=False)
    return model


def theirs(path: Path, model: Transformer, version: int, group: int = 8) -> Path:
    """The same model, written by the published layout."""
    z = model.config
    weights = {name: x.numpy() for name, x in from_ours(z, model.state_dict(), "meta").items()}
    sizes = [z.d_model, z.d_ff, z.n_layer, z.n_head, z.n_kv_head, z.vocab_size, z.context_length]
    llama2c_files.export(path, version, sizes, weights, group)
    return path


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_ours_is_theirs_to_the_byte(tmp_path: Path, name: str, version: int) -> None:
    """All but version 0's tables of cosines, which each library rounds in its own way."""
    model = random(CONFIGS[name])
    write_llama2c(tmp_path / "ours.bin", model.config, model.state_dict(), None, version)
    ours, other = (tmp_path / "ours.bin").read_bytes(), theirs(tmp_path / "theirs.bin", model, version).read_bytes()
    if version:
        assert ours == other
    assert len(ours) == len(other) and ours[:28] == other[:28]
    assert np.allclose(np.frombuffer(ours[28:], "<f4"), np.frombuffer(other[28:], "<f4"), atol=1e-6) or version


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("name", CONFIGS)
def test_tensors_come_back_to_the_bit(tmp_path: Path, name: str, version: int) -> None:
    model = random(CONFIGS[name])
    back = read(theirs(tmp_path / "theirs.bin", model, version))
    assert back.config == model.config
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_int8_comes_back_as_it_was_rounded(tmp_path: Path) -> None:
    model = random(GQA)
    back = read(theirs(tmp_path / "theirs.bin", model, 2)).state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            assert torch.equal(back[name], tensor)
    stored = from_ours(model.config, model.state_dict(), "meta")["layers.1.feed_forward.w2.weight"].view(-1, 8)
    scale = stored.abs().amax(1, keepdim=True) / 127.0
    assert torch.equal(back["blocks.1.mlp.down.weight"].view(-1, 8), (stored / scale).round() * scale)
    assert open_llama2c(tmp_path / "theirs.bin").tensors["tok_embeddings.weight"].kind == "Q8 group 8"


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_their_runner(tmp_path: Path, name: str) -> None:
    model, ids = random(CONFIGS[name]), [1, 9, 4, 4, 0, 10, 7, 2, 3, 5, 8, 6]
    write_llama2c(tmp_path / "a.bin", model.config, model.state_dict(), None)
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0].numpy()
    assert np.abs(ours - llama2c_files.run(tmp_path / "a.bin", ids)).max() < 1e-5


def test_a_trained_model(shared_data: Path, tmp_path: Path) -> None:
    """Real weights: the runner's logits, the size of everything, and the very same bytes when written again."""
    path = shared_data / "stories260K" / "stories260K.bin"
    opened, model = open_llama2c(path), read(path)
    assert (opened.format, opened.names, opened.config.n_kv_head) == ("llama2.c version 0", "meta", 4)
    ids = [1, 403, 407, 261, 378]
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0].numpy()
    assert np.abs(ours - llama2c_files.run(path, ids)).max() < 1e-4 * np.abs(ours).max()
    write_llama2c(tmp_path / "again.bin", model.config, model.state_dict(), opened.tokenizer())
    assert (tmp_path / "again.bin").read_bytes()[: -2 * 512 * 4 * 4] == path.read_bytes()[: -2 * 512 * 4 * 4]
    assert (tmp_path / "tokenizer.bin").read_bytes() == (path.parent / "tok512.bin").read_bytes()


def test_the_tokenizer_beside_a_model(shared_data: Path, tmp_path: Path) -> None:
    model, tokenizer = tmp_path / "stories260K.bin", tmp_path / "any name"
    shutil.copy(shared_data / "stories260K" / "stories260K.bin", model)
    opened = open_llama2c(model)
    assert opened.tokenizer() is None
    shutil.copy(shared_data / "stories260K" / "tok512.bin", tokenizer)
    found = opened.tokenizer()
    assert found is not None and found.vocab_size == 512 and found.decode(found.encode("a time")) == "a time"
    shutil.copy(tokenizer, tmp_path / "a copy")  # the same once more: no question which one it is
    assert opened.tokenizer() is not None
    changed = bytearray(tokenizer.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "another").write_bytes(changed)
    with pytest.raises(FathomError, match=r"holds 2 tokenizers of this size: .*; name one tokenizer\.bin"):
        opened.tokenizer()
    shutil.move(tokenizer, tmp_path / "tokenizer.bin")
    assert opened.tokenizer() is not None


def test_another_tokenizer_is_not_written_over(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "stories260K" / "stories260K.bin"
    model, tokenizer = read(path), open_llama2c(path).tokenizer()
    (tmp_path / "tokenizer.bin").write_bytes(b"of another model")
    with pytest.raises(FathomError, match="exists and is another tokenizer"):
        write_llama2c(tmp_path / "a.bin", model.config, model.state_dict(), tokenizer)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.bin"]


@pytest.mark.parametrize("version", [0, 1, 2])
def test_it_is_known_by_its_content(tmp_path: Path, version: int) -> None:
    path = theirs(tmp_path / "model.txt", random(TIED), version)
    assert is_llama2c(path)
    for other in (b"", b"GGUF", b"PK\3\4" + bytes(100), bytes(28), b"{}" * 40, path.read_bytes()[4:], bytes(1056)):
        (tmp_path / "other.bin").write_bytes(other)
        assert not is_llama2c(tmp_path / "other.bin")
    assert not is_llama2c(tmp_path) and not is_llama2c(tmp_path / "missing")


GOOD = (24, 40, 2, 3, 3, 11, 12)


@pytest.mark.parametrize(
    "version, place, value, says",
    [
        (0, 0, 25, "d_model=25 is not a multiple of n_head=3"),
        (0, 0, 3 << 28, "has .* bytes; its header .version 0. describes"),
        (0, 2, (1 << 31) - 1, "describes"),
        (0, 2, -1, "n_layer is -1"),
        (0, 3, 0, "n_head is 0"),
        (0, 4, 2, "n_head=3 is not a multiple of n_kv_head=2"),
        (0, 5, -(1 << 31), "describes"),
        (0, 5, 0, "vocab_size is 0"),
        (0, 6, 13, "describes"),
        (1, 1, -40, "d_ff is -40"),
        (1, 5, -11, "vocab_size=-11, shared="),
        (1, -1, 0, "is version 0 of llama2.c's format; supported are 0, 1, 2"),
        (1, -1, 3, "is version 3"),
        (2, 1, 41, "groups of 8 do not divide|describes"),
        (2, 6, 1 << 30, ""),  # nothing in the file depends on it
    ],
)
def test_headers_that_lie(tmp_path: Path, version: int, place: int, value: int, says: str) -> None:
    path = theirs(tmp_path / "a.bin", random(TIED), version)
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, (8 if version else 0) + 4 * place, value)
    path.write_bytes(data)
    if not says:
        assert open_llama2c(path).config.context_length == value
        return
    with pytest.raises(FathomError, match=says):
        open_llama2c(path)


@pytest.mark.parametrize("group", [0, -8, 7, 1 << 30])
def test_groups_that_cannot_be(tmp_path: Path, group: int) -> None:
    path = theirs(tmp_path / "a.bin", random(TIED), 2)
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, 8 + SIZES.size + 1, group)
    path.write_bytes(data)
    with pytest.raises(FathomError, match=r"a\.bin: (the header has|groups of)"):
        open_llama2c(path)


@pytest.mark.parametrize("cut", [-1, 1, 4])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_byte_too_few_or_too_many(tmp_path: Path, version: int, cut: int) -> None:
    path = theirs(tmp_path / "a.bin", random(TIED), version)
    data = path.read_bytes()
    path.write_bytes(data[:-1] if cut < 0 else data + bytes(cut))
    with pytest.raises(FathomError, match=f"has {len(data) + cut} bytes; its header .* describes {len(data)}"):
        open_llama2c(path)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"bias": True}, "bias=qkv,out,mlp,norm has no place"),
        ({"qk_norm": "on"}, "qk_norm=on has no place"),
        ({"rope": Rotary(theta=5e5)}, "rope_theta=500000.0 has no place in llama2.c's files, only 10000.0"),
        ({"norm_eps": 1e-6}, "norm_eps=1e-06 has no place"),
        ({"head_dim": 16}, "head_dim=16 has no place in llama2.c's files, only 8"),
        ({"rope": Rotary(scaling=RopeScaling(kind="linear", factor=2.0))}, "rope_scaling="),
    ],
)
@pytest.mark.parametrize("version", [0, 1, 2])
def test_what_has_no_place(tmp_path: Path, version: int, change: dict[str, Any], says: str) -> None:
    model = Transformer(replace(TIED, **change))
    with pytest.raises(FathomError, match=says):
        write_llama2c(tmp_path / "a.bin", model.config, model.state_dict(), None, version)
    assert not list(tmp_path.iterdir())


def test_no_gpt2_and_no_version_3(tmp_path: Path) -> None:
    gpt2, llama = Transformer(replace(GPT2, **SMALL)), random(TIED)
    with pytest.raises(FathomError, match=r"has no place in llama2\.c's files"):
        write_llama2c(tmp_path / "a.bin", gpt2.config, gpt2.state_dict(), None)
    with pytest.raises(FathomError, match="version is 3"):
        write_llama2c(tmp_path / "a.bin", llama.config, llama.state_dict(), None, 3)


def test_int8_of_what_is_zero_and_of_what_is_no_number(tmp_path: Path) -> None:
    model = random(TIED)
    with torch.no_grad():
        model.blocks[0].attn.v.weight[:8] = 0
    write_llama2c(tmp_path / "a.bin", model.config, model.state_dict(), None, 2)
    assert torch.equal(read(tmp_path / "a.bin").blocks[0].attn.v.weight[:8], torch.zeros(8, 24))
    with torch.no_grad():
        model.blocks[0].attn.v.weight[0, 0] = float("nan")
    with pytest.raises(FathomError, match="numbers that are not finite"):
        write_llama2c(tmp_path / "b.bin", model.config, model.state_dict(), None, 2)
    assert not (tmp_path / "b.bin").exists()


@pytest.mark.parametrize("d_model, d_ff, group", [(128, 256, 64), (24, 40, 8), (64, 172, 4), (22, 40, 2)])
def test_a_group_divides_every_row(tmp_path: Path, d_model: int, d_ff: int, group: int) -> None:
    model = random(replace(TIED, d_model=d_model, d_ff=d_ff, n_head=1, n_layer=1))
    write_llama2c(tmp_path / "a.bin", model.config, model.state_dict(), None, 2)
    assert open_llama2c(tmp_path / "a.bin").metadata == {"version": 2, "group_size": group}


def survives(tmp_path: Path, version: int, count: int) -> None:
    def use(path: Path) -> None:
        for stored in open_llama2c(path).tensors.values():
            assert stored.read().sum().shape == () and stored.read().shape == stored.shape

    path = theirs(tmp_path / "a.bin", random(replace(GQA, n_layer=1, vocab_size=5, d_ff=8)), version)
    survive(use, path, count)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_damaged_files(tmp_path: Path, version: int) -> None:
    survives(tmp_path, version, 700)


@pytest.mark.slow
@pytest.mark.parametrize("version", [0, 1, 2])
def test_many_damaged_files(tmp_path: Path, version: int) -> None:
    survives(tmp_path, version, 4_000)
