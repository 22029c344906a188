"""A tiny recipe for tests that train: seconds, but with everything in it that must survive."""

from pathlib import Path

from fathom.training.presets import Recipe

SENTENCE = "green bottles hanging on a wall and if one should fall there would be another that nobody had ever seen"
WORDS = SENTENCE.split()
PLACES = [(i * i * 31 + i // 3 * 17) % 1009 % len(WORDS) for i in range(3000)]  # no two stretches of it alike
TEXT = " ".join(WORDS[place] + "\n" * (i % 9 == 0) for i, place in enumerate(PLACES))


def recipe(folder: Path, **train: object) -> Recipe:
    """A model with dropout, accumulation and both optimizers, on a text of four epochs."""
    text = folder / "text.txt"
    if not text.exists():
        text.write_text(TEXT)
    model = {"d_model": 24, "n_layer": 2, "n_head": 3, "n_kv_head": 1, "context_length": 16, "position": "rope"}
    model |= {"norm": "rms", "mlp": "swiglu", "qk_norm": "on", "dropout": 0.1}
    options = {"data": str(text), "max_iters": 12, "batch_size": 8, "micro_batch_size": 4, "optimizer": "muon"}
    options |= {"eval_interval": 4, "eval_windows": 8, "device": "cpu"}
    return Recipe("", model, options | train)
