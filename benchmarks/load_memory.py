"""How long a model takes to load and what memory it needs: `python benchmarks/load_memory.py MODEL [WANTED ...]`.

WANTED: a dtype, or int8, int4, nf4. Each in a process of its own, three times. Peak is the high-water mark of resident
memory above what was there before, over the size of the model as it was loaded; the files are in the system's cache.
Linux only.
"""

import json
import subprocess
import sys
import time
from pathlib import Path


def status(field: str) -> int:
    """Bytes, from the system."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def once(path: str, wanted: str) -> dict[str, object]:
    """Load it, in this process."""
    import torch

    from fathom.formats import gguf_model, huggingface, llama2c, load, meta  # noqa: F401  # imported before the clock runs
    from fathom.quant.schemes import SCHEMES
    from fathom.tokenizer import hugging_face, sentencepiece  # noqa: F401

    torch.set_num_threads(2)
    before, began = status("VmRSS"), time.perf_counter()
    kind: dict[str, str] = {"quantize" if wanted in SCHEMES else "dtype": wanted}
    model, _ = load.load(path, device="cpu", **kind)
    seconds = time.perf_counter() - began
    size = sum(x.nbytes for x in (*model.parameters(), *model.buffers()))
    peak = status("VmHWM") - before
    facts = {"model": Path(path).name, "as": wanted, "seconds": round(seconds, 2), "model_mib": size >> 20}
    return facts | {"peak_mib": peak >> 20, "peak_ratio": round(peak / size, 3)}


if __name__ == "__main__":
    if sys.argv[1] == "--once":
        print(json.dumps(once(*sys.argv[2:])))
    else:
        for wanted in sys.argv[2:] or ["auto"]:
            for _ in range(3):
                subprocess.run([sys.executable, __file__, "--once", sys.argv[1], wanted], check=True)
