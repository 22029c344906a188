"""Every command and every Python example of the pages runs, in the order of the path, on a small demo model.

The slower verbs get a small budget; commands that name no file, such as `fathom eval MODEL --data FILE`, are given one.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from tests.docs.test_figures import DOCS
from tests.house.test_docs import refresh
from tests.test_readme import BUDGET, NOT_RUN

LIMITS = {
    **BUDGET,
    "train": f"{BUDGET['train']} --data mine.txt --train.sample-interval none",
    "finetune": f"{BUDGET['finetune']} --overwrite",
    "ladder": f"{BUDGET['ladder']} --data mine.txt --overwrite",
    "eval": "--windows 4",
    "bench": "--new 8 --repeat 1",
}
NAMES = {  # what stands for a reader's own
    "FILE.jsonl": "some.jsonl",
    "FILE": "mine.txt",
    "MODEL": "runs/demo",
    "RUN": "runs/lora",
    "FOLDER": "runs/in-floats",
    "stories260K.bin --loss-vs-rank": "runs/demo --loss-vs-rank --steps 2 --ranks 0,1",
}
LOADED = (
    "import fathom, torch\nmodel, tokenizer = fathom.load('runs/demo')\n"
    "ids, other_ids = (torch.tensor([tokenizer.encode(x)[:4]]) for x in ('def read(self)', 'class Reader:'))\n"
)
SERVED = (  # what serving.md asks, at a port that is free
    "import atexit, subprocess, openai\n"
    "call = ['fathom', 'serve', 'runs/demo', '--port', '0', '--no-open']\n"
    "server = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)\n"
    "atexit.register(server.terminate)\n"
    "address = server.stdout.readline().split(' API at ')[1].split()[0]\n"
    "openai.OpenAI = lambda base_url, api_key, real=openai.OpenAI: real(base_url=address, api_key=api_key)\n"
)
PROGRAMS = {  # page: what stands before its Python examples
    "python.md": "",
    "self-attention.md": LOADED,
    "serving.md": SERVED,
    "taps.md": LOADED,
}
ROWS = [row["page"] for row in refresh.ROW.finditer((DOCS / "README.md").read_text(encoding="utf-8"))]


def shell(page: str) -> list[str]:
    """The sh blocks of a page, and the commands that stand indented in its text."""
    text = (DOCS / page).read_text(encoding="utf-8")
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    return [*re.findall(r"^    (fathom .*)", outside, re.M), *re.findall(r"```sh\n(.*?)```", text, re.S)]


def limited(block: str) -> str:
    """A block with small budgets, the reader's own names filled in, and nothing that needs a network."""
    lines = []
    for line in block.replace("\\\n", " ").splitlines():
        verb = line.split()[1] if line.startswith("fathom ") else ""
        if verb and NOT_RUN.search(line):
            continue
        for name, ours in NAMES.items() if verb else ():
            line = re.sub(rf"(?<![\w/]){re.escape(name)}\b", ours, line)
        line = line.replace("--steps 20 --ranks 0,1,4,16,64", "--steps 2 --ranks 0,1")
        at_end = r"(?=\s*(?:[>|#]|$))"
        lines.append(re.sub(at_end, f" {LIMITS[verb]}", line, count=1) if verb in LIMITS else line)
    return "\n".join(lines)


def examples(page: str) -> str:
    """The Python examples of a page as one program; what quotes the package's source is no example."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"(?<!-->\n)```python\n(.*?)```", text, re.S)
    return PROGRAMS[page] + "\n".join(blocks).replace("max_minutes=2", "max_iters=2")


@pytest.mark.slow
def test_every_command_of_the_pages_runs(tmp_path: Path) -> None:
    text = "\n\n".join(topics[key] for key in sorted(topics))[:60_000]
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    record = json.dumps({"prompt": "def", "completion": " read"})
    (tmp_path / "some.jsonl").write_text(f"{record}\n" * 20, encoding="utf-8")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    first = "fathom train demo --data python-source --max-iters 4 --out-dir runs/demo"
    calls = [("README.md", ["sh", "-ec", first])]
    for page in ROWS:
        calls += [(page, ["sh", "-ec", limited(block)]) for block in reversed(shell(page))]  # templates last
        calls += [(page, ["python", "-c", examples(page)])] if page in PROGRAMS else []
    wrong = []
    for page, call in calls:
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode:
            wrong.append(f"{page}: {call[-1]}\n{done.stdout[-500:]}{done.stderr[-500:]}")
    assert not wrong, "\n\n".join(wrong)


def test_no_example_is_left_out() -> None:
    """Python that a page shows is a quote, which another test compares with the source, or is run."""
    for page in {*ROWS} - {*PROGRAMS}:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert text.count("```python") == text.count("<!-- source:"), page


def test_a_block_is_limited() -> None:
    assert limited("fathom eval MODEL --data FILE --quantize int8").startswith("fathom eval runs/demo --data mine.txt")
    assert limited("fathom chat x  # needs the network\nfathom info x") == "fathom info x"
    assert "fathom finetune runs/demo --data some.jsonl --max-iters" in limited(
        "fathom finetune MODEL --data FILE.jsonl"
    )
