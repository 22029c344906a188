"""Fathom beside llama.cpp, transformers and peft on this machine: ratios of medians, every pair in one run, in turn.

Each measurement is a process of its own with the same threads. A round runs every command once, ours and its peer one
after the other; a claim's ratio is that of the medians of all rounds, its range that of the single rounds. Written
beside this file: compare.json (every round), compare.md, compare.png. What `--only` leaves out stays as it was there.

The peers are scripts that print one JSON line: peer_llamacpp.py FILE.gguf PROMPT NEW THREADS, peer_hf_decode.py SHAPE
PRECISION PROMPT NEW, peer_peft.py SHAPE PRECISION BATCH SEQUENCE STEPS. --models holds the GGUF files, such as
1.1B-q4_0.gguf, and gets the models that are fine-tuned.

usage: python benchmarks/compare.py --peers FOLDER --peer-python PYTHON --models FOLDER [--tokenizer FILE --text FILE]
                                    [--only decode] [--repeat 3]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from claims import Claim, Command, Commands, claims

HERE = Path(__file__).resolve().parent
Runs = dict[str, list[dict[str, Any]]]  # a command's label -> the line it printed, round by round


def run(command: Command, threads: int) -> dict[str, Any] | str:
    """The line that counts of those the process prints, or why there is none, in one line."""
    pinned = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(command.words, env={**os.environ, **pinned}, capture_output=True, text=True)
    try:
        line: dict[str, Any] = json.loads(done.stdout.splitlines()[command.line])
    except (IndexError, ValueError):
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, and nothing printed"])[-1]
    return line


def missing(command: Command) -> str:
    """What the command needs and is not there, in one line; or nothing."""
    for path, what in command.needs:
        if command.make and path is not None and not path.exists() and path.parent.parent.exists():
            path.parent.mkdir(exist_ok=True)
            subprocess.run(command.make, check=True)
        if path is None or not path.exists():
            return f"{what}; found {'nothing' if path is None else f'no {path.name}'}"
    if command.module:
        check = [command.words[0], "-c", f"import {command.module}"]
        if subprocess.run(check, capture_output=True).returncode:
            return f"{command.module} cannot be imported by --peer-python; install it there"
    return ""


def possible(asked: Iterable[Claim]) -> list[Claim]:
    """Those whose commands can run; of the others it is said why not."""
    lacks: dict[str, str] = {}
    kept = []
    for claim in asked:
        for command in (claim.ours.command, claim.peer.command):
            if command.label not in lacks:
                lacks[command.label] = missing(command)
        why = lacks[claim.ours.command.label] or lacks[claim.peer.command.label]
        if why:
            say(f"{claim.name}, {claim.peer.name}: left out: {why}")
        else:
            kept.append(claim)
    return kept


def rounds(asked: list[Claim], repeat: int, threads: int) -> Iterator[Runs]:
    """After each round all lines so far. What shares a peer runs together; one that fails is not tried again."""
    first = {claim.peer.command.label: -place for place, claim in enumerate(reversed(asked))}
    near = sorted(asked, key=lambda claim: first[claim.peer.command.label])
    commands = {c.label: c for claim in near for c in (claim.ours.command, claim.peer.command)}
    runs: Runs = {label: [] for label in commands}
    for turn in range(repeat):
        for label, command in commands.items():
            if len(runs[label]) < turn:
                continue
            answer = run(command, threads)
            if isinstance(answer, str):
                say(f"{label}: failed: {answer}")
            else:
                runs[label].append(answer)
                say(f"round {turn + 1}: {label}: {command.told(answer)}")
        yield runs


def judged(claim: Claim, runs: Runs) -> dict[str, Any] | None:
    """The claim with its figures of every round; None where a side has failed."""
    ours = [claim.ours.read(line) for line in runs[claim.ours.command.label]]
    peer = [claim.peer.read(line) for line in runs[claim.peer.command.label]]
    if not ours or len(ours) != len(peer):
        return None
    ratios = [one / other for one, other in zip(ours, peer)]
    ratio = statistics.median(ours) / statistics.median(peer)
    return {
        "work": claim.name,
        "peer": claim.peer.name,
        "unit": claim.unit,
        "ours": ours,
        "theirs": peer,
        "ours_median": statistics.median(ours),
        "theirs_median": statistics.median(peer),
        "ratio": ratio,
        "lowest": min(ratios),
        "highest": max(ratios),
        "wanted": claim.wanted,
        "at_most": claim.at_most,
        "reached": ratio <= claim.wanted if claim.at_most else ratio >= claim.wanted,
        "commands": [claim.ours.command.label, claim.peer.command.label],
    }


def machine(threads: int) -> dict[str, Any]:
    """Where it ran, in words that hold elsewhere."""
    import torch

    names = [line.split(":")[1].strip() for line in cpuinfo() if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return {"processor": processor, "threads": threads, "torch": torch.__version__, "python": platform.python_version()}


def cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def markdown(kept: dict[str, Any]) -> str:
    """All claims as a table."""
    where = kept["machine"]
    lines = [
        "# Fathom beside its peers",
        "",
        f"Written by `python benchmarks/compare.py`; {where['processor']}, {where['threads']} threads, torch"
        f" {where['torch']}, Python {where['python']}. Ratios of medians; in brackets those of the single rounds.",
        "",
        "| work | beside | theirs | ours | ratio | wanted | |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in kept["claims"].values():
        unit, sign = claim["unit"], "≤" if claim["at_most"] else "≥"
        theirs, ours = (f"{claim[side]:,.4g} {unit}" for side in ("theirs_median", "ours_median"))
        ratio = f"**{claim['ratio']:.2f}** ({claim['lowest']:.2f} to {claim['highest']:.2f})"
        verdict = "reached" if claim["reached"] else "missed"
        cells = claim["work"], claim["peer"], theirs, ours, ratio, f"{sign} {claim['wanted']:g}", verdict
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(kept: dict[str, Any], path: Path) -> None:
    """A row for each claim: its ratio, the range of its rounds, and what is wanted."""
    from fathom.report.plot import LIGHT as theme
    from fathom.report.plot import axes, save

    rows = list(kept["claims"].values())
    figure, ax = axes(8.2, 1.1 + 0.3 * len(rows), theme)
    for y, row in enumerate(rows):
        colour = theme.series[0 if row["reached"] else 1]
        ax.plot((row["lowest"], row["highest"]), (y, y), color=colour, linewidth=2.4, alpha=0.35)
        ax.plot(row["ratio"], y, "o", color=colour, markersize=6)
        ax.plot((row["wanted"],) * 2, (y - 0.32, y + 0.32), color=theme.ink, linewidth=1.6)
        ax.text(
            1.01, y, f"{row['ratio']:.2f}", transform=ax.get_yaxis_transform(), color=colour, fontsize=8.5, va="center"
        )
    ax.axvline(1, color=theme.faint, linewidth=1, zorder=1)
    names = [f"{row['work']} / {row['peer']}" + ", less is better" * row["at_most"] for row in rows]
    ax.set_yticks(range(len(rows)), names, color=theme.ink, fontsize=8.5)
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlim(left=0)
    ax.set_xlabel("ours over theirs; bar: wanted, shade: single rounds", color=theme.faint, fontsize=9)
    save(figure, path)


def keep(found: list[dict[str, Any]], runs: Runs, asked: list[Claim], threads: int, folder: Path) -> None:
    """Write the three files; what was not asked for stays as it was, in the order of the claims."""
    path = folder / "compare.json"
    old = json.loads(path.read_text()) if path.exists() else {"claims": {}, "runs": {}}
    new = old["claims"] | {f"{one['work']} / {one['peer']}": one for one in found}
    order = [f"{claim.name} / {claim.peer.name}" for claim in asked]
    ordered = {name: new[name] for name in [*order, *new] if name in new}
    kept = {"machine": machine(threads), "claims": ordered, "runs": old["runs"] | runs}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    (folder / "compare.md").write_text(markdown(kept))
    draw(kept, folder / "compare.png")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder of the peers' scripts")
    parser.add_argument("--peer-python", default=sys.executable, help="that has the peers installed")
    parser.add_argument("--models", type=Path, help="folder of the GGUF files")
    parser.add_argument("--tokenizer", type=Path, help="a LLaMA's, for prompt lookup")
    parser.add_argument("--text", type=Path, help="that hardly repeats, for prompt lookup")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="claims whose names hold one of these")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, default=2, help="the peers' scripts for transformers and peft take 2")
    parser.add_argument("--out", type=Path, default=HERE, help="where the three files are written")
    parser.add_argument("--list", action="store_true", help="name the claims and run nothing")
    call = parser.parse_args()
    on = Commands(call.peers, call.peer_python, call.models, call.threads)
    every = claims(on, call.tokenizer, call.text)
    asked = [claim for claim in every if not call.only or any(word in claim.name for word in call.only)]
    if call.list or not asked:
        return say("\n".join(dict.fromkeys(claim.name for claim in (asked or every))))
    able = possible(asked)
    for runs in rounds(able, call.repeat, call.threads):  # written after each, so that a long run can be stopped
        found = [one for claim in able if (one := judged(claim, runs)) is not None]
        if found:
            keep(found, {label: lines for label, lines in runs.items() if lines}, every, call.threads, call.out)
            say((call.out / "compare.md").read_text())
    return None


if __name__ == "__main__":
    main()
