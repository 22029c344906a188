"""How long a model takes to load, and how much memory: `python benchmarks/load_memory.py MODEL [AS ...]`.

AS: a dtype, or int8, int4, nf4; each in a process of its own, three times. The peak is that of resident memory above
what the process held before, over the size of the loaded model; the file is in the system's cache. Linux only.
"""

import json
import subprocess
import sys
import time
from pathlib import Path


def status(field: str) -> int:
    """A number of bytes that Linux reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def load_once(path: str, kind: str) -> dict[str, object]:
    """Load it in this process."""
    import torch

    from fathom.formats import gguf_model, huggingface, llama2c, load, meta  # noqa: F401  # imported before the clock runs
    from fathom.quant.schemes import SCHEMES
    from fathom.tokenizer import load as tokenizers  # noqa: F401

    torch.set_num_threads(2)
    before, began = status("VmRSS"), time.perf_counter()
    options: dict[str, str] = {"quantize" if kind in SCHEMES else "dtype": kind}
    model, _ = load.load(path, device="cpu", **options)
    seconds = time.perf_counter() - began
    size = sum(x.nbytes for x in (*model.parameters(), *model.buffers()))
    peak = status("VmHWM") - before
    figures = {"seconds": round(seconds, 2), "model_mib": size >> 20, "peak_mib": peak >> 20}
    return {"model": Path(path).name, "as": kind, **figures, "peak_ratio": round(peak / size, 3)}


if __name__ == "__main__":
    if sys.argv[1] == "--once":
        print(json.dumps(load_once(*sys.argv[2:])))
    else:
        for kind in sys.argv[2:] or ["auto"]:
            for _ in range(3):
                subprocess.run([sys.executable, __file__, "--once", sys.argv[1], kind], check=True)
