"""What compare.py runs: every claim as one of our commands, a peer's, and the ratio that is wanted."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NEW, SEQUENCE, STEPS = 64, 256, 5
GGUF = {"int4": "q4_0", "int8": "q8_0", "bf16": "bf16"}  # of llama.cpp, with as many bits as ours


@dataclass(frozen=True)
class Command:
    """A process that prints JSON lines, of which one counts."""

    label: str  # without folders: how it is told
    words: tuple[str, ...]
    needs: tuple[tuple[Path | None, str], ...] = ()  # files, and what to do where one is missing
    module: str = ""  # that the words' Python must have
    make: tuple[str, ...] = ()  # what makes the files, where that is ours to do
    line: int = -1  # which of the lines it prints

    def told(self, line: dict[str, Any]) -> str:
        """Its figures in short."""
        if "figures" in line:
            return ", ".join(f"{one['name']} {one['median']:.4g} {one['unit']}" for one in line["figures"])
        return ", ".join(f"{name} {value:.4g}" for name, value in line.items() if isinstance(value, float))


@dataclass(frozen=True)
class Side:
    """Who, by which command, and which number of its line."""

    name: str
    command: Command
    read: Callable[[dict[str, Any]], float]


@dataclass(frozen=True)
class Claim:
    """Ours over theirs is to be at least `wanted`, or at most."""

    name: str
    unit: str
    ours: Side
    peer: Side
    wanted: float
    at_most: bool = False


def key(name: str) -> Callable[[dict[str, Any]], float]:
    return lambda line: float(line[name])


def median(line: dict[str, Any]) -> float:
    """The first figure of `fathom bench`."""
    return float(line["figures"][0]["median"])


@dataclass(frozen=True)
class Commands:
    """The commands for one set of folders."""

    peers: Path | None
    python: str
    models: Path | None
    threads: int

    def bench(self, *words: str) -> Side:
        """Ours. One round a process, as the peers have."""
        every = ("bench", *words, "--threads", str(self.threads), "--repeat", "1", "--json")
        return Side("Fathom", Command("fathom " + " ".join(every), (sys.executable, "-m", "fathom", *every)), median)

    def inference(self, work: str, shape: str, kind: str, prompt: int = 128) -> Side:
        """Decoding or prefill of a shape with weights of a kind."""
        weights = ("--dtype", "bf16") if kind == "bf16" else ("--dtype", "bf16", "--quantize", kind)
        new = ("--new", str(NEW)) if work == "decode" else ()
        return self.bench(work, "--shape", shape, *weights, "--prompt", str(prompt), *new)

    def peer(self, script: str, module: str, *words: str, file: str = "") -> Command:
        """A peer's script, perhaps on a GGUF file."""
        path = None if self.peers is None else self.peers / script
        needs = [(path, "give the folder of the peers' scripts with --peers")]
        named = (file, *words) if file else words
        if file:
            model = None if self.models is None else self.models / file
            needs.append((model, "give the folder of the GGUF files with --models, and make them with make_gguf.py"))
            words = (str(model), *words)
        return Command(" ".join((script, *named)), (self.python, str(path), *words), tuple(needs), module)

    def llama(self, shape: str, kind: str, prompt: int, figure: str) -> Side:
        file = f"{shape}-{GGUF[kind]}.gguf"
        command = self.peer("peer_llamacpp.py", "llama_cpp", str(prompt), str(NEW), str(self.threads), file=file)
        return Side(f"llama.cpp {GGUF[kind]}", command, key(f"{figure}_tok_s"))

    def transformers(self, shape: str, prompt: int, figure: str) -> Side:
        command = self.peer("peer_hf_decode.py", "transformers", shape, "bf16", str(prompt), str(NEW // 2))
        return Side("transformers bf16", command, key(f"{figure}_tok_s"))

    def peft(self, shape: str, precision: str, batch: int, figure: str) -> Side:
        words = shape, precision, str(batch), str(SEQUENCE), str(STEPS)
        return Side(f"peft {precision}", self.peer("peer_peft.py", "peft", *words), key(figure))

    def finetune(self, shape: str, precision: str, batch: int, figure: str) -> Side:
        """Ours on a model that is read from a file, written when it is first needed."""
        folder = None if self.models is None else self.models / f"finetune-{shape}"
        start = (sys.executable, str(HERE / "finetune.py"))
        same = ("--shape", shape, "--precision", precision, "--batch", str(batch))
        needs = ((folder and folder / "model.safetensors", "give a folder for the models with --models"),)
        make = (*start, "--write", str(folder), "--shape", shape)
        label = f"finetune.py --ours MODEL {' '.join(same)}"
        return Side("Fathom", Command(label, (*start, "--ours", str(folder), *same), needs, make=make), key(figure))

    def lookup(self, tokenizer: Path | None, text: Path | None, figure: str) -> Side:
        """Its first line is about a text with repeats."""
        same = "--threads", str(self.threads), "--repeat", "1"
        words = (sys.executable, str(HERE / "lookup.py"), str(tokenizer), str(text), *same)
        needs = tuple(
            (file, "give a LLaMA's tokenizer and a text with --tokenizer and --text") for file in (tokenizer, text)
        )
        return Side("plain decoding", Command("lookup.py TOKENIZER TEXT", words, needs, line=0), key(figure))


def claims(on: Commands, tokenizer: Path | None, text: Path | None) -> list[Claim]:
    """All of them, in the order of the table."""
    ours, plain = (on.lookup(tokenizer, text, figure) for figure in ("lookup", "plain"))
    lookup = Claim("prompt lookup 110M bf16", "tok/s", replace(ours, name="Fathom"), plain, 1.5)
    return [*decoding(on), *prefilling(on), *contexts(on), lookup, *tuning(on)]


def decoding(on: Commands) -> list[Claim]:
    """64 tokens after 128."""
    found = []
    for shape, wanted in (("1.1B", {"int4": 1.1, "int8": 1.1, "bf16": 1.0}), ("110M", dict.fromkeys(GGUF, 1.0))):
        for kind, ratio in wanted.items():
            ours, theirs = on.inference("decode", shape, kind), on.llama(shape, kind, 128, "decode")
            found.append(Claim(f"decode {shape} {kind}", "tok/s", ours, theirs, ratio))
    other = on.transformers("1.1B", 128, "decode")
    found.insert(3, Claim("decode 1.1B bf16", "tok/s", on.inference("decode", "1.1B", "bf16"), other, 2.5))
    return found


def prefilling(on: Commands) -> list[Claim]:
    """A prompt, read."""
    found = []
    for prompt in (128, 512):
        for kind, peer, wanted in (
            ("bf16", on.llama("1.1B", "bf16", prompt, "prefill"), 1.3),
            ("bf16", on.transformers("1.1B", prompt, "prefill"), 1.1),
            ("int8", on.llama("1.1B", "int8", prompt, "prefill"), 2.0),
        ):
            ours = on.inference("prefill", "1.1B", kind, prompt)
            found.append(Claim(f"prefill {prompt} 1.1B {kind}", "tok/s", ours, peer, wanted))
    return found


def contexts(on: Commands) -> list[Claim]:
    """Ours beside ours: decoding must hardly slow down as the cache fills."""
    found = []
    for kind in ("int4", "bf16"):
        far, near = (on.inference("decode", "1.1B", kind, prompt) for prompt in (2048, 64))
        found.append(Claim(f"decode at 2048 1.1B {kind}", "tok/s", far, replace(near, name="itself at 64"), 0.8))
    return found


def tuning(on: Commands) -> list[Claim]:
    """Steps of an adapter: their speed, and the peak of the process."""
    found = []
    for shape, precision, batch, wanted in (("gpt2", "bf16", 4, 1.5), ("110M", "nf4", 4, 1.3), ("1.1B", "nf4", 1, 1.3)):
        name = f"{'QLoRA' if precision == 'nf4' else 'LoRA'} {shape} {batch} x {SEQUENCE}"
        for figure, unit, ratio in (("tok_s", "tok/s", wanted), ("peak_rss_mb", "MiB", 0.6)):
            ours, theirs = (side(shape, precision, batch, figure) for side in (on.finetune, on.peft))
            what = f"finetune {name}" + ", peak memory" * (unit == "MiB")
            found.append(Claim(what, unit, ours, theirs, ratio, unit == "MiB"))
    return found
