"""What it costs to run a k-quant file: `python benchmarks/k_quants.py SHAPE FOLDER [KIND ...]`.

Of a file of each KIND with random weights, in each number format: seconds to load and tokens per second (of one
processor), MiB of weights that a step reads, how far matrices (rms) and logits (mean KL divergence) are from the file's
values, and after how many greedy tokens it leaves llama.cpp's.

`python benchmarks/k_quants.py --beside FILE.gguf [ROUNDS] [THREADS]`: a file on both sides, in turn, each in its own
numbers. With one thread seconds are those of the processor, which other programs disturb least.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

KINDS, FORMATS = ("Q4_0", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K"), ("fp32", "bf16", "keep", "int8", "int4")
PROMPT, NEW = list(range(1, 65)), 32
THREADS = 1
READ, WRITTEN, UNCOUNTED = 128, 64, 4  # beside llama.cpp
PEER_PYTHON = os.environ.get("PEER_PYTHON", sys.executable)  # one that has llama_cpp


def write(shape: str, folder: Path, kind: str) -> dict[str, object]:
    from fathom.bench.shapes import SHAPES, random_model
    from fathom.formats.gguf_model import write_gguf

    torch.manual_seed(0)
    model = random_model(SHAPES[shape], torch.bfloat16, torch.device("cpu"))
    path, began = folder / f"{shape}-{kind}.gguf", time.process_time()
    write_gguf(path, model.config, model.state_dict(), None, kind)
    return {"write_s": round(time.process_time() - began, 1), "file_mib": path.stat().st_size >> 20}


@torch.no_grad()
def measure(path: str, form: str) -> dict[str, object]:
    """In a process of its own: the file in one number format."""
    import fathom
    from fathom.backend.inference import prepare_for_inference
    from fathom.bench.bench import weight_bytes
    from fathom.formats.convert import read_ours
    from fathom.formats.detect import open_model
    from fathom.quant.schemes import KEEP, SCHEMES

    torch.set_num_threads(THREADS)
    began = time.process_time()
    options: dict[str, str] = {"quantize": form, "dtype": "bf16"} if form in (*SCHEMES, KEEP) else {"dtype": form}
    model, _ = fathom.load(path, device="cpu", **options)
    seconds, errors = time.process_time() - began, []
    size = weight_bytes(model)
    layers = dict(model.named_modules())
    for name, values in read_ours(open_model(path)):
        if ".attn." in name or ".mlp." in name:
            layer = layers[name.removesuffix(".weight")]
            errors.append(float((layer.weight.float() - values.float()).norm() / values.float().norm()))
    run, cache = prepare_for_inference(model), fathom.KVCache(model.config, 1, 192)
    logits = run(torch.tensor([PROMPT]), cache)[0].float()
    tokens, step, spent = [], logits[-1:], []
    for _ in range(NEW):
        tokens.append(int(step[-1].argmax()))
        began = time.process_time()
        step = run(torch.tensor([tokens[-1:]]), cache)[0].float()
        spent.append(time.process_time() - began)
    torch.save((logits, tokens), f"{path}.{form}.pt")
    rate = round(1 / sorted(spent)[NEW // 2], 1)
    return {"load_s": round(seconds, 1), "model_mib": size >> 20, "tok_s": rate, "rms": sum(errors) / len(errors)}


def peer(path: str) -> list[int]:
    """llama.cpp's greedy tokens."""
    import llama_cpp

    runner = llama_cpp.Llama(path, n_ctx=192, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)
    runner.eval(PROMPT)
    tokens: list[int] = []
    for _ in range(NEW):
        tokens.append(int(runner.sample(temp=0.0, top_k=1, repeat_penalty=1.0)))
        runner.eval(tokens[-1:])
    return tokens


@torch.no_grad()
def speed(path: str, threads: int) -> dict[str, float]:
    """In a process of its own: a prompt, read for the second time, and further tokens one by one."""
    import fathom
    from fathom.backend.inference import prepare_for_inference

    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    model = prepare_for_inference(fathom.load(path, device="cpu", dtype="bf16", quantize="keep")[0])
    ids = torch.randint(model.config.vocab_size, (1, READ), generator=torch.Generator().manual_seed(0))

    def seconds(piece: torch.Tensor) -> float:
        began = clock()
        model(piece, cache)
        return clock() - began

    for _ in range(2):
        cache = fathom.KVCache(model.config, 1, READ + WRITTEN, dtype=torch.bfloat16)
        prefill = seconds(ids)
    steps = [seconds(ids[:, :1]) for _ in range(WRITTEN)][UNCOUNTED:]
    return {"prefill_tok_s": READ / prefill, "decode_tok_s": len(steps) / sum(steps)}


def beside(path: str, rounds: int = 5, threads: int = THREADS) -> None:
    """Ours and llama.cpp's in turn: medians, their ratio, and the ratios of single rounds."""
    script = str(Path(__file__).parent / "peers" / "infer_llama_cpp.py")
    theirs = [PEER_PYTHON, script, path, *map(str, (READ, WRITTEN, threads)), *(["cpu"] if threads == 1 else [])]
    lines = [(called("--speed", path, str(threads)), called_as(theirs)) for _ in range(rounds)]
    for work in ("decode", "prefill"):
        pairs = [tuple(float(str(line[f"{work}_tok_s"])) for line in pair) for pair in lines]
        ours, peer = (median(side) for side in zip(*pairs))
        ratios = [one / other for one, other in pairs]
        print(f"| {work} {Path(path).stem} | {peer:.4g} | {ours:.4g} | **{ours / peer:.2f}**"
              f" ({min(ratios):.2f} to {max(ratios):.2f}) |", flush=True)  # fmt: skip


def alike(ours: list[int], theirs: list[int]) -> int:
    return next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), len(ours))


def called(*arguments: str) -> dict[str, object]:
    return called_as([sys.executable, __file__, *arguments])


def called_as(words: list[str]) -> dict[str, object]:
    """The last line that a program prints."""
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(shape: str, folder: Path, kinds: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    print(
        "| file | MiB | written, s | in memory | loaded, s | MiB | tok/s | rms of matrices | KL | same as llama.cpp |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in kinds:
        path = str(folder / f"{shape}-{kind}.gguf")
        file = called("--write", shape, str(folder), kind)
        theirs = called("--peer", path)["tokens"]
        for form in FORMATS:
            row = called("--measure", path, form)
            (wide, _), (logits, tokens) = (torch.load(f"{path}.{x}.pt") for x in ("fp32", form))
            p, q = wide.log_softmax(-1), logits.log_softmax(-1)
            row |= {"kl": float((p.exp() * (p - q)).sum(-1).mean()), "alike": alike(tokens, theirs)}  # type: ignore[arg-type]
            print(
                f"| {kind} | {file['file_mib']} | {file['write_s']} | {form} | {row['load_s']} | {row['model_mib']} |"
                f" {row['tok_s']} | {100 * float(str(row['rms'])):.2f}% | {row['kl']:.1e} | {row['alike']} of {NEW} |",
                flush=True,
            )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--write", shape, folder, kind]:
            print(json.dumps(write(shape, Path(folder), kind)))
        case ["--measure", path, form]:
            print(json.dumps(measure(path, form)))
        case ["--peer", path]:
            print(json.dumps({"tokens": peer(path)}))
        case ["--speed", path, threads]:
            print(json.dumps(speed(path, int(threads))))
        case ["--beside", path, *counts]:
            beside(path, *map(int, counts))
        case [shape, folder, *kinds]:
            main(shape, Path(folder), kinds or list(KINDS))
