"""Options of `fathom bench`. Does not import torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from fathom.errors import FathomError

Work = Literal["decode", "prefill", "train", "finetune", "startup"]
Shape = Literal["gpt2", "110M", "1.1B", "7B", "qwen3-1.7B", "gemma2-2.6B", "pythia-1.4B"]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
Packing = Literal["int8", "int4", "nf4", "nf4-single", "keep"]

WORKS: tuple[str, ...] = get_args(Work)
UNCOUNTED = 4  # first decoding steps, in which caches and threads warm up
LEARNING = ("train", "finetune")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """One measurement. `None` means: as the comment says."""

    work: Work
    model: str | None = None  # model of any format; None: random weights of --shape
    shape: Shape | None = None  # shape with random weights; None: 110M, where no model is given
    quantize: Packing | None = None  # number format of the blocks' matrices, or that of the file; None: floats
    dtype: Dtype = "auto"  # number format; auto: of a model as stored, of a shape bf16 where the machine has it
    device: str = "auto"  # device to run on: auto, cpu, cuda or mps
    prompt: int | None = None  # context length in tokens; None: 128, for train and finetune 256
    new: int = 64  # tokens to decode, of which the first 4 are not timed
    batch: int | None = None  # sequences side by side; None: 1, for train and finetune 4
    threads: int | None = None  # CPU threads; None: torch's default
    repeat: int = 3  # rounds, of which the median counts
    plain: bool = False  # run the plain model, without native code
    seed: int = 0  # seed of random weights and tokens

    def __post_init__(self) -> None:
        for problem in problems(self):
            raise FathomError(problem)

    @property
    def length(self) -> int:
        return self.prompt or (256 if self.work in LEARNING else 128)

    @property
    def rows(self) -> int:
        return self.batch or (4 if self.work in LEARNING else 1)

    @property
    def name(self) -> str:
        """Name of what is measured: a path or a shape."""
        return self.model or self.shape or "110M"


def problems(options: BenchOptions) -> list[str]:
    """What is wrong with these options, each one line: found, expected, what to do."""
    messages = []
    for name in ("prompt", "new", "batch", "threads", "repeat"):
        value = getattr(options, name)
        if value is not None and value < 1:
            messages.append(f"{name} is {value}; it must be at least 1")
    if options.model is not None and options.shape is not None:
        messages.append(f"model {options.model} and shape {options.shape} were both given; expected one of them")
    if options.work == "decode" and options.new <= UNCOUNTED:
        messages.append(f"new is {options.new} and the first {UNCOUNTED} steps are not timed; expected more")
    if options.work == "train" and options.quantize is not None:
        messages.append(
            f"quantize is {options.quantize}, but packed weights cannot be trained; leave it out, or use finetune"
        )
    if options.quantize == "keep" and options.model is None:
        messages.append("quantize is keep, but random weights lie in no file; give a model, or choose a number format")
    if options.work in LEARNING and options.plain:
        messages.append(f"--plain has no meaning for {options.work}; leave it out")
    return messages
