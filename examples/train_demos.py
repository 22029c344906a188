"""Trains the demo models of the package from fixed seeds: python examples/train_demos.py [NAME ...]

They are what `fathom.demo(NAME)` and the address demo:NAME open. All but copycat read the same tokens of the
documentation that comes with Python, so that any two can be shown beside each other. A few minutes on two cores.
"""

import shutil
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import fathom
from fathom.demos import FOLDER
from fathom.fields import plain
from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.model.presets import GPT2_CHOICES, LLAMA_CHOICES
from fathom.tokenizer.characters import CharacterTokenizer
from fathom.tokenizer.load import FILE, save
from fathom.tokenizer.protocol import Tokenizer
from fathom.training.events import Evaluated
from fathom.training.presets import STRONG_TRAIN, Recipe

SIZES = {"d_model": 48, "n_layer": 4, "n_head": 4, "context_length": 128}
LLAMA = SIZES | LLAMA_CHOICES
MODELS = {
    "bigram": SIZES | {"n_layer": 0},
    "one-head": SIZES | {"n_layer": 1, "n_head": 1, "position": "learned", "norm": "layer", "mlp": "none"},
    "gpt-tiny": SIZES | GPT2_CHOICES | {"tie_embeddings": True},
    "llama-mha": LLAMA,
    "llama-gqa": LLAMA | {"n_kv_head": 2},
    "llama-mqa": LLAMA | {"n_kv_head": 1},
}
STEPS = {"bigram": 600}
TRAIN = STRONG_TRAIN | {"data": "python-docs", "tokenizer": "bpe:512", "batch_size": 8, "compile": "off", "seed": 1}
BASE = "demo:llama-mha"  # of the adapter and of the full fine-tune, which learn Python's own source
TUNED = {"max_iters": 400, "batch_size": 8, "context_length": 128, "seed": 1, "compile": "off"}
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n"


def text_model(name: str, runs: Path) -> None:
    """A model that reads the documentation of Python."""
    steps = STEPS.get(name, 1000)
    options = {"max_iters": steps, "eval_interval": steps // 4}
    run = fathom.train(Recipe(model=MODELS[name], train=TRAIN | options), runs / name, mode="overwrite", report=told)
    ship(name, *fathom.load(run.folder, device="cpu"))


def full_finetune(runs: Path) -> None:
    """Every weight of the base, trained on Python's source."""
    run = fathom.finetune(BASE, "python-source", runs / "full", method="full", mode="overwrite", report=told, **TUNED)
    ship("full-finetune", *fathom.load(run.folder, device="cpu"))


def adapter(runs: Path) -> None:
    """The same with a LoRA: the base stays as it is."""
    run = fathom.finetune(BASE, "python-source", runs / "adapter", rank=8, mode="overwrite", report=told, **TUNED)
    folder = FOLDER / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.folder / "adapter", folder / "adapter")
    for file in (CONFIG, FILE):
        shutil.copy(run.folder / file, folder)


def copycat(runs: Path) -> None:
    """Two layers of attention that copy: every row is a random sequence over and over, and only what can be copied is
    learned. A penalty on what all heads but one of each layer write leaves the circuit to two heads, so that it can be
    seen: one looks at the token before, the other finds with its help what followed the same token last time."""
    torch.manual_seed(1)
    tokenizer, length, steps = CharacterTokenizer(LETTERS), 64, 1200
    sizes = {"vocab_size": len(LETTERS), "context_length": length, "d_model": 64, "n_layer": 2, "n_head": 4}
    model = fathom.Transformer(fathom.ModelConfig(**sizes, position="learned", norm="rms", mlp="none"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 100) * (1 - step / steps)
        ids, repeated = repeats(32, length, len(LETTERS))
        losses = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
        loss = losses[repeated[:, :-1]].mean()
        optimizer.zero_grad()
        (loss + 0.03 * written_by_others(model, (2, 1))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 250 == 0:
            print(f"copycat  step {step}  loss of what repeats {loss.item():.3f}")
    ship("copycat", model, tokenizer)


def repeats(rows: int, length: int, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Rows of random sequences of 8 to 32 tokens, each repeated to the end (rows, length); and where they repeat."""
    ids, periods = torch.empty(rows, length, dtype=torch.long), torch.randint(8, length // 2 + 1, (rows, 1))
    for row, period in zip(ids, periods[:, 0].tolist()):
        row[:] = torch.randint(n_tokens, (period,)).repeat(length // period + 1)[:length]
    return ids, torch.arange(length) >= periods


def written_by_others(model: fathom.Transformer, heads: tuple[int, ...]) -> Tensor:
    """How much all heads but one of each layer can write: the norms of their values and outputs, multiplied."""
    n_head, total = model.config.n_head, torch.zeros(())
    for block, head in zip(model.blocks, heads):
        out = block.attn.out.weight.unflatten(1, (n_head, -1)).square().sum((0, 2))
        value = block.attn.v.weight.unflatten(0, (n_head, -1)).square().sum((1, 2))
        total = total + (out * value).sqrt()[torch.arange(n_head) != head].sum()
    return total


def ship(name: str, model: fathom.Transformer, tokenizer: Tokenizer | None) -> None:
    """Put a model with its tokenizer in the package."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_config(folder / CONFIG, {"model": plain(model.config)})
    write_weights(model, folder / WEIGHTS)
    assert tokenizer is not None
    save(tokenizer, folder / FILE)


def told(event: object) -> None:
    """Shows how a run fares."""
    if isinstance(event, Evaluated):
        print(event, flush=True)


def main(names: list[str], runs: Path = Path("runs/demos")) -> None:
    torch.set_num_threads(1)
    more = {"full-finetune": full_finetune, "adapter": adapter, "copycat": copycat}
    for name in names or [*MODELS, *more]:
        text_model(name, runs) if name in MODELS else more[name](runs)


if __name__ == "__main__":
    main(sys.argv[1:])
