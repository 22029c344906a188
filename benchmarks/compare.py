"""Fathom beside llama.cpp, transformers and peft on this machine: ratios of medians, every pair in one run, in turn.

Each measurement is a process of its own with the same number of threads. A round runs every command once, ours and its
peer's one after the other. A ratio is that of the medians over all rounds; its range is that of single rounds. Each
instruction set has results of its own: this folder gets compare-SET.json (every round), compare-SET.png and its table
in README.md; what `--only` leaves out keeps its last figures. README.md says how the peers are set up.

usage: python benchmarks/compare.py [--only decode] [--repeat 3] [--tokenizer FILE --text FILE]
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from comparisons import Comparison, comparisons
from measure import HERE, PEER_PYTHON, Failed, figures, instructions, machine
from random_models import RandomModels

BEGIN, END = "<!-- compare.py writes the table of {} -->\n", "<!-- end of the table of {} -->\n"
Lines = list[dict[str, Any]]
Runs = dict[str, Lines]  # a command's label -> the line it printed in each round


def runnable(asked: Iterable[Comparison]) -> list[Comparison]:
    """Those of which both commands can run, after the models they read are written; why others cannot is reported."""
    problems: dict[str, str] = {}
    kept = []
    for pair in asked:
        for command in (pair.ours.command, pair.peer.command):
            if command.label not in problems:
                problems[command.label] = command.problem()
        if why := problems[pair.ours.command.label] or problems[pair.peer.command.label]:
            report(f"{pair.work}, {pair.peer.name}: left out: {why}")
        else:
            kept.append(pair)
    return kept


def rounds(pairs: list[Comparison], repeat: int, threads: int) -> Iterator[Runs]:
    """All lines so far, after each round. Pairs with the same peer run together; a failed command is not repeated."""
    order = {label: place for place, label in reversed(list(enumerate(pair.peer.command.label for pair in pairs)))}
    near = sorted(pairs, key=lambda pair: order[pair.peer.command.label])
    commands = {c.label: c for pair in near for c in (pair.ours.command, pair.peer.command)}
    runs: Runs = {label: [] for label in commands}
    for turn in range(repeat):
        for label, command in commands.items():
            if len(runs[label]) < turn:
                continue
            try:
                line = figures(command.words(), threads, command.line)
            except Failed as reason:
                report(f"{label}: failed: {reason}")
            else:
                runs[label].append(line)
                report(f"round {turn + 1}: {label}: {summary(line)}")
        yield runs


def summary(line: dict[str, Any]) -> str:
    """The figures of a line."""
    if "figures" in line:
        return ", ".join(f"{figure['name']} {figure['median']:.4g} {figure['unit']}" for figure in line["figures"])
    return ", ".join(f"{name} {value:.4g}" for name, value in line.items() if isinstance(value, float))


def result(pair: Comparison, runs: Runs) -> dict[str, Any] | None:
    """A comparison with its figures of every round; None where a side has failed or was not run."""
    lines = runs.get(pair.ours.command.label, [])
    ours = [pair.ours.read(line) for line in lines]
    theirs = [pair.peer.read(line) for line in runs.get(pair.peer.command.label, [])]
    if not ours or len(ours) != len(theirs):
        return None
    ratios = [one / other for one, other in zip(ours, theirs)]
    medians = statistics.median(ours), statistics.median(theirs)
    return {
        "work": pair.work,
        "peer": pair.peer.name,
        "unit": pair.unit,
        "ours": ours,
        "theirs": theirs,
        "ours_median": medians[0],
        "theirs_median": medians[1],
        "ratio": medians[0] / medians[1],
        "lowest": min(ratios),
        "highest": max(ratios),
        "less_is_better": pair.less_is_better,
        "limit": share_of_limit(lines) if pair.unit == "tok/s" else "",
        "commands": [pair.ours.command.label, pair.peer.command.label],
    }


def share_of_limit(lines: Lines) -> str:
    """How much Fathom reaches of what the machine allows, where `fathom bench` measured both."""
    first = [line["figures"][0] for line in lines if "figures" in line]
    if not first or first[0]["percent"] is None:
        return ""
    limit = "memory bandwidth" if "read" in first[0]["limited_by"] else "bf16 products"
    return f"{statistics.median(figure['percent'] for figure in first):.0f}% of {limit}"


def markdown(kept: dict[str, Any]) -> str:
    """All comparisons as a table."""
    where = kept["machine"]
    lines = [
        f"{where['processor']}, {where['instructions']}, {where['threads']} threads, torch {where['torch']},"
        f" Python {where['python']}; in brackets the ratios of single rounds.",
        "",
        "| work | peer | peer's figure | Fathom | ratio | Fathom reaches |",
        "|---|---|---|---|---|---|",
    ]
    for row in kept["comparisons"].values():
        theirs, ours = (f"{row[side]:,.4g} {row['unit']}" for side in ("theirs_median", "ours_median"))
        ratio = f"**{row['ratio']:.2f}** ({row['lowest']:.2f} to {row['highest']:.2f})"
        lines.append(f"| {' | '.join((row['work'], row['peer'], theirs, ours, ratio, row['limit']))} |")
    return "\n".join(lines) + "\n"


def plot(kept: dict[str, Any], path: Path) -> None:
    """A row for each comparison: its ratio, and the range over single rounds."""
    from fathom.report.plot import LIGHT as theme
    from fathom.report.plot import axes, save

    rows = list(kept["comparisons"].values())
    figure, ax = axes(8.2, 1.1 + 0.3 * len(rows), theme)
    for y, row in enumerate(rows):
        colour = theme.series[int(row["less_is_better"])]
        ax.plot((row["lowest"], row["highest"]), (y, y), color=colour, linewidth=2.4, alpha=0.35)
        ax.plot(row["ratio"], y, "o", color=colour, markersize=6)
        at = ax.get_yaxis_transform()
        ax.text(1.01, y, f"{row['ratio']:.2f}", transform=at, color=colour, fontsize=8.5, va="center")
    ax.axvline(1, color=theme.faint, linewidth=1, zorder=1)
    names = [f"{row['work']} / {row['peer']}" + ", less is better" * row["less_is_better"] for row in rows]
    ax.set_yticks(range(len(rows)), names, color=theme.ink, fontsize=8.5)
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlim(left=0)
    ax.set_xlabel("Fathom over the peer; line: single rounds", color=theme.faint, fontsize=9)
    save(figure, path)


def merged(old: dict[str, Any], pairs: list[Comparison], runs: Runs, threads: int) -> dict[str, Any]:
    """The results with new figures: what was not measured keeps its own, in the order of all `pairs`."""
    new = {f"{pair.work} / {pair.peer.name}": result(pair, runs) for pair in pairs}
    known = old.get("comparisons", {}) | {name: one for name, one in new.items() if one is not None}
    order = [f"{pair.work} / {pair.peer.name}" for pair in pairs]
    return {
        "machine": machine(threads),
        "comparisons": {name: known[name] for name in dict.fromkeys([*order, *known]) if name in known},
        "runs": old.get("runs", {}) | {label: lines for label, lines in runs.items() if lines},
    }


def write(kept: dict[str, Any], folder: Path) -> None:
    """The results and the plot of an instruction set, and its table in README.md where that has the marks."""
    name = kept["machine"]["instructions"]
    results(folder, name).write_text(json.dumps(kept, indent=1) + "\n")
    plot(kept, results(folder, name).with_suffix(".png"))
    page, (begin, end) = folder / "README.md", (mark.format(name) for mark in (BEGIN, END))
    if page.exists() and begin in (text := page.read_text()):
        before, after = text[: text.index(begin)], text[text.index(end) :]
        page.write_text(f"{before}{begin}\n{markdown(kept)}\n{after}")


def results(folder: Path, instructions: str) -> Path:
    return folder / f"compare-{instructions}.json"


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=str(PEER_PYTHON), help="a Python that has the peers installed")
    parser.add_argument(
        "--models", type=Path, default=HERE / "models", help="where models are kept, about 10 GB for all"
    )
    parser.add_argument("--tokenizer", type=Path, help="a LLaMA's, for prompt lookup")
    parser.add_argument("--text", type=Path, help="one that hardly repeats itself, for prompt lookup")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="comparisons whose names hold one of these"
    )
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE, help="where the results are written")
    parser.add_argument("--list", action="store_true", help="name the comparisons and run nothing")
    call = parser.parse_args()
    models = RandomModels(call.models, call.peer_python)
    every = comparisons(models, call.threads, instructions(), call.tokenizer, call.text)
    asked = [pair for pair in every if not call.only or any(word in pair.work for word in call.only)]
    if call.list or not asked:
        return report("\n".join(dict.fromkeys(pair.work for pair in (asked or every))))
    path = results(call.out, instructions())
    old = json.loads(path.read_text()) if path.exists() else {}
    for runs in rounds(runnable(asked), call.repeat, call.threads):  # written after each: a long run can be stopped
        if any(runs.values()):
            kept = merged(old, every, runs, call.threads)
            write(kept, call.out)
            report(markdown(kept))
    return None


if __name__ == "__main__":
    main()
