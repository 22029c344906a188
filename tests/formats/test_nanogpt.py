"""nanoGPT's ckpt.pt, written as its train.py does, against transformers' GPT-2 with the same weights."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.errors import FathomError
from fathom.formats.convert import read_ours
from fathom.formats.detect import open_model
from fathom.formats.load import load
from fathom.formats.tokenizer import load_tokenizer
from tests.formats.hf import GPT2, make
from tests.mutants import survive

IDS = torch.arange(60)[None]
ARGUMENTS: dict[str, Any] = {
    "n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 256, "bias": True, "vocab_size": 61, "dropout": 0.1,
}  # fmt: skip
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def checkpoint(theirs: Any, bias: bool = True, prefix: str = "") -> dict[str, Any]:
    """nanoGPT's dict of the same model: matrices the other way round, an optimizer that has made a step."""
    state = {name: x.T.contiguous() if name.endswith(CONV1D) else x for name, x in theirs.state_dict().items()}
    state = {name: x for name, x in state.items() if bias or not name.endswith("bias")}
    parameters = [torch.nn.Parameter(x.clone()) for x in state.values()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95))
    sum(x.sum() for x in parameters).backward()  # type: ignore[union-attr]
    optimizer.step()
    return {
        "model": {prefix + name: x for name, x in state.items()},
        "optimizer": optimizer.state_dict(),
        "model_args": ARGUMENTS | {"bias": bias},
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.4697),
        "config": {"out_dir": "out", "learning_rate": 1e-3, "beta2": 0.99, "compile": True, "device": "cuda"},
    }


def model(activation: str = "gelu", bias: bool = True) -> Any:
    theirs = make(GPT2 | {"activation_function": activation})
    with torch.no_grad():
        for name, x in theirs.named_parameters():
            if not bias and name.endswith("bias"):
                x.zero_()
    return theirs


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_those_of_the_same_gpt2(tmp_path: Path, bias: bool, prefix: str) -> None:
    theirs = model(bias=bias)
    torch.save(checkpoint(theirs, bias, prefix), tmp_path / "ckpt.pt")
    for path in (tmp_path, tmp_path / "ckpt.pt"):
        ours, tokenizer = load(path, device="cpu")
        assert (ours(IDS) - theirs(IDS).logits).abs().max() <= 1e-5
        assert tokenizer is None and ours.config.tie_embeddings
    assert "nanoGPT" in repr(fathom.info(tmp_path / "ckpt.pt"))
    assert open_model(tmp_path).metadata == {"iter_num": 2000}


def test_files_before_bias_was_an_argument(tmp_path: Path) -> None:
    """Their GELU is the approximate one, and masks are among the weights."""
    theirs = model("gelu_new")
    saved = checkpoint(theirs)
    del saved["model_args"]["bias"]
    saved["model"] |= {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 256, 256).tril() for i in (0, 1)}
    torch.save(saved, tmp_path / "ckpt.pt")
    ours, _ = load(tmp_path, device="cpu")
    assert (ours(IDS) - theirs(IDS).logits).abs().max() <= 1e-5


def test_the_characters_of_meta_pkl(tmp_path: Path) -> None:
    characters = [chr(33 + i) for i in range(61)]
    torch.save(checkpoint(model()), tmp_path / "ckpt.pt")
    meta = {"vocab_size": 61, "itos": dict(enumerate(characters)), "stoi": {c: i for i, c in enumerate(characters)}}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    tokenizer = load_tokenizer(tmp_path / "ckpt.pt")
    assert tokenizer.encode("!#A") == [0, 2, 32] and tokenizer.decode([0, 2, 32]) == "!#A"
    assert tokenizer.vocab_size == 61
    for wrong in ({}, {"itos": {0: "ab"}}, {"itos": {1: "a"}}, {"itos": [1]}, 3):
        (tmp_path / "meta.pkl").write_bytes(pickle.dumps(wrong))
        with pytest.raises(FathomError, match=r"meta\.pkl: it"):
            load_tokenizer(tmp_path / "ckpt.pt")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"n_kv_head": 1}, r"model_args.n_kv_head is 1; expected only n_layer, "),
    ({"n_head": 5}, r"model_args: d_model=24 is not a multiple of n_head=5"),
    ({"n_layer": 3}, r"'transformer.h.2.ln_1.weight' is missing"),
    ({"n_layer": 1}, r"'transformer.h.1.attn.c_attn.bias' has no place in this model"),
    ({"n_embd": "24"}, r"model_args: n_embd is '24'; expected a whole number"),
    ({"vocab_size": 1 << 30}, r"they are not of one model"),
    ({"bias": False}, r"'transformer.h.0.attn.c_attn.bias' has no place"),
]


@pytest.mark.parametrize(("change", "says"), WRONG)
def test_arguments_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    saved = checkpoint(model())
    saved["model_args"] |= change
    torch.save(saved, tmp_path / "ckpt.pt")
    with pytest.raises(FathomError, match=says):
        load(tmp_path, device="cpu")


def test_another_dict_without_a_config_is_still_refused(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.ones(2)}, "model_args": 3}, tmp_path / "ckpt.pt")
    with pytest.raises(FathomError, match=re.escape("no config.json beside these weights")):
        open_model(tmp_path / "ckpt.pt")


def everything(path: Path) -> None:
    for _ in read_ours(open_model(path)):
        pass


def test_mutants_do_no_harm(tmp_path: Path) -> None:
    torch.save(checkpoint(model()), tmp_path / "ckpt.pt")
    survive(everything, tmp_path / "ckpt.pt", 200)
