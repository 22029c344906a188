"""A tiny model and tiny records for tests that fine-tune."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.model.config import ModelConfig
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.load import FILE, save
from fathom.training.finetune import finetune
from fathom.training.train import Result
from tests.architectures import model_of

SIZES: dict[str, Any] = {"vocab_size": 256, "context_length": 48, "d_model": 24, "n_layer": 2, "n_head": 3}
LLAMA = ModelConfig(**SIZES, n_kv_head=1, position="rope", norm="rms", mlp="swiglu")
GPT = ModelConfig(**SIZES, position="learned", norm="layer", mlp="gelu", bias=True, tie_embeddings=True)
FAST = {"max_iters": 12, "batch_size": 4, "micro_batch_size": 2, "eval_interval": 4, "eval_windows": 6,
        "device": "cpu", "sample_tokens": 4, "learning_rate": 0.01, "dtype": "fp32"}  # fmt: skip


def base(folder: Path, config: ModelConfig = LLAMA) -> Path:
    """A model with random weights in a folder of our own."""
    if not folder.exists():
        folder.mkdir()
        write_config(folder / CONFIG, {"model": asdict(config.resolved())})
        write_weights(model_of(config, 0.15), folder / WEIGHTS)
        save(ByteTokenizer(), folder / FILE)
    return folder


def records(path: Path, count: int = 30) -> Path:
    """Sums, as prompts with completions."""
    sums = [(i * 7 % 23, i * 5 % 19) for i in range(count)]
    lines = [json.dumps({"prompt": f"{a} + {b} = ", "completion": "x" * (1 + i % 5) + str(a + b)}) for i, (a, b)
             in enumerate(sums)]  # fmt: skip
    path.write_text("\n".join(lines))
    return path


def tuned(folder: Path, out: str, mode: str = "new", report: Any = lambda event: None, **said: Any) -> Result:
    """A short run on a LLaMA; of what is said, the fields of FinetuneOptions go there."""
    from fathom.training.options import FinetuneOptions

    options = {name: said.pop(name) for name in list(said) if name in FinetuneOptions.__dataclass_fields__}
    if mode == "resume":
        return finetune(None, None, folder / out, options=options, train=said, mode=mode, report=report)
    model, data = said.pop("model", None) or base(folder / "base"), said.pop("data", None)
    data = data or records(folder / "records.jsonl")
    return finetune(model, data, folder / out, options=options, train=FAST | said, mode=mode, report=report)
