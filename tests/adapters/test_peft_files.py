"""Adapters that are damaged, of another model, or ask for what is not done here: one line, and the model as it was."""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fathom.adapters import lora, peft
from fathom.adapters.load import load
from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError
from fathom.formats.export import write_model
from fathom.formats.fingerprint import fingerprint
from fathom.formats.load import load as load_model
from fathom.model.transformer import Transformer
from tests.adapters.models import adapted, adapter_folder, base_folder
from tests.architectures import ARCHITECTURES, ids_for, model_of
from tests.mutants import survive

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SMALL = LoraOptions(rank=2, targets=("attn.q", "mlp.down"))


def saved(tmp_path: Path, name: str = "llama", options: LoraOptions = SMALL) -> tuple[Path, Path]:
    base, model = base_folder(tmp_path / "base", name)
    return base, adapter_folder(tmp_path / "adapter", model, options, base)


def configure(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps(values))

    return change


def describe(**values: Any) -> Callable[[Path], object]:
    """Our own file beside peft's."""
    return lambda folder: (folder / "fathom_adapter.json").write_text(json.dumps(values))


def rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = {name: x.clone() for name, x in load_file(folder / WEIGHTS).items()}
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return changed


LAYER = "base_model.model.model.layers.1.self_attn.q_proj"
A, B = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "holds no adapter_config.json"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "adapter_model.safetensors cannot be read"),
    "pickled weights": (lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"), "adapter_model.bin begins with"),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), "is not JSON"),
    "a missing tensor": (rewrite(lambda t: t.pop(A)), f"{A} is missing"),
    "a missing layer": (rewrite(lambda t: (t.pop(A), t.pop(B))), "lora_A.weight is missing.*and|is missing"),
    "a tensor too many": (rewrite(lambda t: t.update({A.replace("q_p", "q_"): t[A] + 1})), "no place.*did you mean"),
    "another layer": (rewrite(lambda t: t.update({A.replace(".1.", ".7."): t.pop(A)})), "has no place"),
    "a tensor of DoRA": (rewrite(lambda t: t.update({f"{LAYER}.lora_magnitude_vector": t[B][:, 0] + 1})), "no place"),
    "no tensors": (rewrite(dict.clear), "is missing"),
    "another rank": (configure(r=3), r"a of .* is \(2, 20\); the model and a rank of 3 expect \(3, 20\)"),
    "another rank of one": (configure(rank_pattern={"layers.1.self_attn.q_proj": 5}), "a rank of 5"),
    "another shape": (rewrite(lambda t: t.update({B: t[B][:-1].clone()})), r"b of .* is \(23, 2\)"),
    "not a number": (rewrite(lambda t: t[A].fill_(float("nan"))), "not finite"),
    "whole numbers": (rewrite(lambda t: t.update({A: t[A].to(torch.int32)})), "is I32"),
    "dora without lengths": (configure(use_dora=True), "lora_magnitude_vector is missing"),
    "another kind": (configure(peft_type="IA3"), "peft_type is 'IA3'; expected LORA"),
    "other biases": (configure(bias="some"), "bias is 'some'; expected one of none, all, lora_only"),
    "whole layers": (configure(modules_to_save=["lm_head"]), "lm_head.weight is missing, which modules_to_save lists"),
    "rows of tokens": (configure(trainable_token_indices=[3]), "rows of trainable_token_indices are missing"),
    "rows of no tokens": (configure(trainable_token_indices=["a"]), "trainable_token_indices is .* token ids"),
    "layers in words": (configure(layers_to_transform="1"), "layers_to_transform is '1'; expected numbers"),
    "another layer is meant": (configure(layers_to_transform=0), "layers.1.* has no place"),
    "an excluded layer": (configure(exclude_modules=["q_proj"]), "q_proj.* has no place"),
    "a field of the future": (configure(use_magic=True), "use_magic is True, which is not supported"),
    "biases of b": (configure(lora_bias=True), "lora_B.bias is missing"),
    "olora": (configure(init_lora_weights="olora"), "init_lora_weights is 'olora', which changes the base"),
    "pissa by chance": (configure(init_lora_weights="pissa_niter_4"), "changes the base"),
    "rank 0": (configure(r=0), "r is 0"),
    "alpha 0": (configure(lora_alpha=0), "lora_alpha 0"),
    "no alpha": (configure(lora_alpha=None), "lora_alpha is missing"),
    "a rank in words": (configure(r="8"), "r is '8'; expected a whole number"),
    "dropout 1": (configure(lora_dropout=1.0), "lora_dropout 1.0"),
    "a pattern that takes for ever": (configure(rank_pattern={"(a+)+$": 2}), r"has the pattern '\(a\+\)\+\$'"),
    "patterns in a list": (configure(rank_pattern=["q_proj"]), "rank_pattern is"),
    "a rank of a pattern": (configure(rank_pattern={"q_proj": 1.5}), "is 1.5; expected a whole number"),
    "targets in numbers": (configure(target_modules=[1]), "target_modules is"),
    "targets with nothing": (configure(target_modules=["q_proj", "down_proj", "up_proj"]), "up_proj.* is missing"),
    "another base": (describe(base_sha256="00" * 32), "is an adapter of another model than"),
    "an unknown packing": (describe(quantize="nf5"), "quantize is 'nf5'; expected"),
    "a base in numbers": (describe(base_sha256=1), "base_sha256 is 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_adapters(tmp_path: Path, case: str) -> None:
    change, says = BAD[case]
    base, folder = saved(tmp_path)
    change(folder)
    model = load_model(base, device="cpu")[0]
    before = list(model.state_dict())
    with pytest.raises(FathomError, match=says) as caught:
        load(base, device="cpu", adapter=folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    if case != "no config":
        with pytest.raises(FathomError):
            peft.load(model, folder, base=base)
    assert list(model.state_dict()) == before


def test_an_adapter_of_another_model(tmp_path: Path) -> None:
    """By its fingerprint; without one, by its shapes and names."""
    _, folder = saved(tmp_path)
    other, _ = base_folder(tmp_path / "other", "llama")
    with pytest.raises(FathomError, match=r"is an adapter of another model than .*other"):
        load(other, device="cpu", adapter=folder)
    (folder / "fathom_adapter.json").unlink()
    load(other, device="cpu", adapter=folder)  # as peft's own are: nothing distinguishes the two
    gpt, _ = base_folder(tmp_path / "gpt", "gpt2")
    with pytest.raises(FathomError, match="has no place in this model"):
        load(gpt, device="cpu", adapter=folder)


def test_what_earlier_versions_wrote_into_pefts_file_is_read(tmp_path: Path) -> None:
    base, folder = saved(tmp_path)
    (folder / "fathom_adapter.json").unlink()
    configure(fathom={"base_sha256": "00" * 32})(folder)
    with pytest.raises(FathomError, match="is an adapter of another model"):
        load(base, device="cpu", adapter=folder)


def test_a_pickled_adapter(tmp_path: Path) -> None:
    """As peft wrote them before 0.6."""
    base, folder = saved(tmp_path)
    exact, _ = load(base, device="cpu", adapter=folder)
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    again, _ = load(base, device="cpu", adapter=folder)
    ids = ids_for(exact.config)
    assert torch.equal(again(ids), exact(ids))


def test_adapters_of_different_bases(tmp_path: Path) -> None:
    base, folder = saved(tmp_path)
    other, model = base_folder(tmp_path / "other", "llama")
    second = adapter_folder(tmp_path / "second", model, SMALL, other)
    with pytest.raises(FathomError, match="second is an adapter of another model"):
        load(base, device="cpu", adapter=[folder, second])


@torch.no_grad()
def test_several(tmp_path: Path) -> None:
    base, folder = saved(tmp_path)
    model = load_model(base, device="cpu")[0]
    second = adapter_folder(tmp_path / "2nd", model, LoraOptions(rank=3, targets=("attn.*",)), base)
    both, _ = load(base, device="cpu", adapter=[folder, second])
    assert lora.names(both) == [tmp_path.name, "a_2nd"] and not both.training
    ids = ids_for(both.config)
    alone = [load(base, device="cpu", adapter=each)[0] for each in (folder, second)]
    assert lora.active_adapters(both).weights == dict.fromkeys(lora.names(both), 1.0)
    lora.disable(both, "a_2nd")
    assert torch.equal(both(ids), alone[0](ids))
    with pytest.raises(FathomError, match="two adapters are called test_several"):
        load(base, device="cpu", adapter=[folder, folder])


def test_adapters_of_runs_are_called_as_their_runs(tmp_path: Path) -> None:
    """`RUN` and `RUN/adapter` are one."""
    base, model = base_folder(tmp_path / "base", "llama")
    for run in ("poems", "news"):
        adapter_folder(tmp_path / run / "adapter", copy.deepcopy(model), SMALL, base)
    both, _ = load(base, device="cpu", adapter=[tmp_path / "poems" / "adapter", tmp_path / "news"])
    assert lora.names(both) == ["poems", "news"]


def test_the_fingerprint_is_that_of_the_model_and_not_of_its_files(tmp_path: Path) -> None:
    base, model = base_folder(tmp_path / "base", "llama")
    print_ = fingerprint(base)
    write_model(model.bfloat16(), None, "hf", tmp_path / "narrow")
    write_model(model, None, "gguf", tmp_path / "x.gguf")
    assert print_ == fingerprint(tmp_path / "narrow") == fingerprint(tmp_path / "x.gguf")
    for name in ("embed.weight", "blocks.1.mlp.down.weight", "final_norm.weight"):
        with torch.no_grad():
            model.get_parameter(name).mul_(1.01)
        write_model(model, None, "hf", tmp_path / name)
        assert fingerprint(tmp_path / name) != print_


def test_trained_on_a_quantised_base(tmp_path: Path) -> None:
    base, _ = base_folder(tmp_path / "base", "llama")
    model = load_model(base, device="cpu", quantize="nf4")[0]
    folder = adapter_folder(tmp_path / "adapter", model, SMALL, base)
    exact = model(ids_for(model.config) * 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, _ = load(base, device="cpu", quantize="nf4", adapter=folder)
    assert torch.equal(again(ids_for(model.config) * 0), exact)
    with pytest.warns(UserWarning, match="was trained on the model in nf4"):
        load(base, device="cpu", adapter=folder)


def test_pissa_as_peft_left_it_needs_floats(tmp_path: Path) -> None:
    base, folder = saved(tmp_path)
    configure(init_lora_weights="pissa")(folder)
    load(base, device="cpu", adapter=folder)
    with pytest.raises(FathomError, match="load it without quantize"):
        load(base, device="cpu", quantize="int8", adapter=folder)


@pytest.mark.parametrize("name", ["gpt", "qk_norm", "no stream", "multi-query"])
def test_models_that_no_other_format_holds(tmp_path: Path, name: str) -> None:
    """Their layers are called by our names."""
    model = model_of(ARCHITECTURES[name], std=0.2)
    plain = {key: x.clone() for key, x in model.state_dict().items()}
    ids = ids_for(model.config)
    adapter_folder(tmp_path / "adapter", model, LoraOptions(rank=2))
    exact = model(ids)
    again = Transformer(model.config).eval()
    again.load_state_dict(plain)
    peft.load(again, tmp_path / "adapter")
    assert torch.equal(again(ids), exact)


def test_written_over_what_was_there(tmp_path: Path) -> None:
    base, folder = saved(tmp_path)
    model = load_model(base, device="cpu")[0]
    adapter_folder(folder, model, LoraOptions(rank=5), base)
    again = load_model(base, device="cpu")[0]
    assert peft.load(again, folder, base=base).config.rank == 5
    (tmp_path / "file").write_text("")
    with pytest.raises(FathomError, match="could not be written"):
        peft.save(model, tmp_path / "file")


def test_saved_while_merged(tmp_path: Path) -> None:
    """What is written is the adapter, wherever its delta is added."""
    base, model = base_folder(tmp_path / "base", "llama")
    adapter_folder(tmp_path / "unmerged", model, SMALL, base)
    lora.merge(model)
    peft.save(model, tmp_path / "merged", base=base)
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "unmerged" / name).read_bytes()


def test_export_of_a_model_with_an_adapter(tmp_path: Path) -> None:
    _, model = base_folder(tmp_path / "base", "llama")
    adapted(model, SMALL)
    with pytest.raises(FathomError, match="merge its adapters"):
        write_model(model, None, "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FathomError, match="is an adapter, not a model"):
        peft.save(model, tmp_path / "adapter")
        load(tmp_path / "adapter", device="cpu")


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
@pytest.mark.filterwarnings("ignore:embed and unembed")
def test_mutants(tmp_path: Path, file: str, count: int) -> None:
    options = LoraOptions(rank=2, targets=("attn.q", "attn.v", "embed"), ranks=(("embed", 1),))
    base, folder = saved(tmp_path, "gpt2", options)
    model = load_model(base, device="cpu")[0]

    def read(_: Path) -> None:
        try:
            peft.load(model, folder)
        finally:
            for each in lora.names(model):
                lora.remove(model, each)

    survive(read, folder / file, count)


def test_mutants_are_read_at_all(tmp_path: Path) -> None:
    base, folder = saved(tmp_path, "gpt2")
    model = load_model(base, device="cpu")[0]
    peft.load(model, folder)
    assert lora.names(model) == ["default"]


def test_a_loaded_adapter_needs_its_file_no_more(tmp_path: Path) -> None:
    """Training goes on writing adapters where one was loaded from."""
    base, folder = saved(tmp_path)
    model = load_model(base, device="cpu")[0]
    peft.load(model, folder)
    listed = set(map(id, lora.parameters(model)))
    assert {id(x) for x in model.parameters() if x.requires_grad} == listed  # and it alone can go on learning
    before = {name: x.clone() for name, x in lora.state_dict(model).items()}
    size = (folder / WEIGHTS).stat().st_size
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(bytes(size))
    assert all(torch.equal(x, before[name]) for name, x in lora.state_dict(model).items())
