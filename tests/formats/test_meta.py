"""Meta's folders: from another's hand, read to the bit and with the reference library's logits; and written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.families.llama import FAMILY
from fathom.families.values import Values
from fathom.formats.convert import plan
from fathom.formats.meta import join_shards, open_meta
from fathom.formats.opened import Opened, Stored
from fathom.model.config import ModelConfig, RopeScaling
from fathom.model.presets import LLAMA2_7B, LLAMA2_13B, LLAMA2_70B
from fathom.model.transformer import Transformer
from tests.formats.meta_files import (
    LLAMA3_70B,
    LLAMA31_70B,
    LLAMA32_1B,
    ROOM,
    SEVEN,
    SEVENTY,
    THIRTEEN,
    THREE,
    cut,
    drawn,
    hidden,
    metas,
    params,
    publish,
    published,
    read,
)
from tests.formats.reference import reference, to_ours

RELEASES = {
    "7B": (SEVEN, 1, False),
    "13B": (THIRTEEN, 2, False),
    "four": (SEVENTY, 4, False),
    "70B": (SEVENTY, 8, False),
    "Llama 3 70B": (THREE, 8, True),
    "Llama 3 8B": (replace(THREE, n_layer=1), 1, True),
}


@pytest.mark.parametrize("config, count, by_rows", RELEASES.values(), ids=RELEASES)
def test_a_release_is_the_model_it_was_cut_from(tmp_path: Path, config: ModelConfig, count: int, by_rows: bool) -> None:
    theirs = drawn(config)
    state = metas(theirs.state_dict(), config.n_head, config.resolved().n_kv_head)
    publish(tmp_path, cut({**state, "rope.freqs": ROOM}, count, by_rows), params(config))
    opened = open_meta(tmp_path)
    assert (opened.config, opened.names) == (config, "meta")
    assert opened.format == f"Meta, {count} shard{'s' if count > 1 else ''}"
    assert {name: x.shape for name, x in opened.tensors.items()} == {name: x.shape for name, x in state.items()}
    assert opened.nbytes == sum(x.nbytes for x in state.values())
    ours = read(opened)
    expected = to_ours(config, theirs.state_dict(), "hf")
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)
    model, ids = Transformer(config).eval(), torch.randint(48, (2, 32))
    model.load_state_dict(ours)
    with torch.no_grad():
        assert (model(ids) - theirs(ids).logits).abs().max() < 1e-5


def test_any_of_its_files_stands_for_the_folder(tmp_path: Path) -> None:
    published(tmp_path, THIRTEEN, 2)
    assert read(open_meta(tmp_path / "consolidated.01.pth")).keys() == read(open_meta(tmp_path)).keys()
    (tmp_path / "other.pth").write_bytes((tmp_path / "consolidated.01.pth").read_bytes())
    with pytest.raises(
        FathomError, match=r"other.pth is not one of the shards consolidated.00.pth to consolidated.01.pth"
    ):
        open_meta(tmp_path / "other.pth")


def test_names_of_compiled_modules(tmp_path: Path) -> None:
    folder = published(tmp_path, SEVEN)
    expected = {name: x.clone() for name, x in read(open_meta(folder)).items()}  # not mapped from what is replaced
    file = folder / "consolidated.00.pth"
    torch.save({f"_orig_mod.{name}": x for name, x in torch.load(file).items()}, file)
    actual = read(open_meta(folder))
    assert actual.keys() == expected.keys() and all(torch.equal(actual[name], x) for name, x in expected.items())


def test_shards_whose_tensors_share_one_storage(tmp_path: Path) -> None:
    """As those of LLaMA 1 and 2: all of a layer lies in one member, and each tensor begins somewhere within."""
    published(tmp_path, THIRTEEN, 2)
    before = {name: x.clone() for name, x in read(open_meta(tmp_path)).items()}  # the files will change
    for file in tmp_path.glob("*.pth"):
        state = torch.load(file, weights_only=True)
        flat, at, parts = torch.cat([x.flatten() for x in state.values()]), 0, {}
        for name, x in state.items():
            parts[name] = flat[at : at + x.numel()].view(x.shape)
            at += x.numel()
        torch.save(parts, file)
    after = read(open_meta(tmp_path))
    assert all(torch.equal(after[name], before[name]) for name in before)


LLAMA2 = {"multiple_of": 256, "norm_eps": 1e-05, "vocab_size": -1}
GROUPED = {"multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80, "dim": 8192}
SCALED = {"rope_theta": 500_000.0, "use_scaled_rope": True, "vocab_size": 128256, "norm_eps": 1e-5}
REAL: dict[str, tuple[dict[str, Any], int, ModelConfig]] = {
    "7B": ({"dim": 4096, "n_heads": 32, "n_layers": 32, **LLAMA2}, 1, LLAMA2_7B),
    "13B": ({"dim": 5120, "n_heads": 40, "n_layers": 40, **LLAMA2}, 2, LLAMA2_13B),
    "70B": ({**LLAMA2, **GROUPED}, 8, LLAMA2_70B),
    "3 70B": ({**GROUPED, "norm_eps": 1e-5, "vocab_size": 128256, "rope_theta": 500_000.0}, 8, LLAMA3_70B),
    "3.1 70B": ({**GROUPED, **SCALED}, 8, LLAMA31_70B),
    "3.2 1B": (
        {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "ffn_dim_multiplier": 1.5, **SCALED},
        1,
        LLAMA32_1B,
    ),
}


@pytest.mark.parametrize("said, count, config", REAL.values(), ids=REAL)
def test_releases_at_their_real_sizes(said: dict[str, Any], count: int, config: ModelConfig) -> None:
    """By shapes alone: the shards of Meta's files lead to the presets, and every tensor has its place there."""
    with torch.device("meta"):
        state = metas(reference(config).state_dict(), config.n_head, config.resolved().n_kv_head)
        shards = cut(state, count, embed_by_rows=config.rope.theta > 10_000)
    if config.tie_embeddings:
        del shards[0]["output.weight"]
    assert hidden(**said) == config.d_ff == shards[0]["layers.0.feed_forward.w1.weight"].shape[0] * count
    files = {
        f"consolidated.{number:02}.pth": {
            name: Stored(tuple(x.shape), "BF16", 2 * x.numel(), lambda: torch.empty(0)) for name, x in shard.items()
        }
        for number, shard in enumerate(shards)
    }
    joined = join_shards(files, said["dim"])
    found = FAMILY.read("meta", Values(said, "params.json"), joined)
    assert found == config
    assert len(plan(Opened(Path("x"), "Meta", found, FAMILY, "meta", joined, lambda: None))) == len(joined)


@pytest.mark.parametrize(
    "changes, kind, expected, why",
    [
        ({}, torch.bfloat16, 4096, "LLaMA 2"),
        ({"norm_eps": 1e-6}, torch.bfloat16, 4096, "LLaMA 2"),  # its 7B chat model
        ({"norm_eps": 1e-6}, torch.float16, 2048, "LLaMA 1"),
        ({"rope_theta": 1_000_000}, torch.bfloat16, 16384, "Code Llama"),
        ({"rope_theta": 500_000.0}, torch.bfloat16, 8192, "Llama 3"),
        ({"rope_theta": 500_000.0, "use_scaled_rope": True}, torch.bfloat16, 131072, "Llama 3.1"),
        ({"max_seq_len": 77}, torch.bfloat16, 77, "max_seq_len says"),
    ],
)
def test_the_context_length_is_that_of_the_release(
    tmp_path: Path, changes: dict[str, Any], kind: torch.dtype, expected: int, why: str
) -> None:
    state = metas(drawn(SEVEN).state_dict(), SEVEN.n_head, SEVEN.n_head)
    publish(tmp_path, [{name: x.to(kind) for name, x in state.items()}], params(SEVEN, **changes))
    opened = open_meta(tmp_path)
    assert opened.config.context_length == expected
    assert opened.metadata["context_length"].startswith(f"{expected}, as") and why in opened.metadata["context_length"]


def test_a_scaling_factor_may_be_said(tmp_path: Path) -> None:
    published(tmp_path, SEVEN, use_scaled_rope=True, rope_scaling_factor=16)
    scaling = open_meta(tmp_path).config.rope.scaling
    assert scaling == RopeScaling(kind="llama3", factor=16.0, original_context_length=8192)


@pytest.mark.parametrize("shared", [True, False], ids=["the same twice", "left out"])
def test_tied_embeddings(tmp_path: Path, shared: bool) -> None:
    """Llama 3.2 1B has `output.weight` as a second name of the embedding's numbers."""
    state = metas(drawn(SEVEN).state_dict(), SEVEN.n_head, SEVEN.n_head)
    del state["output.weight"]
    if shared:
        state["output.weight"] = state["tok_embeddings.weight"].detach()
    publish(tmp_path, [state], params(SEVEN))
    opened = open_meta(tmp_path)
    assert opened.config.tie_embeddings
    assert torch.equal(read(opened)["embed.weight"], state["tok_embeddings.weight"])


def test_one_tensor_at_a_time_is_joined(tmp_path: Path) -> None:
    """What one read gives has memory of its own; what is not cut is mapped."""
    published(tmp_path, THIRTEEN, 2)
    tensors = open_meta(tmp_path).tensors
    assert tensors["layers.0.attention.wq.weight"].read().untyped_storage().nbytes() == 36 * 36 * 4
    with pytest.raises(FathomError, match="CRC"):
        damage(tmp_path / "consolidated.01.pth", tensors["norm.weight"].read())
        open_meta(tmp_path).tensors["norm.weight"].read()


def damage(file: Path, tensor: Tensor) -> None:
    """The first of these numbers is changed in the file."""
    data, numbers = file.read_bytes(), tensor.numpy().tobytes()
    assert data.count(numbers) == 1
    at = data.index(numbers)
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_copies_must_be_copies(tmp_path: Path) -> None:
    published(tmp_path, THIRTEEN, 2)
    shard = torch.load(tmp_path / "consolidated.01.pth", weights_only=True)
    shard["layers.1.ffn_norm.weight"][5] += 1
    torch.save(shard, tmp_path / "consolidated.01.pth")
    with pytest.raises(
        FathomError, match=r"'layers.1.ffn_norm.weight' differs between consolidated.00.pth and cons.*01"
    ):
        read(open_meta(tmp_path))


def without(*numbers: int) -> Any:
    return lambda folder: [(folder / f"consolidated.{number:02d}.pth").unlink() for number in numbers]


def add_one(folder: Path) -> None:
    (folder / "consolidated.04.pth").write_bytes((folder / "consolidated.00.pth").read_bytes())


def change(number: int, **tensors: Tensor | None) -> Any:
    """Other tensors in one of the shards, or fewer."""

    def apply(folder: Path) -> None:
        file = folder / f"consolidated.{number:02d}.pth"
        shard = {**torch.load(file, weights_only=True), **{name.replace("_", "."): x for name, x in tensors.items()}}
        torch.save({name: x for name, x in shard.items() if x is not None}, file)

    return apply


def said(**changes: Any) -> Any:
    def apply(folder: Path) -> None:
        values = json.loads((folder / "params.json").read_text()) | changes
        (folder / "params.json").write_text(json.dumps({name: x for name, x in values.items() if x != "gone"}))

    return apply


FAULTS: list[tuple[Any, str]] = [
    (without(1), "has consolidated.02.pth and no consolidated.01.pth"),
    (without(0), "has consolidated.01.pth and no consolidated.00.pth"),
    (without(3), "has 24 of 96 rows .* one shard of 4; there are 3, without consolidated.03.pth"),
    (without(0, 1, 2, 3), "has params.json and no consolidated.00.pth"),
    (add_one, "one shard of 4; there are 5: remove"),
    (change(2, norm_weight=None), "consolidated.00.pth has 'norm.weight' and consolidated.02.pth does not"),
    (change(2, more_weight=torch.ones(1)), "consolidated.02.pth has 'more.weight' and consolidated.00.pth does not"),
    (
        change(3, norm_weight=torch.ones(95)),
        r"'norm.weight' is F32 \(96,\) in consolidated.00.pth, F32 \(95,\) in consolidated.03.pth",
    ),
    (change(1, norm_weight=torch.ones(96).half()), r"F16 \(96,\) in consolidated.01.pth"),
    (lambda folder: (folder / "params.json").unlink(), "params.json cannot be read"),
    (lambda folder: (folder / "params.json").write_text("[1]"), "params.json holds list"),
    (lambda folder: (folder / "consolidated.02.pth").write_bytes(b""), "consolidated.02.pth begins with"),
    (said(dim="gone"), "dim is missing"),
    (said(dim=100), "24 of 100 rows .* not a whole fraction"),
    (said(dim=0), "dim is 0"),
    (said(dim=192), "one shard of 8; there are 4, without consolidated.04.pth"),
    (said(dim="96"), "dim is '96'; expected a whole number"),
    (said(n_layers=3), "the file has 21 tensors|.layers.2.attention_norm.weight. is missing"),
    (said(n_heads=7), "params.json: d_model=96 is not a multiple of n_head=7"),
    (said(n_kv_heads=5), "n_head=16 is not a multiple of n_kv_head=5"),
    (said(vocab_size=49), "vocab_size is 49, but 'tok_embeddings.weight' has 48 rows"),
    (said(norm_eps=-1), "norm_eps=-1.0"),
    (said(use_scaled_rope=1), "use_scaled_rope is 1; expected true or false"),
    (said(use_scaled_rope=True, rope_scaling_factor=0.5), "rope_scaling_factor is 0.5; expected 1 or more"),
    (said(n_head=16), "unknown field 'n_head'; did you mean n_heads"),
    (said(quantization_args={}), "unknown field 'quantization_args'"),
]


@pytest.mark.parametrize("fault, says", FAULTS, ids=[says for _, says in FAULTS])
def test_what_is_wrong_is_named(tmp_path: Path, fault: Any, says: str) -> None:
    fault(published(tmp_path, SEVENTY, 4))
    with pytest.raises(FathomError, match=says) as raised:
        plan(open_meta(tmp_path))
    assert str(tmp_path) in str(raised.value)
