"""How fast and in how much memory an adapter is trained on two CPU cores, against peft (and bitsandbytes), in turn.

Models of real shapes with random weights. Ours is read from a file, as `fathom finetune` reads it, and takes steps of
the training loop. The peer is a script that takes the same arguments and prints the same line. Every measurement is a
process of its own; quoted are medians of tokens per second and of peak memory, and their ratios.

usage: python benchmarks/finetune.py [--shape gpt2] [--precision bf16] [--batch 4] [--repeat 3]
                                     [--peer-python PYTHON --peer SCRIPT]
       python benchmarks/finetune.py --ours FOLDER ...   one measurement of ours, as one line of JSON
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SEQUENCE, STEPS = 256, 5


def write_model(shape: str, folder: Path) -> None:
    """Random bf16 weights, one tensor at a time."""
    import torch

    from fathom.formats.config_file import CONFIG, write_config
    from fathom.formats.run import WEIGHTS
    from fathom.formats.safetensors_file import write_tensors
    from fathom.model.presets import GPT2, LLAMA2_7B
    from fathom.model.skeleton import weight_shapes

    small = {"n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048, "context_length": 2048}
    large = {"n_layer": 22, "n_head": 32, "n_kv_head": 4, "d_model": 2048, "d_ff": 5632, "context_length": 2048}
    config = {"gpt2": GPT2, "110M": replace(LLAMA2_7B, **small), "1.1B": replace(LLAMA2_7B, **large)}[shape]
    state = {
        name: torch.randn(size, dtype=torch.bfloat16) * 0.02 + (len(size) == 1)
        for name, size in weight_shapes(config).items()
    }
    write_config(folder / CONFIG, {"model": asdict(config.resolved())})
    write_tensors(folder / WEIGHTS, state)


def ours(folder: Path, precision: str, batch: int, shape: str) -> dict[str, Any]:
    """Steps of an adapter of rank 8 on the model in a folder."""
    import torch

    from fathom.formats.detect import open_model
    from fathom.train.finetune import micro_batch, start
    from fathom.train.loop import update
    from fathom.train.options import FinetuneOptions, TrainOptions

    target = ("attn.q", "attn.k", "attn.v") if shape == "gpt2" else ("all-linear",)
    method = "qlora" if precision == "nf4" else "lora"
    tuning = FinetuneOptions(method=method, rank=8, alpha=16.0, target=target)  # type: ignore[arg-type]
    dtype = "fp32" if precision == "fp32" else "bf16"
    opened = open_model(folder)
    options = TrainOptions(
        batch_size=batch,
        micro_batch_size=micro_batch(batch, SEQUENCE * opened.config.d_model),  # as `fathom finetune` does
        dtype=dtype,  # type: ignore[arg-type]
        learning_rate=1e-4,
        device="cpu",
    )
    session = start(SimpleNamespace(options=options, tuning=tuning, adapted=True), opened)  # type: ignore[arg-type]
    ids = torch.randint(0, opened.config.vocab_size, (batch, SEQUENCE + 1))
    first, times = update(session, ids).loss, []
    for _ in range(STEPS):
        began = time.perf_counter()
        last = update(session, ids).loss
        times.append(time.perf_counter() - began)
    return {
        "tok_s": batch * SEQUENCE / statistics.median(times),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loss": [round(first, 3), round(last, 3)],
    }


def run(command: list[str]) -> dict[str, Any]:
    """The last line that a process prints; two threads, as for everyone."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def compare(call: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Medians of all rounds."""
    same = ["--shape", call.shape, "--precision", call.precision, "--batch", str(call.batch)]
    mine = [sys.executable, __file__, "--ours", str(folder), *same]
    theirs = [call.peer_python, call.peer, call.shape, call.precision, str(call.batch), str(SEQUENCE), str(STEPS)]
    rounds = [(run(mine), run(theirs) if call.peer else {}) for _ in range(call.repeat)]
    found = {}
    for key in ("tok_s", "peak_rss_mb"):
        found[f"ours {key}"] = statistics.median(one[key] for one, _ in rounds)
        if call.peer:
            found[f"peer {key}"] = statistics.median(other[key] for _, other in rounds)
            found[f"ratio {key}"] = found[f"ours {key}"] / found[f"peer {key}"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="gpt2", choices=["gpt2", "110M", "1.1B"])
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "nf4"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--peer")
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    call = parser.parse_args()
    if call.write:
        write_model(call.shape, call.write)
    elif call.ours:
        print(json.dumps(ours(call.ours, call.precision, call.batch, call.shape)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, "--write", folder, "--shape", call.shape], check=True)
            for key, value in compare(call, Path(folder)).items():
                print(f"{key:<20} {value:,.2f}")


if __name__ == "__main__":
    main()
