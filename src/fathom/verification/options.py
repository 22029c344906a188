"""Options of `fathom.evaluate` and `fathom.evaluate_tasks`: what is scored, and how the model is run.

Does not import torch.
"""

from dataclasses import dataclass

from fathom.errors import FathomError


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of `fathom.evaluate` and `fathom eval`."""

    stride: int | None = None  # tokens from one window to the next; None: half of the context length
    windows: int | None = None  # only so many windows or records, spread evenly; None: all
    quantize: str | None = None  # int8, int4, nf4, nf4-single or all: what packing the weights so costs
    dtype: str = "auto"  # auto (as stored), fp32, bf16 or fp16
    device: str = "auto"  # auto, cpu, cuda or mps


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options of `fathom.evaluate_tasks`, and of `fathom eval --tasks`."""

    num_fewshot: int | None = None  # examples before each question; None: the task's own, else none
    limit: float | None = None  # only so many questions of each task, or below 1 such a share of them; None: all
    include_path: str | None = None  # folder with more tasks in YAML; None: lm-eval's own alone
    batch_size: int = 8  # texts in one pass
    apply_chat_template: bool = False  # write the questions as a conversation, in the model's chat template
    quantize: str | None = None  # int8, int4, nf4, nf4-single or all: compare with weights packed like this
    dtype: str = "auto"  # auto (as stored), fp32, bf16 or fp16
    device: str = "auto"  # auto, cpu, cuda or mps

    def __post_init__(self) -> None:
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise FathomError(f"num_fewshot is {self.num_fewshot}; expected 0 or more examples")
        if self.limit is not None and not (0 < self.limit < 1 or (self.limit >= 1 and self.limit % 1 == 0)):
            raise FathomError(f"limit is {self.limit:g}; expected a whole number, or a share above 0 and below 1")
        if self.batch_size < 1:
            raise FathomError(f"batch_size is {self.batch_size}; expected at least 1")
