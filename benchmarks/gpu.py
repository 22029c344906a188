"""Whether Fathom is right on a CUDA card and how close to the card's limits, in one command of some minutes.

First the checks; then training of GPT-2 124M, decoding of a model of LLaMA 2 7B's shape in bf16 and 4 bits, and, given
a text, the `shakespeare` preset. Each part is a process of its own, so that one that fails or hangs costs no figures of
the others. Needs no network; of packages those that `fathom train` needs, and triton, which comes with torch. Writes
gpu.json, all figures, and gpu.md, a table.

usage: python benchmarks/gpu.py [--text TEXT] [--minutes 9] [--parts checks train ...] [--out FOLDER]
       python benchmarks/gpu.py --device cpu --tiny     the same on tiny models, to try the command itself
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARES = {
    "checks": 0.3,
    "train": 0.25,
    "decode bf16": 0.4,
    "decode int4": 0.3,
    "shakespeare": 1.0,
}  # of the minutes, at most
Figures = dict[str, Any]


def measure(call: argparse.Namespace) -> int:
    """One part, in this process; each figure is written to a file at once."""
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    import torch
    from gpu_parts import PARTS, Task, one_line

    figures: Figures = {}

    def report(name: str, figure: Any) -> None:
        figures[name] = figure
        new = call.measure_to.with_suffix(".new")
        new.write_text(json.dumps(figures))
        new.replace(call.measure_to)

    device = torch.device(call.device)
    report("torch", torch.__version__)
    try:
        report("device", torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu")
        PARTS[call.measure](Task(device, call.tiny, call.text, time.monotonic() + call.seconds, report))
    except Exception as error:
        report("failed", one_line(error))
        raise
    return 0


def run(part: str, call: argparse.Namespace, seconds: float) -> Figures:
    """The figures of one part; `failed` is one line on why some are missing."""
    path = call.out / f".gpu-{part.replace(' ', '-')}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--measure", part, "--measure-to", str(path), "--seconds", str(seconds)]
    command += ["--device", call.device, *(["--tiny"] if call.tiny else [])]
    command += ["--text", str(call.text)] if call.text else []
    began, failed = time.monotonic(), ""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        if code := process.wait(seconds):
            failed = f"the process ended with {code}"
    except subprocess.TimeoutExpired:
        failed = f"not done within {seconds:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
    figures: Figures = json.loads(path.read_text()) if path.exists() else {}
    path.unlink(missing_ok=True)
    if failed:
        figures.setdefault("failed", failed)
    return figures | {"seconds": round(time.monotonic() - began, 1)}


def rows(parts: dict[str, Figures]) -> list[tuple[str, str, str]]:
    """The table: what, its figure, and the share of its limit."""
    lines = []
    checks, training, text = (parts.get(name, {}) for name in ("checks", "train", "shakespeare"))
    if checks:
        count = sum(len(differences) for differences in checks.values() if isinstance(differences, dict))
        wrong = checks.get("wrong", [])
        lines.append(("correctness checks", f"{count} differences, {len(wrong)} too large", ""))
    for name, what in (("loop", "as `fathom train` takes them"), ("pieces", "the loss in larger pieces, compiled")):
        if figures := training.get(name):
            shape = training["shape"]
            steps = f"{shape['rows_per_step']} x {shape['context']} tokens"
            peak, product = (percent(figures[share]) for share in ("of_peak", "of_product"))
            limit = f"{peak} of the nominal peak, {product} of a large product"
            what = f"GPT-2 124M, bf16, steps of {steps}, {what}"
            lines.append((what, f"{figures['tokens_per_second']:,.0f} tok/s", limit))
    for kind in ("bf16", "int4"):
        for name, figures in parts.get(f"decode {kind}", {}).items():
            if isinstance(figures, dict) and "of_copy" in figures:
                limit = f"{percent(figures['of_copy'])} of a copy's bandwidth"
                lines.append((f"7B decode, {kind}, {name}", f"{figures['tokens_per_second']:.1f} tok/s", limit))
    if result := text.get("result"):
        times = ", ".join(f"{goal} in {s:.0f} s" for goal, s in result["seconds_to"].items() if s is not None)
        lines.append(("`fathom train shakespeare`", f"loss {result['best']:.4f} in {result['seconds']:.0f} s", times))
    return lines


def percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f}%"


def table(parts: dict[str, Figures], command: str) -> str:
    """gpu.md"""
    some = next((figures for figures in parts.values() if "device" in figures), {})
    lines = [f"{some.get('device', 'unknown')}, torch {some.get('torch', 'unknown')}: `{command}`", ""]
    if "--tiny" in command:
        lines += ["**Tiny models: a trial of the command itself, whose figures mean nothing.**", ""]
    lines += ["| what | figure | of its limit |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(parts)]
    notes = [f"- {name}: {figures['failed']}" for name, figures in parts.items() if "failed" in figures]
    notes += [f"- {name}: left out, {figures['skipped']}" for name, figures in parts.items() if "skipped" in figures]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="tiny Shakespeare, for the preset of that name")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    for hidden, kind in (("--measure", str), ("--measure-to", Path), ("--seconds", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    call = parser.parse_args()
    if call.measure:
        return measure(call)
    end, parts = time.monotonic() + 60 * call.minutes, dict[str, Figures]()
    command = "python benchmarks/gpu.py " + " ".join(sys.argv[1:])
    for name in call.parts:
        left = end - time.monotonic() - 5
        if name == "shakespeare" and call.text is None:
            parts[name] = {"skipped": "no --text was given"}
        elif left < 20:
            parts[name] = {"failed": f"no time was left of {call.minutes:g} minutes"}
        else:
            parts[name] = run(name, call, min(left, SHARES[name] * 60 * call.minutes))
        (call.out / "gpu.json").write_text(json.dumps({"command": command.strip(), **parts}, indent=1) + "\n")
        (call.out / "gpu.md").write_text(table(parts, command.strip()))
    print((call.out / "gpu.md").read_text())
    return int(any("failed" in figures for figures in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
