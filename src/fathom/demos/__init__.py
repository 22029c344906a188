"""Demo models that come with the package: `demo:NAME` is an address wherever the path of a model is.

Each is a folder, as a checkpoint of a run is; examples/train_demos.py trains them. Of the others the text is the
documentation that comes with Python, in the same tokens, so that any two can be shown beside each other.
"""

from pathlib import Path
from typing import Final

from fathom.errors import FathomError, near

FOLDER: Final = Path(__file__).parent
ADDRESS = "demo:"
DEMOS = {
    "bigram": "embedding and unembedding: each token predicts the next by itself",
    "one-head": "one layer of attention with one head, learned positions",
    "gpt-tiny": "GPT-2's form in 4 layers: learned positions, LayerNorm, GELU, tied embeddings",
    "llama-mha": "LLaMA's form in 4 layers of 4 heads: RoPE, RMSNorm, SwiGLU",
    "llama-gqa": "the same with 2 heads of keys and values for 4 of queries",
    "llama-mqa": "the same with one head of keys and values",
    "full-finetune": "llama-mha, all its weights trained further on Python's source",
    "adapter": "llama-mha with a LoRA of rank 8 trained on the same",
    "copycat": "2 layers of attention that repeat a random text, with an induction head in the second",
}


def require_demo(name: str) -> str:
    """The name itself. FathomError with near matches where no demo is called so."""
    if name not in DEMOS:
        found = f"no demo is called {name!r}{near(name, DEMOS, then='choose')}" if name else "no demo was named; choose"
        raise FathomError(f"{found} one of {', '.join(DEMOS)}")
    return name


def located(path: str | Path) -> Path:
    """The path itself, or the folder of a demo where it is demo:NAME."""
    text = str(path)
    return FOLDER / require_demo(text.removeprefix(ADDRESS)) if text.startswith(ADDRESS) else Path(path)
