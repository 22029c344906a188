"""Recipes of training as values: a model that lacks only its vocabulary, and how to train it.

Precedence: defaults < preset < YAML < the call. A recipe printed as YAML is what `-c` reads back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fathom.errors import FathomError, near
from fathom.fields import build
from fathom.formats.config_file import read_config
from fathom.model.config import ModelConfig
from fathom.model.presets import GPT2_CHOICES, LLAMA_CHOICES
from fathom.training.options import TrainOptions

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Declared fields of ModelConfig (vocab_size may be left to the tokenizer) and of TrainOptions."""

    description: str = ""
    model: Values = field(default_factory=dict)
    train: Values = field(default_factory=dict)
    preset: str = ""  # the name of the preset that it began as

    def changed(self, model: Values, train: Values) -> "Recipe":
        """The recipe with some fields replaced."""
        kept = dict(self.train)
        steps, warmup = str(train.get("max_iters")), str(kept.get("warmup_steps"))
        if steps.isdigit() and warmup.isdigit() and int(warmup) > int(steps) // 6:
            del kept["warmup_steps"]  # too long for this number of steps; what follows from it takes its place
        return replace(self, model={**self.model, **model}, train={**kept, **train})

    def options(self, where: str = "train") -> TrainOptions:
        return build(TrainOptions, self.train, where)

    def config(self, vocab_size: int, where: str = "model") -> ModelConfig:
        """The model's config; a vocab_size of the recipe's own must hold the tokenizer's."""
        config = build(ModelConfig, {"vocab_size": vocab_size, **self.model}, where)
        if config.vocab_size < vocab_size:
            raise FathomError(
                f"{where}: vocab_size={config.vocab_size} does not hold the tokenizer's {vocab_size} tokens; "
                "leave it out or make it larger"
            )
        config.resolved()
        return config

    def sections(self) -> dict[str, Any]:
        """What `-c` reads back."""
        return {"model": dict(self.model), "train": dict(self.train)}


def read(path: Path, base: Recipe) -> Recipe:
    """`base` with the `model:` and `train:` sections of a YAML file, which may name a `preset:` to begin with."""
    values = read_config(path)
    if preset := values.pop("preset", None):
        base = base if base.preset else find(str(preset))
    if unknown := set(values) - {"model", "train"}:
        word = sorted(map(str, unknown))[0]
        raise FathomError(
            f"{path}: unknown section {word!r}{near(word, ('model', 'train'), then='sections')} are model and train"
        )
    sections = [values.get(name) or {} for name in ("model", "train")]
    if not all(isinstance(section, dict) for section in sections):
        raise FathomError(f"{path}: model: and train: must hold fields with values")
    return base.changed(*sections)


# Presets of `fathom train`. Fields that a preset leaves out have the defaults of ModelConfig and TrainOptions.

# Small recipes for a model in LLaMA's form, which other programs read: Muon for the matrices (Jordan 2024), blocks that
# begin as the identity, and a learning rate that falls linearly to 0. On tiny Shakespeare it learns as much per step as
# squared ReLU (So et al. 2021) with normalised queries and keys, and each step is faster.

SMALL_MODEL: dict[str, Any] = {"d_model": 128, "n_layer": 4, "n_head": 4, "context_length": 64} | LLAMA_CHOICES
STRONG_TRAIN: dict[str, Any] = {
    "optimizer": "muon",
    "init": "zero-output",
    "schedule": "linear",
    "final_fraction": 0.0,
    "learning_rate": 0.03,
    "betas": [0.9, 0.95],
    "muon_learning_rate": 0.03,
    "momentum": 0.9,
}

SHAKESPEARE_CPU = Recipe(
    "your own text in a minute or two on two CPU cores: one token a character, context 64",
    SMALL_MODEL,
    {"batch_size": 24, "max_iters": 1000, "eval_interval": 100, "sample_interval": 250} | STRONG_TRAIN,
)

DEFAULT = "shakespeare-cpu"

PRESETS = {
    "shakespeare-cpu": SHAKESPEARE_CPU,
    "demo": Recipe(
        "Python's own library as text, 75 seconds on any machine: the model writes what looks like Python",
        SMALL_MODEL,
        {**SHAKESPEARE_CPU.train, "data": "python-source", "tokenizer": "bpe:1024", "sample_prompt": "def "}
        | {"max_minutes": 1.25, "max_iters": 100_000, "warmup_steps": 2000, "eval_windows": 100}
        | {"eval_interval": 0.125, "sample_interval": 0.25},
    ),
    "shakespeare": Recipe(
        "6 layers of width 384, context 256: for a GPU, minutes; squared ReLU and normalised queries and keys",
        {"d_model": 384, "n_layer": 6, "n_head": 6, "context_length": 256, "dropout": 0.2}
        | {"position": "rope", "norm": "rms", "qk_norm": "on", "mlp": "relu2"},
        {"batch_size": 64, "max_iters": 2500, "eval_interval": 100, "sample_interval": 500}
        | STRONG_TRAIN
        | {"learning_rate": 0.01},
    ),
    "gpt2": Recipe(
        "the smallest GPT-2, with a BPE learned from the text: for a GPU and days",
        {"d_model": 768, "n_layer": 12, "n_head": 12, "context_length": 1024, "vocab_size": 50257}
        | GPT2_CHOICES
        | {"tie_embeddings": True},
        {
            "tokenizer": "bpe:50257",
            "batch_size": 480,
            "micro_batch_size": 16,
            "max_iters": 19000,
            "learning_rate": 6e-4,
            "betas": [0.9, 0.95],
            "warmup_steps": 700,
            "eval_interval": 500,
        },
    ),
    "gpt-cpu": Recipe(
        "the plain GPT of the same size as shakespeare-cpu: learned positions, LayerNorm, GELU, AdamW",
        {"d_model": 128, "n_layer": 4, "n_head": 4, "context_length": 64} | GPT2_CHOICES,
        {"batch_size": 12, "max_iters": 2000, "warmup_steps": 100},
    ),
    "llama-tiny": Recipe(
        "LLaMA with grouped queries: RoPE, RMSNorm, SwiGLU, byte-level BPE of 1,024 tokens, AdamW",
        {"d_model": 128, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "context_length": 128} | LLAMA_CHOICES,
        {"tokenizer": "bpe:1024", "batch_size": 16, "max_iters": 1000, "learning_rate": 2e-3, "eval_interval": 100}
        | {"sample_interval": 250},
    ),
    "moe-tiny": Recipe(
        "llama-tiny with 8 experts, of which each token runs 2: as many parameters a token, 2.6 times as many in all",
        {"d_model": 128, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "context_length": 128}
        | LLAMA_CHOICES
        | {"mlp": "8:2"},
        {"tokenizer": "bpe:1024", "batch_size": 16, "max_iters": 1000, "learning_rate": 2e-3, "eval_interval": 100}
        | {"sample_interval": 250},
    ),
}

# The ladder from a bigram to LLaMA; `fathom.experiments.rungs` explains its rungs. Each is trained as all of them are,
# so that they can be compared.
LADDER: dict[str, dict[str, Any]] = {  # each rung is the one above it with one field changed
    "bigram": {"n_layer": 0},
    "attention": {"n_layer": 1},
    "positions": {"position": "learned"},
    "heads": {"n_head": 4},
    "mlp": {"mlp": "gelu"},
    "layernorm": {"norm": "layer"},
    "depth": {"n_layer": 2},
    "rmsnorm": {"norm": "rms"},
    "rope": {"position": "rope"},
    "swiglu": {"mlp": "swiglu"},
    "gqa": {"n_kv_head": 2},
}
BESIDE: dict[str, dict[str, Any]] = {"experts": {"mlp": "8:2"}}  # the top rung with one field changed; not a step of it
RENAMED = {"residual": "mlp"}  # every rung has the residual stream now; the model of this rung has another name


def rung_fields() -> dict[str, dict[str, Any]]:
    """The declared fields of every rung, sizes aside: its own change and all before it."""
    fields: dict[str, Any] = {}
    ladder = {key: (fields := fields | change) for key, change in LADDER.items()}
    return ladder | {key: fields | change for key, change in BESIDE.items()}


RUNG_SIZES: dict[str, Any] = {"context_length": 32, "d_model": 48}
RUNG_TRAIN: dict[str, Any] = {
    "batch_size": 16,
    "optimizer": "muon",
    "learning_rate": 2e-2,
    "muon_learning_rate": 0.03,  # 0.04 is better up to the MLP and worse for SwiGLU
    "init": "by-width",
    "schedule": "linear",
    "final_fraction": 0.0,
    "compile": "off",  # each model trains for seconds
}
PRESETS |= {
    f"rung-{key}": Recipe(f"the ladder's rung {key}", RUNG_SIZES | fields, RUNG_TRAIN | {"max_iters": 1000})
    for key, fields in rung_fields().items()
}


def find(name: str) -> Recipe:
    """The preset of that name, or one line with near matches."""
    if name.removeprefix("rung-") in RENAMED and name not in PRESETS:
        raise FathomError(f"{name} is now rung-{RENAMED[name.removeprefix('rung-')]}; give that name")
    if name not in PRESETS:
        known = ", ".join(key for key in PRESETS if not key.startswith("rung-"))
        raise FathomError(
            f"no preset {name!r}{near(name, PRESETS, then='choose')} one of {known}, or rung-KEY of the ladder"
        )
    return replace(PRESETS[name], preset=name)
