"""`fathom.verify`: does this model compute what it should? The answer is a certificate that anyone can reproduce.

The model is loaded in the ordinary way and compared with each reference in turn, one at a time in memory, on fixed
texts (what models are for) and on random tokens (every corner of the vocabulary).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.adapters.export import open_adapted
from fathom.adapters.load import adapted_run
from fathom.backend.linear import FLOATS
from fathom.errors import FathomError
from fathom.families.registry import of
from fathom.fields import plain
from fathom.formats.detect import open_model
from fathom.formats.load import DTYPES, read
from fathom.formats.opened import Opened
from fathom.formats.tokenizer import tokenizer_of
from fathom.machine import describe, pick_device
from fathom.model.transformer import Transformer
from fathom.native import build as native
from fathom.quant.model import formats_of
from fathom.quant.schemes import packing_named
from fathom.report.table import plain as as_text
from fathom.report.table import table
from fathom.tokenizer.protocol import Tokenizer
from fathom.verification.layout import Layout, layout
from fathom.verification.references import TOLERANCES, Comparison, compare, reference, unpacked, whole
from fathom.words import counted

LONGEST = 256  # tokens of one prompt
RANDOM = 4  # prompts of random tokens
TEXTS = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friends. One"
    ' day, she saw a big, red ball. She wanted to play with it, but it was too high up in the tree. Her mom said, "Do'
    ' not worry, we can ask your dad to help." They went home together, and soon everyone was happy again.',
    "The sea was calm that morning, and the fishermen had already left the harbour. In the market square the first"
    " stalls were opening: bread, cheese, apples and fresh flowers. An old man sat down on the bench in front of the"
    " church, as he had done every day for twenty years, and waited for the bells to ring.",
    "def add(a, b):\n    return a + b\n\n\nassert add(1, 2) == 3\n",
    "Zürich, 東京, Москва: 12.5 % of 1,000 is 125 — isn't it? 🙂\n",
)


def prompts(vocab_size: int, context_length: int, tokenizer: Tokenizer | None, seed: int) -> list[Tensor]:
    """Ids (t,) of each prompt, of at most LONGEST tokens and never more than the context."""
    longest = min(LONGEST, context_length)
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(vocab_size, (longest,), generator=generator) for _ in range(RANDOM)]
    return [torch.tensor(ids[:longest]) for ids in texts(tokenizer, vocab_size)] + drawn


def texts(tokenizer: Tokenizer | None, vocab_size: int) -> Iterator[list[int]]:
    """Ids of the texts that this vocabulary can encode and the model has, bos first where the format has one."""
    for text in TEXTS if tokenizer is not None else ():
        assert tokenizer is not None
        try:
            ids = tokenizer.prefix + tokenizer.encode(text)
        except FathomError:  # a vocabulary of characters may lack some of these
            continue
        if max(ids, default=0) < vocab_size:
            yield ids


PACKED = (
    "packed in {}: naive and cache use the same packed weights and must be equal; the others use floats, and the"
    " difference is the cost of packing"
)


@dataclass(frozen=True, repr=False)
class Certificate:
    """A model, how it was run, and its comparisons. Printed, it is a table with a verdict on every line."""

    path: str
    format: str
    dtype: str
    quantize: str | None  # number formats of the blocks' matrices
    device: str
    torch: str
    prompts: int
    seed: int
    layout: Layout | None
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Every comparison holds and no evidence points to the other rope layout."""
        return all(c.passed for c in self.comparisons) and (self.layout is None or self.layout.verdict != "wrong")

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        comparisons = [plain(c) | {"allowed": c.allowed, "passed": c.passed} for c in self.comparisons]
        layout = self.layout and plain(self.layout) | {"verdict": self.layout.verdict}
        return plain(self) | {"comparisons": comparisons, "layout": layout, "passed": self.passed}

    def __repr__(self) -> str:
        """A table with a verdict on every line, and the overall verdict."""
        heads = ("reference", "tokens", "|Δlogit|", "allowed", "largest", "KL, nats", "top-1", "verdict")
        rows = [
            (
                " ".join(shortened(word) for word in c.reference.split()),
                f"{c.tokens:,}",
                f"{c.max_difference:.2e}",
                "" if c.allowed is None else f"{c.allowed:.1e}",
                f"{c.largest_logit:.1f}",
                f"{c.kl:.1e}",
                f"{100 * c.top1:.4g}%",
                verdict(c),
            )
            for c in self.comparisons
        ]
        lines = [f"{self.path}: {self.format}", f"run as {self.dtype} on {self.device}, torch {self.torch}"]
        lines += [PACKED.format(self.quantize)] if self.quantize else []
        lines += [f"{counted(self.prompts, 'prompt')}, seed {self.seed}", ""]
        lines += [as_text(table(heads, rows, numbers=(1, 2, 3, 4, 5, 6))).rstrip(), ""]
        lines += [f"{c.reference}: {c.about}" for c in self.comparisons]
        if self.layout and (self.layout.verdict != "undecided" or self.format != OURS):  # a run has our own layout
            lines += [f"rope layout: {evidence(self.layout)}"]
        return "\n".join([*lines, "", "verified" if self.passed else "NOT VERIFIED"])


def shortened(word: str, most: int = 14) -> str:
    return word if len(word) <= most else f"{word[: most - 1]}…"


def verdict(c: Comparison) -> str:
    if not c.passed:
        return "DIFFERENT"
    return "equal" if c.tolerance else "not judged"


def evidence(layout: Layout) -> str:
    """The evidence for the rope layout in one line."""
    lines = []
    if layout.weights is not None:
        w = layout.weights
        lines.append(f"by weights {w.verdict} ({w.half_split:+.1f} σ half-split, {w.interleaved:+.1f} σ interleaved)")
    if layout.loss is not None and layout.other_loss is not None:
        lines.append(f"loss on text {layout.loss:.3f} as loaded, {layout.other_loss:.3f} in the other layout")
    meaning = {
        "right": "right",
        "wrong": "WRONG: the rows of q and k are in the order of the other layout",
        "undecided": "undecided, as weights that are hardly trained show no layout",
        "neither": "WRONG: the rows of q and k are in the order of neither layout, as where they are permuted twice",
    }
    return f"{meaning['neither' if layout.neither else layout.verdict]}; {'; '.join(lines)}"


OURS = "run of fathom"
SAME_WEIGHTS = ("naive", "cache")  # references that use the model's own weights, packed or not


def verify(
    path: str | Path,
    against: Sequence[str] = (),
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 0,
    quantize: str | None = None,
) -> Certificate:
    """Does this model compute what it should? It is compared with other ways to compute it and with other libraries.

        >>> certificate = fathom.verify("runs/demo")
        >>> assert certificate.passed, certificate

    path: of a model in any format; a run of fine-tuning is its base with the adapter. against: which of naive, cache,
    native, transformers, file:OTHER; default naive, cache, native where it runs, and transformers where it is
    installed and has the architecture. dtype, device: as in
    `fathom.load`. seed: of the random prompts. quantize: int8, int4, nf4 or keep: the packed model must equal naive and
    cache, which use the packed weights; its difference from floats (by default its own file) is reported, not judged.

    Returns a Certificate: printed, it is a table; `.passed`, `.comparisons`. FathomError: there is no such model, or a
    reference does not have this architecture.
    """
    if dtype not in DTYPES:
        raise FathomError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    run = adapted_run(path)
    opened = open_model(path) if run is None else open_adapted(path, run)
    target, scheme = pick_device(device), packing_named(quantize)
    tokenizer = tokenizer_of(opened)
    model = read(opened, DTYPES[dtype], target, scheme)
    inputs = prompts(model.config.vocab_size, model.config.context_length, tokenizer, seed)
    text_ids = [torch.tensor(ids[: len(inputs[-1])]) for ids in texts(tokenizer, model.config.vocab_size)]
    names = against or [
        *SAME_WEIGHTS,
        *native_reference(model),
        *(library(opened) if scheme is None else [f"file:{path}"]),
    ]
    formats = ", ".join(formats_of(model)) or None
    comparisons = tuple(compare_all(opened, model, names, inputs, scheme is not None))
    rope = layout(model if scheme is None else unpacked(model), [ids for ids in text_ids if len(ids) > 1])
    return Certificate(
        str(opened.path), opened.format, str(model.embed.weight.dtype)[6:], formats, describe(target),
        torch.__version__, len(inputs), seed, rope, comparisons,
    )  # fmt: skip


def compare_all(
    opened: Opened, model: Transformer, against: Sequence[str], inputs: Sequence[torch.Tensor], packed: bool
) -> Iterator[Comparison]:
    """The model against each reference. The tolerance is that of the coarser dtype; the effect of packing is not
    judged."""
    for name in against:
        other = reference(name, opened, model)
        coarser = max(other.dtype, model.embed.weight.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        tolerance = None if packed and name not in SAME_WEIGHTS else TOLERANCES[coarser]
        yield compare(other.name, other.about, whole(model), other.logits, inputs, tolerance)


def native_reference(model: Transformer) -> list[str]:
    """Native code, where it supports this model."""
    supported = model.embed.weight.device.type == "cpu" and model.embed.weight.dtype in FLOATS
    return ["native"] if supported and native.library("step") else []


def library(opened: Opened) -> list[str]:
    """The reference library, where it is installed and has the architecture."""
    try:
        of(opened.config)
    except FathomError:  # an architecture that only a run folder holds
        return []
    return ["transformers"] if find_spec("transformers") else []
