"""Every choice of fine-tuning that training from random weights does not have, as one value.

How long, how fast and on which machine is said by TrainOptions. `None` means off or, where a comment says so, follows
from the others. Does not import torch.
"""

from dataclasses import dataclass, fields
from typing import Literal

from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError

Method = Literal["lora", "qlora", "dora", "full"]
Packing = Literal["int8", "int4", "nf4", "nf4-single"]


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What is learned of a model, and from what. Every field is an option of `fathom finetune`."""

    method: Method = "lora"

    # data: records are read one example a row, text in windows
    val_data: str | None = None  # None: a part of the data, val_fraction of it
    context_length: int | None = None  # tokens of a row; None: as many as the model knows, at most 1,024, of text 256
    mask_prompt: bool = True  # only answers are learned; False: all of each record
    pack: bool = False  # short examples share a row; none sees another
    epochs: float | None = None  # how often the data are seen; None: as --max-iters says, else 3 times

    # the adapter
    rank: int = 8
    alpha: float | None = None  # None: 2 * rank
    dropout: float = 0.0  # of what the adapter reads
    target: tuple[str, ...] = ("all-linear",)  # layers by name or pattern
    ranks: tuple[str, ...] = ()  # other ranks for some layers, as PATTERN:RANK
    init: Literal["default", "pissa"] = "default"
    rslora: bool = False
    lora_plus: float | None = None  # b learns so many times faster than a (Hayou et al. 2024)

    # the base
    quantize: Packing | None = None  # None: nf4 for qlora

    def __post_init__(self) -> None:
        for problem in problems(self):
            raise FathomError(problem)

    @property
    def packing(self) -> str | None:
        """How the frozen matrices are kept; None: as floats."""
        return "nf4" if self.method == "qlora" and self.quantize is None else self.quantize

    def adapter(self) -> LoraOptions:
        """The same in the words of the adapters' room."""
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


def problems(options: FinetuneOptions) -> list[str]:
    """What is wrong with these options, each one line: found, expected, what to do."""
    found = []
    if options.method == "full":
        defaults = {field.name: field.default for field in fields(FinetuneOptions)}
        said = [name for name in OF_ADAPTERS if getattr(options, name) != defaults[name]]
        found += [
            f"{name} was given, and method full trains all weights without an adapter; leave it out" for name in said
        ]
    elif options.lora_plus is not None and not options.lora_plus > 0:
        found.append(f"lora_plus={options.lora_plus}; it must be above 0, such as 16")
    if options.quantize is not None and options.method in ("full", "lora"):
        other = "qlora" if options.method == "lora" else "qlora, which trains an adapter on packed weights"
        found.append(f"quantize={options.quantize} with method {options.method}; use method {other}")
    if options.epochs is not None and not 0 < options.epochs < 1e6:
        found.append(f"epochs={options.epochs}; it must be above 0")
    if options.context_length is not None and options.context_length < 1:
        found.append(f"context_length={options.context_length}; it must be at least 1")
    return found


def rank_of(pair: str) -> tuple[str, int]:
    """`mlp.*:4` as a pattern and its rank."""
    pattern, _, rank = pair.rpartition(":")
    if not pattern or not rank.isdigit():
        raise FathomError(f"ranks={pair!r}; expected PATTERN:RANK, such as mlp.*:4")
    return pattern, int(rank)


SAID_BY_MODEL = ("tokenizer", "init")  # of TrainOptions: the model brings them along
FAST, WIDTH, POWER, SLOWER = 1e-3, 768, 0.775, 10.0


def learning_rate(method: str, d_model: int) -> float:
    """A good first try: narrow models learn faster, and all weights together slower than an adapter, by ten times.

    The exponent and the factor are those of Schulman et al. 2025, "LoRA Without Regret", found over LLaMA models.
    """
    rate = FAST * (WIDTH / d_model) ** POWER
    return float(f"{rate / SLOWER if method == 'full' else rate:.1g}")
