"""How fast a character GPT learns tiny Shakespeare on two CPU cores, beside the plain recipe, in turn, in one run.

1. seconds of training until the validation loss is 1.886 or less (a run of 130 steps), beside the whole of the peer's;
2. validation loss of `shakespeare-cpu` after the same 1.54M tokens;
3. milliseconds per step of our loop on the peer's own model, batch and optimizer, beside the peer's.

Prints the medians and writes train_char.json. The peer is peers/train_char_gpt.py.

usage: python benchmarks/train_char.py TEXT [--repeat 3]
"""

import argparse
import json
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure import HERE, PEER_PYTHON, PEERS, figures, machine

THREADS = 2
GOAL, STEPS = 1.886, 130  # steps of 1,536 tokens, with the schedule over them, that are enough for it
ALL = ["--train.eval-windows", "none"]  # validation over every window, as the peer does


def fathom(text: str, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Result and metrics of a training run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [sys.executable, "-m", "fathom", "train", *options, "--data", text, "--out-dir", str(out), "--json"]
        result = figures(words, THREADS)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return result, lines


def ms_per_step(lines: list[dict[str, Any]]) -> float:
    """Median milliseconds between two steps."""
    times = [line["seconds"] for line in lines if "loss" in line]
    return 1e3 * statistics.median(b - a for a, b in pairwise(times))


def one_round(text: str, peer_python: str) -> dict[str, float]:
    """The peer and ours, one after the other."""
    peer = figures([peer_python, str(PEERS / "train_char_gpt.py"), text], THREADS)
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
        "same_model_ms_per_step": ms_per_step(same),
        "throughput_ratio": peer["ms_per_step"] / ms_per_step(same),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer-python", default=str(PEER_PYTHON), help="a Python that has the peers installed")
    call = parser.parse_args()
    rounds = [one_round(call.text, call.peer_python) for _ in range(call.repeat)]
    medians = {key: round(statistics.median(r[key] for r in rounds), 4) for key in rounds[0]}
    written = {"machine": machine(THREADS), "medians": medians, "rounds": rounds}
    (HERE / "train_char.json").write_text(json.dumps(written, indent=1))
    for key, value in medians.items():
        print(f"{key:<26} {value}")


if __name__ == "__main__":
    main()
