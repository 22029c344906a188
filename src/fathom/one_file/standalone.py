"""What every ejected file has besides its model: a cache, reading weights, writing text. It is copied as it stands.

In that file `config` and `Transformer` are those of the one model, and the samplers are fathom.generation.sampling's.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.generation.sampling import pick, temperature, top_k, top_p

config: Any = SimpleNamespace()
Transformer: Callable[[], Any] = SimpleNamespace

# %% cache


class NoCache:
    """The past of a pass that starts at the first token and keeps nothing."""

    length = horizon = 0  # tokens read so far

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def positions(self, t: int) -> Tensor:  # (t,)
        return torch.arange(self.length, self.length + t, device=self.device)

    # %% windows

    def first(self, window: int | None) -> int:
        """The first position that the next token sees."""
        return 0 if window is None else max(0, self.length - window + 1)

    def keys(self, t: int, window: int | None = None) -> int:
        """How many keys `append` gives to t new tokens, in a layer with this window."""
        return self.length - self.first(window) + t

    def visible(self, t: int, window: int | None = None) -> Tensor | None:
        """(t, s), true where a query may look: at the last `window` positions up to its own. None: at all up to it."""
        s = self.keys(t, window)
        if window is None or s <= window:
            return None
        key = torch.arange(self.length + t - s, self.length + t, device=self.device)
        query = key[-t:, None]
        return (key <= query) & (key > query - window)

    # %% all

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def advance(self, t: int) -> None:
        """Count t more tokens as read: once per pass, when all layers have appended theirs."""
        self.length += t


class KVCache(NoCache):
    """Keys and values of up to `length` tokens, so that each new token costs one step and not a whole pass."""

    def __init__(self, length: int, like: Tensor) -> None:
        super().__init__(like.device)
        self.store = like.new_zeros(config.n_layer, 2, 1, config.n_kv_head, length, config.head_dim)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k and v (1, g, t, c) of the next t tokens; returns those of all that they may see (1, g, s, c)."""
        first, end = self.first(config.windows[layer]), self.length + k.shape[2]
        self.store[layer, :, :, :, self.length : end] = torch.stack((k, v))
        return self.store[layer, 0, :, :, first:end], self.store[layer, 1, :, :, first:end]


# %% running


def load(path: Path) -> Any:
    """The model with the weights of a .safetensors file: 8 bytes of length, a JSON header, and the numbers."""
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    weights = {}
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    for name, one in header.items():
        first, end = one["data_offsets"]  # in bytes
        numbers = torch.frombuffer(data, dtype=torch.uint8, offset=begin + first, count=end - first)
        weights[name] = numbers.view(types[one["dtype"]]).view(one["shape"])
    with torch.device("meta"):
        model = Transformer()
    weights.setdefault("unembed.weight", weights["embed.weight"])  # one matrix, where it is stored once
    model.load_state_dict(weights, assign=True)
    return model.eval()


@torch.no_grad()
def generate(model: Any, ids: list[int], ask: argparse.Namespace) -> Iterator[int]:
    """The next ask.n tokens, one at a time, drawn under ask.temperature, ask.top_k (0: all), ask.top_p and ask.seed."""
    cache, random, new = KVCache(len(ids) + ask.n, model.embed.weight), torch.Generator().manual_seed(ask.seed), ids
    for _ in range(ask.n):
        logits = temperature(model(torch.tensor([new]), cache)[:, -1, : config.tokens].float(), ask.temperature)
        logits = top_k(logits, ask.top_k) if ask.top_k else logits
        logits = top_p(logits, ask.top_p) if ask.top_p < 1 else logits
        new = [int(pick(logits.double().softmax(-1), [random]))]
        yield new[0]


# %% training


def start(model: Any) -> Any:
    """New weights: normal with deviation 0.02, and smaller where they write to the residual stream (GPT-2)."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            writes = name.endswith(("attn.out.weight", "down.weight"))
            nn.init.normal_(weight, std=0.02 / (2 * config.n_layer) ** 0.5 if writes else 0.02)
    return model


def train(
    model: Any, ids: Tensor, steps: int, batch: int = 16, length: int = 64, rate: float = 1e-3
) -> Iterator[float]:
    """AdamW on windows of the tokens `ids` (n,), a tenth of the steps warming up, then down a cosine: loss by loss."""
    kinds = [[one for one in model.parameters() if (one.dim() > 1) is matrix] for matrix in (True, False)]
    groups = [{"params": kind, "weight_decay": decay} for kind, decay in zip(kinds, (0.1, 0.0))]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
    warm = max(1, steps // 10)
    model.train()
    for step in range(steps):
        now = (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (steps - warm))
        for group in optimizer.param_groups:
            group["lr"] = rate * now
        places = torch.randint(len(ids) - length, (batch,)).tolist()
        windows = torch.stack([ids[place : place + length + 1] for place in places])
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield loss.item()
    model.eval()


# %% main


def main() -> None:
    parser = argparse.ArgumentParser(description="Continues token ids; without any, writes a new text.")
    parser.add_argument("ids", nargs="*", type=int, help="`fathom tokenize MODEL TEXT` prints those of a text")
    for flag, value in {"n": 100, "temperature": 0.8, "top-k": 0, "top-p": 1.0, "seed": 0}.items():
        parser.add_argument(f"--{flag}", type=type(value), default=value)
    ask = parser.parse_args()
    table = (here := Path(__file__)).with_suffix(".vocab.json")
    pieces = [bytes.fromhex(piece) for piece in json.loads(table.read_text())] if table.is_file() else None
    for id in generate(load(here.with_suffix(".safetensors")), ask.ids or config.begin, ask):
        sys.stdout.write(pieces[id].decode(errors="replace") if pieces else f"{id} ")
        sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
