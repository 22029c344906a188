"""The plain recipe for a character GPT: transformers' GPT-2, eager and fp32.

4 layers, 4 heads, width 128, context 64, 12 windows a step, 2000 steps, AdamW, 1e-3 to 1e-4 along a cosine after 100
steps of warm-up: 1.54M tokens. Prints one JSON line: seconds of training alone, ms per step, and the validation loss
over all windows of the last tenth of the text as (step, seconds, loss).

usage: python train_char_gpt.py TEXT [STEPS=2000] [EVALUATIONS=10]
"""

import json
import math
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

CONTEXT, BATCH, PEAK, LAST, WARMUP = 64, 12, 1e-3, 1e-4, 100


def learning_rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    return LAST + (PEAK - LAST) * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP))) / 2


def main(path: str, steps: int = 2000, evaluations: int = 10) -> None:
    torch.manual_seed(1337)
    text = Path(path).read_text()
    index = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([index[character] for character in text])
    train, validation = ids.split((int(0.9 * len(ids)), len(ids) - int(0.9 * len(ids))))
    windows = validation[: (len(validation) - 1) // CONTEXT * CONTEXT + 1].unfold(0, CONTEXT + 1, CONTEXT)
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(index), n_positions=CONTEXT, n_embd=128, n_layer=4, n_head=4, **off)
    )
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99))

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())

    @torch.no_grad()
    def evaluate() -> float:
        model.eval()
        losses = [loss_of(part).item() * len(part) for part in windows.split(64)]
        model.train()
        return sum(losses) / len(windows)

    curve, seconds = [], 0.0
    for step in range(steps):
        began = time.perf_counter()
        starts = torch.randint(len(train) - CONTEXT - 1, (BATCH,))
        batch = torch.stack([train[i : i + CONTEXT + 1] for i in starts])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.perf_counter() - began
        if (step + 1) % max(1, steps // evaluations) == 0:
            curve.append((step + 1, round(seconds, 3), round(evaluate(), 4)))
    figures = {"steps": steps, "seconds": round(seconds, 2), "ms_per_step": round(1e3 * seconds / steps, 3)}
    print(json.dumps({"peer": "transformers GPT-2, plain loop", **figures, "curve": curve}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
