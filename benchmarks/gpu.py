"""What one CUDA card does with Fathom, in one command of some minutes: is it right, and how near to its limits.

Checks first; then training of GPT-2 124M, decoding of a model of LLaMA 2 7B's shape in bf16 and 4 bits, and, where a
text is given, the `shakespeare` preset. Each part is a process of its own, so that one that fails or hangs takes no
figures of others with it. Needs no network; of packages those that `fathom train` needs, and triton, which comes with
torch. Written are gpu.json, all figures, and gpu.md, a table.

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
SHARES = {"checks": 0.3, "train": 0.25, "decode bf16": 0.4, "decode int4": 0.3, "shakespeare": 1.0}  # of the minutes
Figures = dict[str, Any]


def measure(call: argparse.Namespace) -> int:
    """One part, in this process; what it tells goes into a file at once."""
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    import torch
    from gpu_parts import PARTS, Task, one_line

    figures: Figures = {}

    def tell(name: str, figure: Any) -> None:
        figures[name] = figure
        new = call.measure_to.with_suffix(".new")
        new.write_text(json.dumps(figures))
        new.replace(call.measure_to)

    device = torch.device(call.device)
    tell("torch", torch.__version__)
    try:
        tell("device", torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu")
        PARTS[call.measure](Task(device, call.tiny, call.text, time.monotonic() + call.seconds, tell))
    except Exception as error:
        tell("failed", one_line(error))
        raise
    return 0


def run(part: str, call: argparse.Namespace, seconds: float) -> Figures:
    """The figures of one part; `failed` says in one line why it has not all of them."""
    place = call.out / f".gpu-{part.replace(' ', '-')}.json"
    place.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--measure", part, "--measure-to", str(place), "--seconds", str(seconds)]
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
    figures: Figures = json.loads(place.read_text()) if place.exists() else {}
    place.unlink(missing_ok=True)
    if failed:
        figures.setdefault("failed", failed)
    return figures | {"seconds": round(time.monotonic() - began, 1)}


def rows(parts: dict[str, Figures]) -> list[tuple[str, str, str, str]]:
    """The table: what, figure, of which limit, wanted."""
    lines = []
    checks, training, text = (parts.get(name, {}) for name in ("checks", "train", "shakespeare"))
    if checks:
        count = sum(len(found) for found in checks.values() if isinstance(found, dict))
        wrong = checks.get("wrong", [])
        lines.append(("correctness checks", f"{count} differences, {len(wrong)} too large", "", "none too large"))
    for name, what in (("loop", "as `fathom train` takes them"), ("pieces", "the loss in larger pieces, compiled")):
        if found := training.get(name):
            shape = training["shape"]
            steps = f"{shape['rows_per_step']} x {shape['context']} tokens"
            limit = f"{part(found['of_peak'])} of the peak stated, {part(found['of_product'])} of a large product"
            what = f"GPT-2 124M, bf16, steps of {steps}, {what}"
            lines.append((what, f"{found['tokens_per_second']:,.0f} tok/s", limit, "≥ 50 % of the peak"))
    for kind in ("bf16", "int4"):
        for name, found in parts.get(f"decode {kind}", {}).items():
            if isinstance(found, dict) and "of_copy" in found:
                wanted = "≥ 80 %" if kind == "bf16" and name.startswith("recorded") else ""
                limit = f"{part(found['of_copy'])} of a copy's bandwidth"
                lines.append((f"7B decode, {kind}, {name}", f"{found['tokens_per_second']:.1f} tok/s", limit, wanted))
    if result := text.get("result"):
        soon = ", ".join(f"{goal} in {s:.0f} s" for goal, s in result["seconds_to"].items() if s is not None)
        figure = f"loss {result['best']:.4f} in {result['seconds']:.0f} s"
        lines.append(("`fathom train shakespeare`", figure, soon, "≤ 1.46"))
    return lines


def part(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


def table(parts: dict[str, Figures], command: str) -> str:
    """gpu.md"""
    some = next((found for found in parts.values() if "device" in found), {})
    lines = [f"{some.get('device', 'unknown')}, torch {some.get('torch', 'unknown')}: `{command}`", ""]
    if "--tiny" in command:
        lines += ["**Tiny models: a trial of the command itself, whose figures mean nothing.**", ""]
    lines += ["| what | figure | of its limit | wanted |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(parts)]
    said = [f"- {name}: {found['failed']}" for name, found in parts.items() if "failed" in found]
    said += [f"- {name}: left out, {found['skipped']}" for name, found in parts.items() if "skipped" in found]
    return "\n".join([*lines, *([""] if said else []), *said]) + "\n"


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
    return int(any("failed" in found for found in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
