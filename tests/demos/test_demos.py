"""The demo models: they are small, they open wherever a model is given, and they do what they were trained for."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fathom
from fathom.adapters import lora
from fathom.cli.main import main
from fathom.data.corpus import resolve
from fathom.demos import DEMOS, FOLDER
from fathom.glass.subject import open_subject
from tests.house.source import ROOT

TEXTS = [name for name in DEMOS if name != "copycat"]


def loss(name: str, text: str) -> float:
    """Nats per token of some windows of a text."""
    model, tokenizer = fathom.demo(name)
    ids = torch.tensor(tokenizer.encode(text)[: 8 * 128]).view(8, 128)
    with torch.no_grad():
        return F.cross_entropy(model(ids)[:, :-1].transpose(1, 2), ids[:, 1:]).item()


def test_they_are_small() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert {path.relative_to(FOLDER).parts[0] for path in files} == {*DEMOS}
    assert sum(path.stat().st_size for path in files) < 4_000_000


@pytest.mark.parametrize("name", DEMOS)
def test_each_opens_and_writes(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = fathom.demo(name)
    assert model.embed.weight.dtype == torch.float32 and model.config.vocab_size == tokenizer.vocab_size
    assert open_subject(f"demo:{name}").model.config == model.config
    (written,) = fathom.generate(f"demo:{name}", "a function ", max_new_tokens=8, temperature=0)
    assert len(written.tokens) == 8
    assert main(["info", f"demo:{name}"]) == main(["info", f"demo:{name}", "--as-config"]) == 0
    assert "parameters" in capfd.readouterr().out


@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
def test_they_can_be_packed(scheme: str) -> None:
    subject = open_subject("demo:llama-gqa", quantize=scheme)
    assert subject.card()["packing"] == scheme and subject.name == f"demo:llama-gqa {scheme}"


def test_the_texts_share_their_tokens() -> None:
    """So that any two can be shown beside each other."""
    first = [fathom.demo(name)[1].encode("def read(self): pass") for name in TEXTS]
    assert all(ids == first[0] for ids in first)


def test_each_idea_helps() -> None:
    text = "".join(resolve("python-docs").chunks())[-20_000:]
    losses = {name: loss(name, text) for name in ("bigram", "one-head", "gpt-tiny", "llama-mha")}
    assert losses["bigram"] > losses["one-head"] > losses["gpt-tiny"] > losses["llama-mha"]


def test_fine_tuning_taught_code() -> None:
    text = Path(torch.__file__).with_name("_utils.py").read_text(encoding="utf-8")  # no run has read it
    base, adapted, full = (loss(name, text) for name in ("llama-mha", "adapter", "full-finetune"))
    assert full < adapted < base - 0.1
    model, _ = fathom.demo("adapter")
    assert lora.names(model)
    for adapter in lora.names(model):
        lora.remove(model, adapter)
    base_weights = fathom.demo("llama-mha")[0].state_dict()
    assert all(torch.equal(x, base_weights[name]) for name, x in model.state_dict().items())


PERIOD = 24


def repeated(rows: int = 32) -> Tensor:
    """Random sequences of PERIOD tokens, twice each."""
    return torch.randint(64, (rows, PERIOD), generator=torch.Generator().manual_seed(1)).repeat(1, 2)


@torch.no_grad()
def loss_of_second_half(model: fathom.Transformer, ids: Tensor) -> float:
    return F.cross_entropy(model(ids)[:, PERIOD:-1].transpose(1, 2), ids[:, PERIOD + 1 :]).item()


def test_copycat_has_an_induction_head() -> None:
    """A head of layer 1 looks at what followed the same token before, none of layer 0 does; without it the second half
    is no better than guessed."""
    (model, _), ids = fathom.demo("copycat"), repeated()
    with torch.no_grad(), fathom.look(model, "blocks.*.attn.pattern") as seen:
        model(ids)
    query = torch.arange(PERIOD, 2 * PERIOD - 1)
    induction = [seen[f"blocks.{layer}.attn.pattern"][:, :, query, query - PERIOD + 1].mean((0, 2)) for layer in (0, 1)]
    head = int(induction[1].argmax())
    assert induction[1][head] > 0.5 > 0.1 > induction[0].max()
    before = loss_of_second_half(model, ids)
    with fathom.edit(model, fathom.zero("blocks.1.attn.z", head=head)):
        assert loss_of_second_half(model, ids) > before + 1
    assert before < 1


@pytest.mark.parametrize("call", [fathom.demo, lambda name: fathom.load(f"demo:{name}")])
def test_a_wrong_name_is_one_line(call) -> None:
    with pytest.raises(fathom.FathomError, match="no demo is called 'copycta'; did you mean copycat"):
        call("copycta")
    with pytest.raises(fathom.FathomError, match="no demo was named; choose one of bigram, one-head"):
        call("")


def test_the_page_lists_them() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("| `")][-len(DEMOS) :] == [
        f"| `{name}` | {about} |" for name, about in DEMOS.items()
    ]
