"""Every command and program of the README runs as written, in order, except those that need a network or a GPU.

The slower verbs get a small budget; texts that a reader would have are put where the commands expect them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

from tests.house.source import ROOT

BUDGET = {  # options after a verb's own; the last one counts
    "train": "--max-iters 4 --eval-interval 2 --compile off --train.eval-windows 4",
    "finetune": "--max-iters 4 --eval-interval 2",
    "ladder": "--steps 20 --seeds 1 --rungs bigram,attention",
    "generate": "--max-new-tokens 20",
}
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
NOT_RUN = re.compile(r"# needs (the network|a GPU|\w+ minutes)")


def commands(block: str) -> list[str]:
    """The commands of a sh block, continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def prepared(line: str) -> str:
    """What is run in place of a command: a smaller one, or one that only checks that there is such a call."""
    words = [*line.split(), ""]
    verb = words[1]
    if words[0] == "make":
        return f"make --dry-run -C '{ROOT}' {' '.join(words[1:])}"
    if NOT_RUN.search(line):
        return f"{line.partition('#')[0]} --help" if words[0] == "fathom" else "true"
    return re.sub(r"(?=\s*(?:[>|#]|$))", f" {BUDGET[verb]}", line, count=1) if verb in BUDGET else line


def test_the_readme_is_true(tmp_path: Path) -> None:
    folder = tmp_path / "fathom"
    folder.mkdir()
    text = "\n\n".join(topics[key] for key in sorted(topics))[:60_000]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for kind, block in BLOCKS:
        for wanted in re.findall(r"--data (\S+\.txt)", block):
            (folder / wanted).parent.mkdir(parents=True, exist_ok=True)
            (folder / wanted).write_text(text, encoding="utf-8")
        shell = [["sh", "-c", prepared(line)] for line in commands(block)]
        for call in shell if kind == "sh" else [["python", "-c", block]]:
            done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"{call[-1]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_commands_are_prepared() -> None:
    assert prepared("fathom generate x | head") == "fathom generate x --max-new-tokens 20 | head"
    assert prepared("fathom train x --max-iters 9  # needs a GPU").endswith("9   --help")
    assert prepared("git clone x  # needs the network") == "true"
