"""How fast a character GPT learns tiny Shakespeare on two CPU cores, against the plain recipe, in turn, in one run.

1. time to a validation loss of 1.886 with `fathom train shakespeare-cpu`, against the whole of the plain recipe;
2. validation loss of `shakespeare-cpu` after the same 1.54M tokens;
3. milliseconds per step of our loop on the peer's own model, batch and optimizer, against the peer's.

Prints a table and writes benchmarks/train_char.json. The peer needs the extra `peers`.

usage: python benchmarks/train_char.py TEXT [--repeat 3]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GOAL = 1.886
SAME_MODEL = ["gpt-cpu", "--eval-interval", "200", "--max-iters", "200"]


def run(command: list[str]) -> str:
    """What a command prints; two threads, as for everyone."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def fathom(text: str, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Result and metrics of a training run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        call = [sys.executable, "-m", "fathom", "train", *options, "--data", text, "--out-dir", str(out), "--json"]
        result = json.loads(run(call).splitlines()[-1])
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return result, lines


def seconds_to(goal: float, lines: list[dict[str, Any]]) -> float:
    """When the validation loss, a line between its points, went below `goal`: all time counted, validating too."""
    points = [(line["seconds"], line["val_loss"]) for line in lines if "val_loss" in line]
    for (t0, a), (t1, b) in zip(points, points[1:]):
        if b <= goal:
            return t0 + (t1 - t0) * (a - goal) / (a - b) if a > goal else t0
    return float("inf")


def per_step(lines: list[dict[str, Any]]) -> float:
    """Median milliseconds between two steps."""
    times = [line["seconds"] for line in lines if "loss" in line]
    return 1e3 * statistics.median(b - a for a, b in zip(times, times[1:]))


def once(text: str) -> dict[str, float]:
    """The peer and ours, one after the other."""
    peer = json.loads(run([sys.executable, str(HERE / "plain_char_gpt.py"), text]).splitlines()[-1])
    _, fast = fathom(text, "shakespeare-cpu", "--max-iters", "300", "--eval-interval", "20")
    whole, _ = fathom(text, "shakespeare-cpu", "--train.eval-windows", "none")
    _, same = fathom(text, *SAME_MODEL)
    seconds = seconds_to(GOAL, fast)
    return {
        "peer_seconds": peer["seconds"],
        "peer_ms_per_step": peer["ms_per_step"],
        "peer_loss": peer["curve"][-1][2],
        "seconds_to_goal": seconds,
        "ratio_to_goal": seconds / peer["seconds"],
        "loss_after_same_tokens": whole["validation_loss"],
        "tokens": whole["tokens"],
        "same_model_ms_per_step": per_step(same),
        "throughput_ratio": peer["ms_per_step"] / per_step(same),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--repeat", type=int, default=3)
    call = parser.parse_args()
    rounds = [once(call.text) for _ in range(call.repeat)]
    medians = {key: round(statistics.median(r[key] for r in rounds), 4) for key in rounds[0]}
    machine = f"{platform.machine()}, {platform.processor() or 'unknown processor'}, 2 threads"
    (HERE / "train_char.json").write_text(json.dumps({"machine": machine, "medians": medians, "rounds": rounds}, indent=1))
    for key, value in medians.items():
        print(f"{key:<26} {value}")


if __name__ == "__main__":
    main()
