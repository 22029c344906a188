"""Speed and peak memory of LoRA (bf16, fp32) or QLoRA (nf4) steps with transformers, peft and bitsandbytes.

Prints one JSON line: tokens per second of the median step after the first, and the peak resident memory in MiB.

usage: python finetune_peft.py CHECKPOINT bf16|fp32|nf4|nf4-fp32 BATCH SEQUENCE STEPS
"""

import json
import resource
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """dtype: of the products."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def main(folder: str, precision: str, batch: int, sequence: int, steps: int) -> None:
    torch.manual_seed(0)
    dtype = torch.float32 if precision.endswith("fp32") else torch.bfloat16
    quantization = nf4(dtype) if precision.startswith("nf4") else None
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=quantization, device_map="cpu"
    )
    targets = ["c_attn"] if model.config.model_type == "gpt2" else "all-linear"
    adapter = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, adapter).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.randint(model.config.vocab_size, (batch, sequence))

    def seconds() -> float:
        began = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - began

    seconds()
    step = statistics.median(seconds() for _ in range(steps))
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    print(json.dumps({"tok_s": batch * sequence / step, "peak_mib": peak}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
