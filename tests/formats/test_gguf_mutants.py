"""Damaged files of every kind of block: refused in one line, or read as the reference reads the same bytes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fathom.cli.main import main
from fathom.errors import FathomError
from fathom.families.registry import of, to_gguf
from fathom.families.shapes import weight_shapes
from fathom.formats import gguf
from fathom.formats.convert import plan
from fathom.formats.ggml_blocks import IDS, TYPES
from fathom.formats.gguf_model import open_gguf
from fathom.model.config import ModelConfig
from fathom.model.presets import LLAMA_CHOICES
from tests.mutants import mutate, survive

gguf_py = pytest.importorskip("gguf", reason="needs the extra `peers`")

CONFIG = ModelConfig(
    vocab_size=7, context_length=8, d_model=256, n_layer=1, n_head=64, n_kv_head=1, d_ff=256, tie_embeddings=True,
    **LLAMA_CHOICES,
)  # fmt: skip
KINDS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "Q8_1", "Q8_K")
ACTIVATIONS = {  # which gguf-py does not read: scale, further fields and numbers of block_q8_1 and block_q8_K of ggml
    "Q8_1": np.dtype([("d", "<f2"), ("s", "<f2"), ("qs", "i1", 32)]),
    "Q8_K": np.dtype([("d", "<f4"), ("qs", "i1", 256), ("bsums", "<i2", 16)]),
}


def written(path: Path, name: str) -> None:
    """A model whose matrices are random blocks of this kind, with scales that are finite."""
    chance, kind, f32 = np.random.default_rng(0), TYPES[IDS[name]], TYPES[IDS["F32"]]

    def blocks(shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
        data = chance.integers(0, 256, (shape[0] * shape[1] // kind.size, kind.nbytes), dtype=np.uint8)
        fields = data.view(kind.layout)[:, 0]
        for scale in {"scale", "offset"} & set(kind.layout.names or ()):
            fields[scale] = chance.normal(size=len(fields)) / 64
        yield data.reshape(-1)

    family = of(CONFIG)
    out = {}
    for ours, shape in weight_shapes(CONFIG).items():
        place = family.places(CONFIG, "gguf")[ours]
        if len(shape) == 1:
            ones = np.ones(shape, np.float32).view(np.uint8)
            out[place.name] = gguf.Outgoing(shape, f32, lambda ones=ones: iter([ones]))
        else:
            out[place.name] = gguf.Outgoing(shape, kind, lambda shape=shape: blocks(shape))
    gguf.write(path, to_gguf(CONFIG) | {"tokenizer.ggml.model": "no_vocab"}, out)


def reference(path: Path, info: gguf.TensorInfo, known: dict[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
    data = np.frombuffer(path.read_bytes(), np.uint8, info.nbytes, info.offset)
    if info.kind.unpack is None:
        return data.view(np.float32)
    if info.kind.name in ACTIVATIONS:
        blocks = data.view(ACTIVATIONS[info.kind.name])
        with np.errstate(all="ignore"):
            return (blocks["d"].astype(np.float32)[:, None] * blocks["qs"].astype(np.float32)).reshape(-1)
    with np.errstate(all="ignore"):
        return gguf_py.dequantize(known[info.name], gguf_py.GGMLQuantizationType(IDS[info.kind.name])).reshape(-1)


def read_alike(path: Path) -> None:
    """FathomError, or what the reference reads."""
    opened = open_gguf(path)
    plan(opened)
    header = gguf.read_header(path)
    known = {}
    if not {info.kind.name for info in header.tensors.values()} & {*ACTIVATIONS}:
        known = {tensor.name: tensor.data for tensor in gguf_py.GGUFReader(path).tensors}
    for name, stored in opened.tensors.items():
        info = header.tensors[name]
        if info.kind.dtype != "float32":  # another type of floats
            continue
        ours, theirs = stored.read().reshape(-1).float().numpy(), reference(path, info, known)
        same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
        assert len(ours) == len(theirs) and same.all(), name


@pytest.mark.parametrize("count", [pytest.param(60, id="few"), pytest.param(2000, id="many", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_or_read_as_the_reference_does(tmp_path: Path, name: str, count: int) -> None:
    written(tmp_path / "x.gguf", name)
    read_alike(tmp_path / "x.gguf")
    survive(read_alike, tmp_path / "x.gguf", count)


@pytest.mark.parametrize("name", KINDS)
def test_the_command_line_refuses_in_one_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "x.gguf", name)
    original, refused = (tmp_path / "x.gguf").read_bytes(), 0
    for seed in range(12):
        path = tmp_path / f"{seed}.gguf"
        path.write_bytes(mutate(original, seed))
        try:
            plan(open_gguf(path))
        except FathomError:
            refused += 1
            assert main(["info", str(path)]) == 2
            said = capsys.readouterr()
            assert said.out == "" and len(said.err.splitlines()) == 1, said.err
    assert refused
