"""What compare.py measures: pairs of commands, one of ours and one of a peer, that do the same work."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from measure import HERE, PEERS, Failed
from random_models import RandomModels

NEW, SEQUENCE, STEPS = 64, 256, 5
GGUF = {"int4": "q4_0", "int8": "q8_0", "bf16": "bf16"}  # llama.cpp's types with as many bits as ours
FAST = {"avx512": "bf16"}  # the number format of training, where the instruction set multiplies it; elsewhere fp32
TUNED = (("LoRA", "gpt2", 4), ("QLoRA", "110M", 4), ("QLoRA", "1.1B", 1))  # method, shape, batch size


@dataclass(frozen=True)
class Command:
    """A process that prints JSON lines, of which one counts."""

    label: str  # without folders: the key in the results
    python: str
    arguments: Callable[[], Sequence[object]]  # writes the model that they name; raises Failed
    module: str = ""  # that `python` must be able to import
    line: int = -1

    def words(self) -> list[str]:
        return [self.python, *map(str, self.arguments())]

    def problem(self) -> str:
        """Why it cannot run, in one line, or nothing, and then its model is written."""
        if shutil.which(self.python) is None:
            return f"found no {self.python}; set up the peers (benchmarks/README.md), or give --peer-python"
        if self.module and subprocess.run([self.python, "-c", f"import {self.module}"], capture_output=True).returncode:
            return f"{self.python} cannot import {self.module}; install it there"
        try:
            self.words()
        except Failed as reason:
            return str(reason)
        return ""


@dataclass(frozen=True)
class Side:
    """Who is measured, by which command, and which number of its line."""

    name: str
    command: Command
    read: Callable[[dict[str, Any]], float]


@dataclass(frozen=True)
class Comparison:
    """A work, measured on both sides in the same unit; the ratio is ours over the peer's."""

    work: str
    unit: str
    ours: Side
    peer: Side
    less_is_better: bool = False


@dataclass(frozen=True)
class Sides:
    """The commands, given the models, the number of threads and the number format in which adapters are trained."""

    models: RandomModels
    threads: int
    dtype: str

    def fathom(self, work: str, *options: object, repeat: int, shape: str = "") -> Command:
        """`fathom bench` with options, or on a checkpoint of a shape."""
        words = (*options, "--threads", self.threads, "--repeat", repeat, "--json")

        def arguments() -> list[object]:
            return ["-m", "fathom", "bench", work, *([self.models.checkpoint(shape)] if shape else []), *words]

        label = " ".join(map(str, ("fathom bench", work, *([shape] if shape else []), *words)))
        return Command(label, sys.executable, arguments)

    def inference(self, work: str, shape: str, kind: str, prompt: int) -> Side:
        """Ours, decoding or prefill, with weights of a kind. One round a process, as the peers have."""
        new = ("--new", NEW) if work == "decode" else ()
        options = ("--shape", shape, "--dtype", "bf16", *quantized(kind), "--prompt", prompt, *new)
        return Side("Fathom", self.fathom(work, *options, repeat=1), speed)

    def finetune(self, method: str, shape: str, batch: int, read: Callable[[dict[str, Any]], float]) -> Side:
        """Ours, steps of an adapter on a checkpoint."""
        packed = quantized("nf4" if method == "QLoRA" else self.dtype)
        options = ("--dtype", self.dtype, *packed, "--batch", batch, "--prompt", SEQUENCE)
        return Side("Fathom", self.fathom("finetune", *options, repeat=STEPS, shape=shape), read)

    def llama_cpp(self, work: str, shape: str, kind: str, prompt: int) -> Side:
        name, file = f"{shape}-{GGUF[kind]}.gguf", partial(self.models.gguf, shape, GGUF[kind])
        command = self.peer("infer_llama_cpp.py", "llama_cpp", name, file, prompt, NEW, self.threads)
        return Side(f"llama.cpp {GGUF[kind]}", command, key(f"{work}_tok_s"))

    def transformers(self, work: str, shape: str, prompt: int) -> Side:
        config = partial(self.models.config, shape)
        command = self.peer("infer_transformers.py", "transformers", shape, config, prompt, NEW // 2)
        return Side("transformers bf16", command, key(f"{work}_tok_s"))

    def peft(self, method: str, shape: str, batch: int, figure: str) -> Side:
        checkpoint = partial(self.models.checkpoint, shape)
        precision = {"LoRA": self.dtype, "QLoRA": "nf4" if self.dtype == "bf16" else "nf4-fp32"}[method]
        command = self.peer("finetune_peft.py", "peft", shape, checkpoint, precision, batch, SEQUENCE, STEPS)
        return Side(f"peft {precision}", command, key(figure))

    def peer(self, script: str, module: str, name: str, model: Callable[[], Path], *options: object) -> Command:
        """A peer's script on a model, which the label calls by its name."""
        label = " ".join(map(str, (script, name, *options)))
        return Command(label, self.models.python, lambda: (PEERS / script, model(), *options), module)

    def lookup(self, tokenizer: Path | None, text: Path | None, name: str, figure: str) -> Side:
        """One of the two figures in the first line of lookup.py, which is about a text with repeats."""

        def arguments() -> list[object]:
            if tokenizer is None or text is None:
                raise Failed("it reads a LLaMA's tokenizer and a text; give --tokenizer and --text")
            return [HERE / "lookup.py", tokenizer, text, "--threads", self.threads, "--repeat", 1]

        return Side(name, Command("lookup.py TOKENIZER TEXT", sys.executable, arguments, line=0), key(figure))


def quantized(kind: str) -> tuple[str, ...]:
    return () if kind in ("bf16", "fp32") else ("--quantize", kind)


def key(name: str) -> Callable[[dict[str, Any]], float]:
    return lambda line: float(line[name])


def speed(line: dict[str, Any]) -> float:
    """The first figure of `fathom bench`."""
    return float(line["figures"][0]["median"])


def comparisons(
    models: RandomModels, threads: int, instructions: str, tokenizer: Path | None, text: Path | None
) -> list[Comparison]:
    """All of them, in the order of the table."""
    sides = Sides(models, threads, FAST.get(instructions, "fp32"))
    lookup = sides.lookup(tokenizer, text, "Fathom", "lookup")
    plain = sides.lookup(tokenizer, text, "plain decoding", "plain")
    return [
        *inference(sides),
        *long_context(sides),
        Comparison("prompt lookup 110M bf16", "tok/s", lookup, plain),
        *finetuning(sides),
    ]


def inference(sides: Sides) -> list[Comparison]:
    """64 tokens after 128, and prompts of 128 and 512 tokens."""
    pairs: list[Comparison] = []

    def add(name: str, work: str, shape: str, kind: str, prompt: int, *peers: Side) -> None:
        ours = sides.inference(work, shape, kind, prompt)
        pairs.extend(Comparison(f"{name} {shape} {kind}", "tok/s", ours, peer) for peer in peers)

    for shape in ("1.1B", "110M"):
        for kind in GGUF:
            other = [sides.transformers("decode", shape, 128)] if (shape, kind) == ("1.1B", "bf16") else []
            add("decode", "decode", shape, kind, 128, sides.llama_cpp("decode", shape, kind, 128), *other)
    for shape in ("qwen3-1.7B", "gemma2-2.6B", "pythia-1.4B"):
        add("decode", "decode", shape, "int4", 128, sides.llama_cpp("decode", shape, "int4", 128))
    for prompt in (128, 512):
        for kind in ("bf16", "int8"):
            other = [sides.transformers("prefill", "1.1B", prompt)] if kind == "bf16" else []
            peers = sides.llama_cpp("prefill", "1.1B", kind, prompt), *other
            add(f"prefill {prompt}", "prefill", "1.1B", kind, prompt, *peers)
    return pairs


def long_context(sides: Sides) -> list[Comparison]:
    """Ours beside ours: how much decoding slows down as the cache fills."""
    pairs = []
    for kind in ("int4", "bf16"):
        far, near = (sides.inference("decode", "1.1B", kind, prompt) for prompt in (2048, 64))
        pairs.append(Comparison(f"decode at 2048 1.1B {kind}", "tok/s", far, replace(near, name="itself at 64")))
    return pairs


def finetuning(sides: Sides) -> list[Comparison]:
    """Speed of an adapter's steps, and the peak memory of the process."""
    pairs = []
    for method, shape, batch in TUNED:
        work = f"finetune {method} {shape} {batch} x {SEQUENCE}"
        fast, small = (sides.finetune(method, shape, batch, read) for read in (speed, key("peak_mib")))
        their_speed, their_peak = (sides.peft(method, shape, batch, figure) for figure in ("tok_s", "peak_mib"))
        pairs.append(Comparison(work, "tok/s", fast, their_speed))
        pairs.append(Comparison(f"{work}, peak memory", "MiB", small, their_peak, less_is_better=True))
    return pairs
