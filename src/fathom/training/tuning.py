"""What fine-tuning takes from its base model where the call leaves it open: learning rate, length of a row, rows per
forward pass, steps. `fathom finetune MODEL --help` shows the same values. Does not import torch.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from fathom.data.record_files import is_record_file
from fathom.errors import FathomError
from fathom.fields import build
from fathom.model.config import ModelConfig
from fathom.training.options import FINETUNE_DEFAULTS, FinetuneOptions, TrainOptions, learning_rate

Values = Mapping[str, Any]
EPOCHS, EVALUATIONS, LONGEST, WINDOW = 3.0, 10, 1024, 256
AT_ONCE = 2**19  # numbers of the residual stream per pass on a CPU: more take memory and are no faster


def with_defaults(declared: Values, tuning: FinetuneOptions, d_model: int) -> TrainOptions:
    """The TrainOptions of these declared fields, the others as fine-tuning a model of this width needs them."""
    rate = learning_rate(tuning.method, d_model)
    return build(TrainOptions, {**FINETUNE_DEFAULTS, "learning_rate": rate, **declared}, "train")


def row_length(tuning: FinetuneOptions, config: ModelConfig, records: bool) -> int:
    """Tokens that a row reads at most. records: whether the data is records, not text."""
    longest, requested = config.context_length, tuning.context_length
    if requested is not None and requested > longest:
        raise FathomError(f"context_length={requested}, but the model's context is {longest}; use at most that")
    return min(longest, LONGEST if records else WINDOW) if requested is None else requested


def micro_batch(rows: int, numbers: int) -> int:
    """How many of a step's rows, of so many numbers each, go through the model at a time: a divisor of `rows`."""
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * numbers <= AT_ONCE))


def duration(declared: Values, tuning: FinetuneOptions, data_rows: int, rows: int) -> dict[str, int]:
    """Steps, and steps between evaluations, where they were not declared; the data has `data_rows`, a step `rows`."""
    if "max_iters" in declared and tuning.epochs is not None:
        raise FathomError("epochs and max_iters are mutually exclusive; give one of them")
    steps = int(declared.get("max_iters") or ceil((tuning.epochs or EPOCHS) * data_rows / rows))
    interval = int(declared.get("eval_interval") or max(1, round(steps / EVALUATIONS)))
    return {"max_iters": steps, "eval_interval": interval}


def effective(config: ModelConfig | None, tuning: FinetuneOptions, declared: Values, cpu: bool) -> dict[str, Any]:
    """The values of this call, as `section__field`, as far as they are known before the data is read.

    config: the base model's, if known. cpu: whether it is trained there.
    """
    train = with_defaults(declared, tuning, config.d_model if config else 1)
    fields = vars(train) | {"weight_decay": train.weight_decay}
    unknown = {"eval_interval", "max_iters"} - set(declared)
    own = vars(tuning) | {"quantize": tuning.packing, "alpha": None}
    if "max_iters" in declared:
        fields |= duration(declared, tuning, 0, 1) | {"warmup_steps": train.warmup}
        unknown = set()
    elif tuning.epochs is None:
        own |= {"epochs": EPOCHS}
    if tuning.adapted:
        own |= {"alpha": tuning.alpha or 2.0 * tuning.rank}
    if config is None:
        unknown |= {"learning_rate"} - set(declared)
    else:
        kinds = [is_record_file(train.data)] if "data" in declared else [True, False]
        lengths = [row_length(tuning, config, records) for records in kinds]
        own["context_length"] = lengths[0] if len({*lengths}) == 1 else f"{lengths[0]} (text: {lengths[1]})"
        if cpu and "micro_batch_size" not in declared:
            passes = {micro_batch(train.batch_size, length * config.d_model) for length in lengths}
            fields["micro_batch_size"] = passes.pop() if len(passes) == 1 else None
    if "data" not in declared:
        unknown.add("data")
    known = {f"train__{name}": value for name, value in fields.items() if name not in unknown}
    return known | {f"finetune__{name}": value for name, value in own.items()}
