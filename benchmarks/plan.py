"""What `fathom plan` says of ten runs, beside what they measured: peak memory and seconds of a step.

    python benchmarks/plan.py [--only WORD] [--folder FOLDER]

Each run is a process of its own, `fathom train` or `fathom finetune` as anybody types it, on the text that every Python
has. After it another process plans the run's folder, with its trial of this machine. The table goes into plan.json and,
by hand, into docs/scale.md. Bases of the fine-tunings have random weights and are made first.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

LLAMA = "--model.position rope --model.norm rms --model.mlp swiglu"
GPT = "--model.position learned --model.norm layer --model.mlp gelu --model.bias on"


def shape(form: str, width: int, layers: int, heads: int, vocabulary: int) -> str:
    sizes = f"--model.d-model {width} --model.n-layer {layers} --model.n-head {heads} --model.vocab-size {vocabulary}"
    return f"{form} {sizes}"


BASES = {
    "base-512": shape(LLAMA, 512, 8, 8, 256) + " --context-length 1024",
    "base-768": shape(GPT, 768, 6, 12, 256) + " --context-length 1024 --model.tie-embeddings true",
}
ADAMW, ADAMW8, MUON = (f"--train.optimizer {name}" for name in ("adamw", "adamw8bit", "muon"))
AGAIN = "--train.checkpoint-blocks true"


def train(model: str, tokens: int, rows: int, steps: int, more: str) -> str:
    return f"train {model} --context-length {tokens} --batch-size {rows} --max-iters {steps} {more}"


def tune(base: str, method: str, tokens: int, rows: int, more: str = "") -> str:
    sizes = f"--context-length {tokens} --batch-size {rows} --max-iters 8"
    return f"finetune {base} --method {method} {sizes} {more}"


MIDDLE = shape(LLAMA, 256, 6, 8, 8192)
RUNS = {  # what it is: verb and options
    "GPT 4 × 128, AdamW, 12 × 64": train(shape(GPT, 128, 4, 4, 256), 64, 12, 40, ADAMW),
    "LLaMA 4 × 128, Muon, 24 × 64": train(shape(LLAMA, 128, 4, 4, 256), 64, 24, 20, MUON),
    "LLaMA 6 × 256, AdamW, 4 × 256": train(MIDDLE, 256, 4, 8, ADAMW),
    "the same, blocks recomputed": train(MIDDLE, 256, 4, 8, f"{ADAMW} {AGAIN}"),
    "GPT 6 × 384, 8-bit AdamW, 2 × 256": train(shape(GPT, 384, 6, 6, 16384), 256, 2, 8, ADAMW8),
    "LLaMA 4 × 384, Muon, 4 passes of 1 × 128": train(
        shape(LLAMA, 384, 4, 6, 8192), 128, 4, 8, f"--train.micro-batch-size 1 {MUON}"
    ),
    "GPT 4 × 256, AdamW in fp32, 4 × 128": train(shape(GPT, 256, 4, 4, 4096), 128, 4, 10, f"{ADAMW} --dtype fp32"),
    "LoRA of GPT 6 × 768, 2 × 128": tune("base-768", "lora", 128, 2),
    "QLoRA of LLaMA 8 × 512, 2 × 256": tune("base-512", "qlora", 256, 2),
    "LoRA of LLaMA 8 × 512, 1 × 512, recomputed": tune("base-512", "lora", 512, 1, AGAIN),
}
QUIET = "--train.sample-interval none --train.eval-windows 2 --train.seed 1 --train.warmup-steps 1 --train.compile off"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/models/plan"))
    parser.add_argument("--bases", action="store_true", help="make the bases alone")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name, options in BASES.items():
        if not (chosen.folder / name).exists():
            run(f"train {options} --batch-size 1 --max-iters 1 {ADAMW} {QUIET}", chosen.folder / name, chosen.folder)
    if chosen.bases:
        return
    rows = [measure(name, call, chosen.folder) for name, call in RUNS.items() if chosen.only in name]
    result = {"machine": machine(), "runs": rows}
    if not chosen.only:
        Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(result["machine"])
    print(table(rows))


def measure(name: str, call: str, folder: Path) -> dict[str, Any]:
    """Train, then plan what was trained."""
    place = folder / "run"
    shutil.rmtree(place, ignore_errors=True)
    run(f"{call} {QUIET} --eval-interval {call.split('--max-iters ')[1].split()[0]}", place, folder)
    said = subprocess.run([*FATHOM, "plan", str(place), "--json"], check=True, capture_output=True, text=True).stdout
    plan = json.loads(said.splitlines()[-1])
    found, way = plan["measured"], plan["memory"]["one device"]
    row = {
        "run": name,
        "memory planned": way["at once"]["n"], "memory measured": found["peak_bytes"],
        "process": way["process"]["n"],
        "seconds planned": plan["time"]["seconds"], "seconds measured": found["seconds"],
    }  # fmt: skip
    print(table([row]), file=sys.stderr)
    return row


FATHOM = [sys.executable, "-m", "fathom"]


def run(call: str, out: Path, folder: Path) -> None:
    words = [str(folder / word) if word in BASES else word for word in call.split()]
    data = ["--data", "python-docs", *(["--tokenizer", "byte"] if words[0] == "train" else [])]
    preset = ["gpt-cpu"] if words[0] == "train" else []
    subprocess.run([*FATHOM, words[0], *preset, *words[1:], *data, "-o", str(out)], check=True, capture_output=True)


def machine() -> str:
    from importlib.metadata import version

    import torch

    from fathom.native.build import instruction_set

    versions = f"torch {version('torch')}, Python {platform.python_version()}"
    return f"{platform.machine()}, {instruction_set()}, {torch.get_num_threads()} thread(s), {versions}"


def table(rows: list[dict[str, Any]]) -> str:
    """As docs/scale.md has it."""
    heads = ("run", "memory planned", "measured", "ratio", "step planned", "measured", "ratio")
    cells = [heads, ("---",) * len(heads)]
    for row in rows:
        memory, seconds = ((row[f"{what} planned"], row[f"{what} measured"]) for what in ("memory", "seconds"))
        mib, ms = [f"{n / 2**20:,.0f} MiB" for n in memory], [f"{1e3 * n:,.3g} ms" for n in seconds]
        cells.append((row["run"], *mib, f"{memory[0] / memory[1]:.2f}", *ms, f"{seconds[0] / seconds[1]:.2f}"))
    return "\n".join(f"| {' | '.join(each)} |" for each in cells)


if __name__ == "__main__":
    main()
