"""How fast a character GPT learns tiny Shakespeare on two CPU cores, against the plain recipe, in turn, in one run.

1. seconds of training until the validation loss is 1.886 or less (a run of 130 steps), against the whole of the peer;
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
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GOAL, STEPS = 1.886, 130  # steps of 1,536 tokens, with the schedule over them, that are enough for it
ALL = ["--train.eval-windows", "none"]  # validation over every window, as the peer does


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


def per_step(lines: list[dict[str, Any]]) -> float:
    """Median milliseconds between two steps."""
    times = [line["seconds"] for line in lines if "loss" in line]
    return 1e3 * statistics.median(b - a for a, b in pairwise(times))


def once(text: str) -> dict[str, float]:
    """The peer and ours, one after the other."""
    peer = json.loads(run([sys.executable, str(HERE / "plain_char_gpt.py"), text]).splitlines()[-1])
    fast, lines = fathom(text, "shakespeare-cpu", f"--max-iters={STEPS}", f"--eval-interval={STEPS}", *ALL)
    seconds = max(line["seconds"] for line in lines if "loss" in line)
    whole, _ = fathom(text, "shakespeare-cpu", "--eval-interval=1000", *ALL)
    _, same = fathom(text, "gpt-cpu", "--max-iters=300", "--eval-interval=300")
    return {
        "peer_seconds": peer["seconds"],
        "peer_ms_per_step": peer["ms_per_step"],
        "peer_loss": peer["curve"][-1][2],
        "seconds_to_goal": seconds if fast["validation_loss"] <= GOAL else float("inf"),
        "loss_at_goal": fast["validation_loss"],
        "ratio_to_goal": seconds / peer["seconds"],
        "loss_after_same_tokens": whole["validation_loss"],
        "tokens": whole["tokens"],
        "same_model_ms_per_step": per_step(same),
        "throughput_ratio": peer["ms_per_step"] / per_step(same),
    }


def processor() -> str:
    """The processor's own name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--repeat", type=int, default=3)
    call = parser.parse_args()
    rounds = [once(call.text) for _ in range(call.repeat)]
    medians = {key: round(statistics.median(r[key] for r in rounds), 4) for key in rounds[0]}
    machine = f"{processor()}, {platform.machine()}, 2 threads, torch {version('torch')}"
    (HERE / "train_char.json").write_text(
        json.dumps({"machine": machine, "medians": medians, "rounds": rounds}, indent=1)
    )
    for key, value in medians.items():
        print(f"{key:<26} {value}")


if __name__ == "__main__":
    main()
