"""Every choice that decides how a model is trained or fine-tuned, as one value each.

The model's own choices are in ModelConfig. `None` means off or, where a comment says so, follows from the others.
Contradictions are refused here, before any data is read. Does not import torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError, near
from fathom.training.optimizers import NAMES as OPTIMIZERS

Method = Literal["lora", "qlora", "dora", "full"]
OnBadRecord = Literal["stop", "skip"]
Packing = Literal["int8", "int4", "nf4", "nf4-single", "keep"]


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What `fathom finetune` has beside TrainOptions. Every field is one of its options."""

    method: Method = "lora"  # what is trained: an adapter (lora, dora; qlora: on packed weights) or all weights (full)

    # data
    val_data: str | None = None  # text or records to evaluate on; None: a part of the data (--train.val-fraction)
    context_length: int | None = None  # context length in tokens; None: the model's, at most 1,024 (text: 256)
    mask_prompt: bool = True  # learn only the answers of records, not their prompts
    on_bad_record: OnBadRecord = "stop"  # what to do with a record that cannot be used; skip: leave out up to 5%
    pack: bool = False  # put several short examples in one row; none sees another
    epochs: float | None = None  # passes over the data; None: --max-iters decides, else 3
    ask: str | None = None  # question to answer before, during and after; None: the first of the validation data

    # the adapter
    rank: int = 8  # rank of the adapter
    alpha: float | None = None  # scale of the adapter, divided by its rank; None: 2 × rank
    dropout: float = 0.0  # probability of dropping a value of the adapter's input
    target: tuple[str, ...] = ("all-linear",)  # layers to adapt, by name or pattern, such as attn.q,mlp.*
    ranks: tuple[str, ...] = ()  # other ranks for some layers, as PATTERN:RANK,...; empty: --rank for all
    init: Literal["default", "pissa"] = "default"  # first adapter: zero, or the principal components of W (pissa)
    rslora: bool = False  # scale by alpha / sqrt(rank) instead of alpha / rank
    lora_plus: float | None = None  # how many times faster B learns than A (LoRA+, Hayou et al. 2024)

    # the base
    add_token: tuple[str, ...] = ()  # special tokens to add, such as <|im_start|>,<|im_end|>; their rows are trained
    chat_template: str | None = None  # file in Jinja, or chatml, llama2, llama3, transcript; None: the model's own
    quantize: Packing | None = None  # format of frozen weights; keep: the file's; None: nf4 for qlora, otherwise floats

    def __post_init__(self) -> None:
        for problem in finetune_problems(self):
            raise FathomError(problem)

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained, and not all weights."""
        return self.method != "full"

    @property
    def own_tokenizer(self) -> bool:
        """Whether the tokenizer is another than the base's."""
        return bool(self.add_token or self.chat_template)

    @property
    def packing(self) -> str | None:
        """How the frozen matrices are packed; None: they are floats."""
        return "nf4" if self.method == "qlora" and self.quantize is None else self.quantize

    def adapter(self) -> LoraOptions:
        """The fields that make up the adapter."""
        return LoraOptions(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=self.target,
            rslora=self.rslora,
            dora=self.method == "dora",
            init=self.init,
            ranks=tuple(rank_of(pair) for pair in self.ranks),
        )


OF_ADAPTERS = ("rank", "alpha", "dropout", "target", "ranks", "init", "rslora", "lora_plus")


def finetune_problems(options: FinetuneOptions) -> list[str]:
    """What is wrong with these options, each one line: found, expected, what to do."""
    problems = []
    if options.method == "full":
        defaults = {field.name: field.default for field in fields(FinetuneOptions)}
        given = [name for name in OF_ADAPTERS if getattr(options, name) != defaults[name]]
        problems += [
            f"{name} was given, and method full trains all weights without an adapter; leave it out" for name in given
        ]
    elif options.lora_plus is not None and not options.lora_plus > 0:
        problems.append(f"lora_plus={options.lora_plus}; it must be above 0, such as 16")
    if options.quantize is not None and options.method in ("full", "lora"):
        other = "qlora" if options.method == "lora" else "qlora, which trains an adapter on packed weights"
        problems.append(f"quantize={options.quantize} with method {options.method}; use method {other}")
    if options.epochs is not None and not 0 < options.epochs < 1e6:
        problems.append(f"epochs={options.epochs}; it must be above 0")
    if options.context_length is not None and options.context_length < 1:
        problems.append(f"context_length={options.context_length}; it must be at least 1")
    return problems


def rank_of(pair: str) -> tuple[str, int]:
    """`mlp.*:4` as a pattern and its rank."""
    pattern, _, rank = pair.rpartition(":")
    if not pattern or not rank.isdigit():
        raise FathomError(f"ranks={pair!r}; expected PATTERN:RANK, such as mlp.*:4")
    return pattern, int(rank)


FINETUNE_DEFAULTS: dict[str, Any] = {"batch_size": 8, "weight_decay": 0.0, "eval_windows": 64}
FINETUNE_DEFAULTS |= {"sample_tokens": 80, "sample_interval": 0.25}
SET_BY_BASE = ("tokenizer", "init")  # of TrainOptions: they come from the base model
FAST, WIDTH, POWER, SLOWER = 1e-3, 768, 0.775, 10.0


def learning_rate(method: str, d_model: int) -> float:
    """A good first try: narrow models learn faster, and all weights together slower than an adapter, by ten times.

    The exponent and the factor are those of Schulman et al. 2025, "LoRA Without Regret", measured on LLaMA models.
    """
    rate = FAST * (WIDTH / d_model) ** POWER
    return float(f"{rate / SLOWER if method == 'full' else rate:.1g}")


LOGS = ("tensorboard", "wandb", "trackio", "csv")
Schedule = Literal["constant", "linear", "cosine", "wsd"]
Init = Literal["scaled", "zero-output", "by-width"]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
Compile = Literal["auto", "on", "off"]
Parallel = Literal["auto", "ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a model is trained. Every field is `--train.NAME` on the command line and a line under `train:` in YAML."""

    # data
    data: str = "python-docs"  # text to learn: a file, a folder, a .jsonl file, the name of a corpus or prepared tokens
    tokenizer: str = "char"  # tokenizer: char, byte, bpe:SIZE (learned from the text) or a tokenizer.json
    val_fraction: float = 0.1  # fraction of the text, at its end, kept for validation
    seed: int = 1337  # seed of the first weights, the order of the data and dropout

    # steps and batches
    max_iters: int = 2000  # steps of training; a step is one update of the weights
    max_minutes: float | None = None  # stop after this many minutes; None: no limit
    batch_size: int = 12  # sequences per step
    micro_batch_size: int | None = None  # sequences per forward pass, to save memory; None: the whole batch
    init: Init = "scaled"  # first weights; zero-output: every block begins as the identity; by-width: larger if narrow

    # optimizer
    optimizer: str = "adamw"  # optimizer of the matrices
    learning_rate: float = 1e-3  # peak learning rate of AdamW (with muon: of embeddings and norms only)
    weight_decay: float = 0.1  # AdamW's weight decay of matrices; norms, biases and embeddings have none
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW's decay rates of the two moments
    eps: float = 1e-8  # AdamW's epsilon
    muon_learning_rate: float = 0.02  # Muon's peak learning rate, of the matrices inside blocks
    muon_weight_decay: float = 0.0  # Muon's weight decay
    momentum: float = 0.95  # Muon's momentum
    clip: float | None = 1.0  # largest norm of the gradient, which is scaled down to it; None: off
    router_aux_loss_coef: float = 0.01  # weight of the load-balancing loss of a mixture of experts; 0: measured only

    # learning rate over time
    schedule: Schedule = "cosine"  # course of the learning rate after its warmup; wsd: constant, then linear decay
    warmup_steps: int | None = None  # steps in which the learning rate rises; None: a sixth of all steps, at most 100
    decay_fraction: float = 0.2  # fraction of all steps, at the end, in which wsd lets the learning rate fall
    final_fraction: float = 0.1  # learning rate at the end, as a fraction of its peak (linear, cosine, wsd)

    # evaluations, samples, checkpoints
    eval_interval: float = 250  # steps from one evaluation to the next; below 1 a share of the run, such as 0.1
    eval_windows: int | None = 200  # validation windows per evaluation; None: all
    sample_interval: float | None = None  # steps, or share of the run, between samples of text; None: no samples
    sample_prompt: str = ""  # text that samples continue; empty: none
    sample_tokens: int = 200  # tokens per sample
    checkpoint_interval: float | None = None  # steps (or share of the run) between checkpoints; None: as evaluations
    keep: int = 2  # newest checkpoints to keep; the best one is kept besides
    log: tuple[str, ...] | None = None  # also log to tensorboard, wandb, trackio, csv; None: metrics.jsonl alone
    keep_going: bool = False  # train on when the loss diverges, instead of stopping with exit code 1

    # machine
    device: str = "auto"  # device to train on: auto, cpu, cuda or mps
    dtype: Dtype = "auto"  # number format of the computation
    parallel: Parallel = "auto"  # what each of several processes holds: all of the model (ddp) or a part (fsdp)
    compile: Compile = "auto"  # compile the training step with torch.compile
    checkpoint_blocks: bool = False  # recompute the inside of blocks in the backward pass: less memory, more time

    def __post_init__(self) -> None:
        for problem in train_problems(self):
            raise FathomError(problem)

    @staticmethod
    def upgraded(values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of an older run as they are called now: tensorboard became a word of log."""
        kept = {key: value for key, value in values.items() if key != "tensorboard"}
        board = str(values.get("tensorboard", False)).lower() in ("true", "yes", "on", "1")
        return {**kept, "log": kept.get("log") or ("tensorboard",)} if board else kept

    @property
    def warmup(self) -> int:
        """Steps over which the learning rate rises."""
        return min(100, self.max_iters // 6) if self.warmup_steps is None else self.warmup_steps


def train_problems(options: TrainOptions) -> list[str]:
    """What is wrong with these options, each one line: found, expected, what to do."""
    return _ranges(options) or _choices(options) + _contradictions(options)


ONE_OR_MORE = ("max_iters", "batch_size", "micro_batch_size", "eval_windows", "sample_tokens")
INTERVALS = ("eval_interval", "sample_interval", "checkpoint_interval")
AT_LEAST = dict.fromkeys(("seed", "weight_decay", "muon_weight_decay", "warmup_steps", "router_aux_loss_coef"), 0) | {
    "keep": 2
}
AT_LEAST |= dict.fromkeys(ONE_OR_MORE, 1)
ABOVE_ZERO = ("max_minutes", "learning_rate", "muon_learning_rate", "eps", "clip")
FRACTIONS = ("decay_fraction", "final_fraction")
BELOW_ONE = ("momentum",)


def _ranges(options: TrainOptions) -> list[str]:
    given: dict[str, Any] = {name: value for name, value in vars(options).items() if value is not None}
    problems = [f"{n}={v}; it must be a finite number" for n, v in given.items() if _wild(v)]
    problems += [f"{n}={given[n]}; it must be at least {low}" for n, low in AT_LEAST.items() if given.get(n, low) < low]
    problems += [f"{n}={given[n]}; it must be above 0" for n in ABOVE_ZERO if given.get(n, 1) <= 0]
    problems += [
        f"{n}={given[n]:g}; it is a whole number of steps, or a share of the run above 0 and below 1"
        for n in INTERVALS
        if n in given and (given[n] <= 0 or (given[n] > 1 and given[n] % 1))
    ]
    problems += [f"{n}={given[n]}; it is a fraction from 0 to 1" for n in FRACTIONS if not 0 <= given[n] <= 1]
    problems += [f"{n}={given[n]}; it must be from 0 to below 1" for n in BELOW_ONE if not 0 <= given[n] < 1]
    if len(options.betas) != 2 or not all(0 <= beta < 1 for beta in options.betas):
        problems.append(f"betas={options.betas}; expected two numbers from 0 to below 1, as in 0.9,0.99")
    if options.seed >= 2**63:
        problems.append(f"seed={options.seed}; it must be below 2^63")
    if not 0 < options.val_fraction < 1:
        problems.append(f"val_fraction={options.val_fraction}; it must be above 0 and below 1, such as 0.1")
    return problems


def _wild(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _choices(options: TrainOptions) -> list[str]:
    hints = {name: get_args(hint) for name, hint in get_type_hints(TrainOptions).items()}
    choices = {name: known for name, known in hints.items() if known and isinstance(known[0], str)}  # Literals of words
    problems = []
    for name, known in {**choices, "optimizer": OPTIMIZERS}.items():
        value = getattr(options, name)
        if value not in known:
            problems.append(f"{name}={value!r}{near(str(value), known, then='choose')} one of {', '.join(known)}")
    unknown = [name for name in options.log or () if name not in LOGS]
    return problems + [f"log={name!r}{near(name, LOGS, then='choose from')} {', '.join(LOGS)}" for name in unknown]


def _contradictions(options: TrainOptions) -> list[str]:
    problems, steps, micro = [], options.max_iters, options.micro_batch_size
    if micro is not None and options.batch_size % micro:
        problems.append(f"batch_size={options.batch_size} is not a multiple of micro_batch_size={micro}; change one")
    if options.warmup > steps:
        problems.append(f"warmup_steps={options.warmup} is more than max_iters={steps}; shorten it or train longer")
    if options.schedule == "wsd" and options.warmup + options.decay_fraction * steps > steps:
        problems.append(
            f"warmup_steps={options.warmup} and decay_fraction={options.decay_fraction} leave no room in "
            f"max_iters={steps}; shorten one"
        )
    return problems
