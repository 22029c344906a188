"""On a terminal of 80 columns no verb writes a longer line, and no word or number is broken."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from fathom.bench.probes import Probes
from fathom.bench.result import Figure, Result
from fathom.bench.result import text as bench_text
from fathom.cli.main import VERBS
from fathom.verification.references import Comparison
from fathom.verification.verify import Certificate
from fathom.words import fitted

WIDTH = 80
SMALL = "--max-iters 2 --model.d-model 32 --model.n-layer 1 --model.n-head 2 --context-length 64 --eval-interval 1"
CALLS = f"""
train llama-tiny --data text.txt --tokenizer byte {SMALL} --train.sample-interval 1 --lr 0.5 -o runs/a
train llama-tiny --data text.txt --tokenizer char {SMALL} --train.sample-interval none -o runs/chars
finetune runs/a --data some.jsonl --max-iters 2 --eval-interval 1 -o runs/lora
finetune runs/a --data text.txt --method qlora --max-iters 2 --eval-interval 1 -o runs/qlora
presets
presets gpt2
plan llama-2-7b --devices 8xH100-80GB --tokens 10B
plan llama-2-70b --devices T4 --method qlora
plan runs/a
runs
runs runs/a runs/chars --plot both.png
ladder --data text.txt --steps 20 --seeds 1 --d-model 16 --rungs bigram,attention,depth,gpt-mask
generate runs/a -n 3 -v --quantize int4
generate runs/lora -n 70
chat runs/lora
look runs/a -p 'To be, or not to be'
serve runs/a --host 0.0.0.0
info runs/a
info runs/lora
tokenize 'To be, or not to be, that is the question: 东京, naïve café and déjà-vu, {"be " * 30}' byte
tokenize 'To be, or not to be, that is the question' runs/a
show-batch runs/a --data some.jsonl
show-batch runs/a --data text.txt --ids
svd runs/a
svd runs/a --loss-vs-rank --data text.txt --steps 2 --ranks 0,1,2 --report rank.html
eval runs/a
eval runs/a --data text.txt --windows 3 --quantize all
eval runs/lora --data some.jsonl
verify runs/a
verify runs/a --quantize nf4
bench decode runs/a --new 8 --repeat 1
export runs/a --format hf -o an-exported-model
export runs/a --format gguf --quantize q8_0 -o an-exported-model.gguf
eject runs/a -o an_ejected_model.py
replay runs/a --step 2
replay runs/lora --step 1
verify an-exported-model.gguf --against naive,cache,file:an-exported-model
info an-exported-model.gguf
merge runs/a runs/lora/adapter -o merged
prepare text.txt --tokenizer byte -o tokens
extract runs/a merged -r 2 -o extracted
help
help finetune
completion bash
--version
trian demo
generate runs/nowhere -p "To be"
train --data text.txt --tokenizer byte --max-iters 2 --context-length 5000 -o runs/b
finetune runs/a --data some.jsonl --method lorra
"""
CHILD = f"""
import shlex, sys
from fathom.cli.main import main
for call in {CALLS!r}.strip().splitlines():
    print("=====", call, flush=True)
    main(shlex.split(call))
    sys.stdout.flush()
"""
OWN = re.compile(r"===== |.*complete|\s*(local|for|done|if|fi)\b")  # the calls themselves, and the script of a shell
LONG = re.compile(r"\S{60}")  # of text that a model which learned for two steps has written


def lines_on_a_terminal(code: str, folder: Path) -> list[str]:
    """What a program writes to a terminal of 80 x 24, each state of a line that is rewritten, without colours."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment
    )
    os.write(ours, b"/help\n/save a-conversation.json\n/quit\n")
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # Linux's way to say that the child has ended
            break
        if not piece:
            break
        written += piece
    assert child.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    return re.split(r"[\r\n]+", plain)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_no_line_of_any_verb_is_longer_than_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question: " * 200)
    record = json.dumps({"prompt": "To be, or not to be: what is the question?", "completion": " That is. " * 9})
    (tmp_path / "some.jsonl").write_text(f"{record}\n" * 12)
    lines = lines_on_a_terminal(CHILD, tmp_path)
    assert not [line for line in lines if "bug" in line or "Traceback" in line]
    assert not [line for line in lines if cell_len(line) > WIDTH and not OWN.match(line) and not LONG.search(line)]
    called = {line.split()[1] for line in lines if line.startswith("===== ")}
    assert {*VERBS} <= called
    text = "\n".join(lines)
    assert "verified" in text and "saved 0 messages" in text and "report: rank.html" in text  # the calls succeeded


def whole(narrow: str, wide: str) -> bool:
    """Whether both show the same words and numbers, none broken."""
    rule = re.compile("─+")
    return sorted(rule.sub("", narrow).split()) == sorted(rule.sub("", wide).split())


def both(make: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What a narrow terminal shows and what a wide one does."""
    texts = []
    for columns in (WIDTH, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        texts.append(fitted(str(make()), columns))
    assert max(map(cell_len, texts[0].splitlines())) <= WIDTH
    return texts[0], texts[1]


def test_a_certificate_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("naive", "transformers 5.23.0", "native", "file:a.gguf")
    rows = tuple(
        Comparison(name, "fp32, with the weights as we read them", 123_456, 1.53e-05, 212.5, 5.3e-13, 0.99978, None)
        for name in names
    )
    made = Certificate("m.gguf", "GGUF v3", "float32", "nf4-single", "cpu", "2.13", 20, 0, None, rows)
    assert whole(*both(lambda: made, monkeypatch))


def test_a_benchmark_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"model": "runs/demo", "parameters": 1_049_216, "dtype": "float32", "quantize": "int4", "plain": False}
    about |= {"device": "cpu (2 threads, x86_64)", "torch": "2.13.0+cpu", "repeat": 3, "work": "decode", "batch": 1}
    about |= {"new": 64, "prompt": 128}
    figure = Figure("decode", "tok/s", (12_345.0, 12_391.0, 12_999.0), 22_291.0, "0.004383 GB read per token, 5.7 GB/s")
    result = Result(about, (figure,), Probes(5.7, 3.3, 90.0, "512 x 128 x 341, float32"), 256.0)
    assert whole(*both(lambda: bench_text(result), monkeypatch))


def test_a_line_is_broken_between_words_under_its_beginning() -> None:
    assert fitted("page:     runs/demo/page.html (its loss alone: a.png)", 36) == (
        "page:     runs/demo/page.html (its\n          loss alone: a.png)"
    )
    assert fitted("one two three\nfour", 9) == "one two\n  three\nfour"
    assert fitted("a/path/that/is/longer", 8) == "a/path/that/is/longer"
