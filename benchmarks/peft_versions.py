"""Adapters of several versions of peft, both ways: the largest difference of logits for every feature and version.

    pip install --target peft-0.13 "peft==0.13.*" "transformers==4.46.*" "accelerate<1.2"
    python benchmarks/peft_versions.py --peft peft-0.13 --peft peft-0.17

Each version runs in a process of its own, and the one that is installed last. Cases are those of the tests
(`tests/adapters/peft_cases.py`); `-` marks what a version does not have, or has wrong. Exit 1: some are above 1e-5.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(__file__).with_suffix(".json")
BOUND = 1e-5


def measured() -> dict[str, object]:
    """Of the peft that this process imports: case -> the largest difference, or why there is none."""
    warnings.simplefilter("ignore")
    import peft
    import torch
    import transformers

    from tests.adapters.peft_cases import CASES, Absent, differences

    transformers.utils.logging.disable_progress_bar()
    figures: dict[str, float | str] = {}
    for case in CASES:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures[case] = max(x for x in differences(case, Path(folder)).values() if not math.isnan(x))
            except Absent as reason:
                figures[case] = str(reason)
            except Exception as problem:  # one case that fails must not hide the others
                figures[case] = math.inf
                print(f"{case}: {type(problem).__name__}: {problem}", file=sys.stderr)
    return {"peft": peft.__version__, "transformers": transformers.__version__, "cases": figures}


def table(results: list[dict[str, object]]) -> str:
    """A row for each case, a column for each version."""
    head = ["adapter", *(f"peft {each['peft']}" for each in results)]
    columns = [each["cases"] for each in results]
    rows = [head, ["---"] * len(head)]
    for case in columns[0]:  # type: ignore[attr-defined]
        cells = [column[case] for column in columns]  # type: ignore[index]
        rows.append([case, *("-" if isinstance(x, str) else f"{x:.1e}" for x in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peft", action="append", default=[], help="a folder that pip installed a peft into")
    parser.add_argument("--measure", action="store_true", help="only the peft of this process, as JSON")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured()))
        return 0
    results = []
    for folder in [*given.peft, None]:
        path = [*([folder] if folder else []), str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        run = [sys.executable, str(Path(__file__).resolve()), "--measure"]
        answer = subprocess.run(run, env={**os.environ, "PYTHONPATH": os.pathsep.join(path)}, capture_output=True)
        sys.stderr.write("".join(line for line in answer.stderr.decode().splitlines(True) if ": " in line[:60]))
        results.append(json.loads(answer.stdout.decode().splitlines()[-1]))
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    figures = [x for each in results for x in each["cases"].values() if not isinstance(x, str)]
    print(f"\n{len(figures)} figures, the largest {max(figures):.1e}; {BOUND:.0e} is the bound")
    return int(max(figures) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
