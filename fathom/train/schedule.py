"""The learning rate over time, as a fraction of its peak: a pure function of the step.

Every schedule warms up along a line. After that constant stays; linear and cosine (Loshchilov & Hutter 2017, eq. 5)
fall at once; wsd stays and falls along a line at the end (warm-up, stable, decay: Hu et al. 2024, MiniCPM, section 4).
The end is the step after the last one, so that a fall to 0 wastes no step. Does not know optimizers.
"""

import math

from fathom.train.options import TrainOptions


def factor(step: float, options: TrainOptions) -> float:
    """What the peak learning rate is multiplied by at this step, counted from 0: in [0, 1]."""
    end, warmup, final = options.max_iters, options.warmup, options.final_fraction
    if step < warmup:
        return (step + 1) / (warmup + 1)
    match options.schedule:
        case "constant":
            return 1.0
        case "linear":
            return linear(done(step, warmup, end), final)
        case "cosine":
            return cosine(done(step, warmup, end), final)
        case "wsd":
            return linear(done(step, end - options.decay_fraction * end, end), final)


def done(step: float, start: float, end: float) -> float:
    """How much of the way from `start` to `end` lies behind: 0 before it, 1 after it."""
    return min(max((step - start) / max(end - start, 1), 0.0), 1.0)


def linear(done: float, final: float) -> float:
    """A line from 1 to `final`."""
    return 1 + (final - 1) * done


def cosine(done: float, final: float) -> float:
    """Half a period of a cosine from 1 to `final`: flat at both ends."""
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
