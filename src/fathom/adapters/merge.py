"""`fathom.merge`: base and adapter as one model: W + delta in place of W, written to files, read back and compared.

Compared are the largest difference of logits, and the KL divergence of the next token.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fathom.adapters import lora
from fathom.adapters.load import adapter_folder, load
from fathom.adapters.lora import add, disable, names, parameters, wrapped
from fathom.adapters.options import LoraOptions
from fathom.adapters.peft_config import CONFIG, read_config
from fathom.anatomy.skeleton import skeleton
from fathom.errors import FathomError
from fathom.families.plain import require_plain
from fathom.families.shapes import weight_shapes
from fathom.fields import plain
from fathom.files import new_folder, sync
from fathom.formats import config_file
from fathom.formats.detect import open_model
from fathom.formats.export import write_model
from fathom.formats.load import DTYPES, STORED, stored_dtype
from fathom.formats.load import load as load_model
from fathom.formats.opened import Opened
from fathom.formats.run import WEIGHTS, write_weights
from fathom.inspect.identities import Residuals, named, off, worst
from fathom.model.transformer import Transformer
from fathom.quant.schemes import in_words
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import Tokenizer

ROWS, LENGTH = 4, 64  # of random tokens, on which logits are compared


@dataclass(frozen=True, repr=False)
class Merged:
    """What was written, and how far it is from base and adapter run unmerged, both computed in fp32."""

    path: Path
    format: str  # hf or run
    dtype: str
    packed: str | None  # how the base was packed for the adapter, which a merged model is not
    untied: bool  # embed and unembed were one matrix
    max_difference: float  # of two logits
    kl: float  # mean KL(unmerged || merged), nats
    effect: float  # the largest difference that the adapter makes to a logit of the base

    def __repr__(self) -> str:
        """As a terminal shows it."""
        lines = [f"{self.path}: {'a run of fathom' if self.format == 'run' else 'Hugging Face'}, {self.dtype}"]
        if self.packed:
            lines.append(
                f"the adapter was trained on the model in {in_words(self.packed)}: it was added to those weights"
            )
        if self.untied:
            lines.append("embed and unembed were one matrix and are two now: the adapter changes one of them")
        lines.append(f"the adapter changes logits by up to {self.effect:.3g}")
        measured = f"max |Δlogit| {self.max_difference:.2e}, KL {self.kl:.2e} nats"
        return "\n".join([*lines, f"merged against unmerged, in fp32: {measured}"])


def merge(
    model: str | Path,
    adapter: str | Path,
    out: str | Path,
    scale: float = 1.0,
    dtype: str = "auto",
    device: str = "auto",
) -> Merged:
    """Write a model with an adapter in its weights: one that needs no adapter any more. The two are compared.

        >>> fathom.merge("runs/base", "runs/finetune", "merged")

    model: the path of the base, in any format. adapter: an adapter's folder, or the run of fine-tuning that holds it.
    out: a new folder: a run where the base is one, else a folder of Hugging Face. scale: by how much the adapter
    counts. dtype: auto (as the base is stored; 16 bits where it is quantised), fp32, bf16 or fp16.

    Returns where it is and how far its logits are from those of base and adapter run unmerged. FathomError where `out`
    holds something, numbers overflow, or as `fathom.load` does.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise FathomError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    if not math.isfinite(scale):
        raise FathomError(f"scale is {scale}; expected a finite number, such as 0.5")
    opened, packed = open_model(model), read_config(adapter_folder(Path(adapter)) / CONFIG).quantize or None
    target = DTYPES[dtype] or default_dtype(opened, packed)
    network, tokenizer = load(model, "fp32", device, packed, adapter=adapter)
    (name,) = names(network)
    disable(network)
    base = sample_logits(network)
    lora.scale(network, name, scale)
    unmerged, new = sample_logits(network), merged_copy(network, target)
    if not all(x.isfinite().all() for x in (unmerged, *new.state_dict().values())):
        raise FathomError(f"merged as {str(target)[6:]} the model has infinite numbers; use a smaller scale or fp32")
    del network
    kind = "run" if opened.names == "ours" else "hf"
    if kind == "run":
        write_run(out, new, tokenizer)
    else:
        write_model(new, tokenizer, "hf", out, source=folder_of(opened))
    difference, kl = compare(unmerged, sample_logits(load_model(out, "fp32", device)[0]))
    untied = opened.config.tie_embeddings and not new.config.tie_embeddings
    return Merged(out, kind, str(target)[6:], packed, untied, difference, kl, compare(base, unmerged)[0])


def folder_of(opened: Opened) -> Path | None:
    """The Hugging Face folder that a model lies in; None: it is in files of another format."""
    return None if opened.names != "hf" else opened.path if opened.path.is_dir() else opened.path.parent


def default_dtype(opened: Opened, packed: str | None) -> torch.dtype:
    """As most of the base is stored; bfloat16 where the adapter was trained on a quantised base, or the file is one."""
    quantised = packed is not None or any(x.kind not in STORED and x.kind != "F64" for x in opened.tensors.values())
    stored = stored_dtype(opened)
    return stored if stored.itemsize == 2 or not quantised else torch.bfloat16


@torch.no_grad()
def sample_logits(model: Transformer) -> Tensor:
    """Logits (b, t, V) for the same random tokens each time."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (ROWS, min(LENGTH, config.context_length)), generator=generator)
    return model(ids.to(model.embed.weight.device)).double().cpu()


def compare(reference: Tensor, logits: Tensor) -> tuple[float, float]:
    """The largest |difference|, and the mean KL(reference || logits) in nats."""
    p, q = reference.log_softmax(-1), logits.log_softmax(-1)
    return float((reference - logits).abs().max()), float((p.exp() * (p - q)).sum(-1).mean())


def write_run(out: Path, model: Transformer, tokenizer: Tokenizer | None) -> None:
    """Our own format: what `fathom train` writes, without how it was trained. FathomError as `require_plain`."""
    require_plain(model)
    with new_folder(out) as partial:
        config_file.write_config(partial / config_file.CONFIG, {"model": plain(model.config)})
        write_weights(model, partial / WEIGHTS)
        if tokenizer is not None:
            tokenizers.save(tokenizer, partial / tokenizers.FILE)
        for file in partial.iterdir():
            sync(file)


def merged_copy(model: Transformer, dtype: torch.dtype | None = None) -> Transformer:
    """A plain model with the logits of this one and its active adapters; every layer is in floats. Unchanged weights
    are shared. dtype None: as it is. Where only one of two tied matrices has an adapter, they are untied.
    FathomError where a part was exchanged for one that computes something else."""
    require_plain(model)
    return in_floats(model, dtype)


def in_floats(model: Transformer, dtype: torch.dtype | None = None) -> Transformer:
    """The same of a model whose parts were exchanged for others that compute what they did."""
    config = model.config
    if config.tie_embeddings and not alike(model.unembed.weight, model.embed.weight):
        config = replace(config, tie_embeddings=False)
    state: dict[str, Tensor] = {}
    for layer, part in wrapped(model).items():
        if isinstance(part.base, nn.Linear) and part.bias is not None and f"{layer}.bias" not in weight_shapes(config):
            raise FathomError(f"{layer} has a bias with the adapter (lora_bias), and none without; run it unmerged")
    for name in weight_shapes(config):
        owner, _, kind = name.rpartition(".")
        state[name] = getattr(model.get_submodule(owner), kind).detach()
    new = skeleton(config)
    new.load_state_dict({name: x.to(dtype or x.dtype) for name, x in state.items()}, strict=False, assign=True)
    if config.tie_embeddings:
        new.unembed.weight = new.embed.weight
    return new.to(model.embed.weight.device).eval()


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether they are one matrix, or hold the same numbers, as a packed `unembed` does that was tied."""
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


@torch.no_grad()
def adapter_is_its_delta(model: Transformer, ids: Tensor, rank: int = 3, alpha: float = 5.0) -> Residuals:
    """An identity as those in `inspect.identities`, for LoRA on all linear layers of a copy of the model: at init it
    changes nothing; with random numbers merged = unmerged, and its delta is alpha / r b a, of rank r at most."""
    adapted = copy.deepcopy(model)
    add(adapted, LoraOptions(rank=rank, alpha=alpha))
    start = off(adapted(ids), model(ids))
    for parameter in parameters(adapted):
        parameter.normal_(std=0.1)
    changes, ranks = [], []
    for part in wrapped(adapted).values():
        adapter, delta = part.adapters["default"], part.delta("default")
        changes.append(off(delta, alpha / rank * adapter.b @ adapter.a))  # type: ignore[operator]
        ranks.append(float(max(0, torch.linalg.matrix_rank(delta).item() - rank)))
    logits = adapted(ids)
    lora.merge(adapted)
    return named("adapter_is_its_delta", start, off(adapted(ids), logits), worst(changes), worst(ranks))
