"""Prefill and decoding speed of transformers' `generate` on random bf16 weights.

Prints one JSON line: tokens per second of a prompt (until its first new token) and of NEW further tokens.

usage: python infer_transformers.py CONFIG.json PROMPT NEW
"""

import json
import sys
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def main(path: str, prompt: int, new: int) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=torch.bfloat16).eval()
    ids = torch.randint(model.config.vocab_size, (1, prompt))

    def seconds(count: int) -> float:
        """Of writing so many tokens after the prompt."""
        began = time.perf_counter()
        # generate() disables gradients itself; weights created in inference mode would make its prefill a third slower
        model.generate(
            ids, attention_mask=torch.ones_like(ids), min_new_tokens=count, max_new_tokens=count, do_sample=False
        )
        return time.perf_counter() - began

    seconds(2)  # to warm up
    prefill = seconds(1)
    decode = seconds(new + 1) - prefill
    print(json.dumps({"prefill_tok_s": prompt / prefill, "decode_tok_s": new / decode}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
