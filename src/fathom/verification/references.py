"""What a model is compared with: itself computed the plain way, itself with a cache, another library, another file.

Each reference is a function from ids to logits. Two sets of logits are compared by four numbers.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fathom.adapters.merge import merged_copy
from fathom.anatomy.swap import parts, swap
from fathom.backend.inference import InferenceModel, cache_for, prepare_for_inference
from fathom.errors import FathomError, near
from fathom.families.registry import of
from fathom.formats.convert import from_ours
from fathom.formats.detect import open_model
from fathom.formats.export import write_model
from fathom.formats.load import read
from fathom.formats.opened import Opened
from fathom.model.attention import Attention, attend
from fathom.model.config import Experts
from fathom.model.transformer import Transformer
from fathom.native.build import status
from fathom.quant.linear import QuantLinear

Logits = Callable[[Tensor], Tensor]  # ids (t,) -> (t, V) float32


@dataclass(frozen=True)
class Tolerance:
    """What rounding alone may do. `relative` is of 1 + the largest |logit|; kl in nats."""

    relative: float
    kl: float


# What fp32 sums in another order differ by, measured over random models, is below 2e-6; bf16 keeps 8 bits of each
# number, fp16 11, through every layer.
TOLERANCES = {
    torch.float32: Tolerance(2e-5, 1e-6),
    torch.float16: Tolerance(2e-2, 1e-3),
    torch.bfloat16: Tolerance(1e-1, 2e-2),
}


@dataclass(frozen=True)
class Comparison:
    """A model against one reference, over every position of every prompt."""

    reference: str
    about: str
    tokens: int
    max_difference: float  # of two logits
    largest_logit: float
    kl: float  # mean KL(reference || model), nats
    top1: float  # share of positions at which both find the same token likeliest
    tolerance: Tolerance | None  # None: the weights differ, and the difference is reported without a verdict

    @property
    def allowed(self) -> float | None:
        """The largest difference of two logits that rounding may make."""
        return None if self.tolerance is None else self.tolerance.relative * (1 + self.largest_logit)

    @property
    def passed(self) -> bool:
        """Never true of NaN."""
        if self.tolerance is None or self.allowed is None:
            return self.max_difference == self.max_difference
        return self.max_difference <= self.allowed and self.kl <= self.tolerance.kl


@torch.no_grad()
def compare(
    name: str, about: str, model: Logits, reference: Logits, prompts: Sequence[Tensor], tolerance: Tolerance | None
) -> Comparison:
    """Both on the same prompts, each ids (t,)."""
    tokens, difference, largest, kl, same = 0, 0.0, 0.0, 0.0, 0
    for ids in prompts:
        ours, theirs = model(ids).double().cpu(), reference(ids).double().cpu()  # (t, V)
        difference = max_of(difference, (ours - theirs).abs().max())
        largest = max_of(largest, theirs.abs().max())
        p, q = theirs.log_softmax(-1), ours.log_softmax(-1)
        kl += float((p.exp() * (p - q)).sum())
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        tokens += len(ids)
    return Comparison(name, about, tokens, difference, largest, kl / tokens, same / tokens, tolerance)


def max_of(so_far: float, value: Tensor) -> float:
    """The larger one; NaN where one is NaN."""
    return float(torch.maximum(torch.tensor(so_far, dtype=value.dtype), value))


KNOWN = ("naive", "cache", "native", "transformers", "file:OTHER")


@dataclass(frozen=True)
class Reference:
    """Logits with a name, a description for the certificate, and the dtype that they are computed in."""

    name: str
    about: str
    dtype: torch.dtype
    logits: Logits


def whole(model: Transformer) -> Logits:
    """One pass over all of the ids, as training and prefill do it."""
    return lambda ids: model(ids.to(model.embed.weight.device)[None])[0].float()


def reference(name: str, opened: Opened, model: Transformer) -> Reference:
    """The reference of that name for a model that was opened and loaded."""
    kind, _, other = name.partition(":")
    if kind == "file" and other:
        return from_file(other, model)
    if name not in MAKERS:
        raise FathomError(f"no reference {name!r}{near(name, KNOWN, then='choose')} from {', '.join(KNOWN)}")
    return MAKERS[name](opened, model)


def naive(opened: Opened, model: Transformer) -> Reference:
    """The file read again in fp32, with attention step by step and no cache; of a packed model its unpacked weights."""
    packed = any(isinstance(part, QuantLinear) for part in model.modules())
    plain = unpacked(model) if packed else read(opened, torch.float32)
    swap(plain, attend=attend, names=parts(plain, Attention))
    about = f"fp32, {'weights unpacked, ' * packed}attention written out, no cache, cpu"
    return Reference("naive", about, torch.float32, whole(plain))


def unpacked(model: Transformer) -> Transformer:
    """A copy of the model with its weights in fp32."""
    return merged_copy(model, torch.float32).cpu()


def cached(opened: Opened, model: Transformer) -> Reference:
    """The model itself, reading in chunks of random length into a cache."""
    about = "the model itself, in random chunks into a cache"
    return Reference("cache", about, model.embed.weight.dtype, in_chunks(model))


def native(opened: Opened, model: Transformer) -> Reference:
    """The model as it generates: a copy prepared for inference, in chunks of random length into a cache."""
    prepared = prepare_for_inference(deepcopy(model))
    if not isinstance(prepared, InferenceModel):
        raise FathomError(f"{status()}, or the model is in fp16 on a CPU; leave native out of --against")
    about = f"{prepared.status}, in random chunks into a cache"
    return Reference("native", about, model.embed.weight.dtype, in_chunks(prepared))


def in_chunks(model: Transformer) -> Logits:
    """Passes over pieces of random length, each with all before it in the cache."""
    chance = torch.Generator().manual_seed(0)

    def logits(ids: Tensor) -> Tensor:
        device = model.embed.weight.device
        cache, pieces, at = cache_for(model, 1, len(ids)), [], 0
        while at < len(ids):
            length = int(torch.randint(1, 33, (), generator=chance))
            pieces.append(model(ids[at : at + length].to(device)[None], cache)[0].float())
            at += length
        return torch.cat(pieces)

    return logits


def transformers(opened: Opened, model: Transformer) -> Reference:
    """The reference library: from the same files where it can read them, else with our weights under its names."""
    library = require_transformers()
    library.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    theirs, about, dtype = None, "fp32, from the same files", torch.float32
    if opened.names == "hf" and opened.path.is_dir() and not opened.packed:
        theirs = from_files(library, opened.path)
    elif opened.names == "hf" and opened.path.is_dir():
        theirs, dtype = unpacked_by(library, opened.path), torch.bfloat16
        about = "from the same files, unpacked by the library"
    if theirs is None:
        theirs, about, dtype = (
            with_our_weights(library, opened),
            "fp32, with the weights as we read them",
            torch.float32,
        )
    loaded: Any = theirs.eval()
    if getattr(loaded, "_can_set_experts_implementation", bool)():  # since transformers 5
        loaded.set_experts_implementation("eager")  # the others need widths that are multiples of 16 bytes
    name = f"transformers {version('transformers')}"
    return Reference(name, about, dtype, lambda ids: loaded(ids[None]).logits[0].float())


def from_files(library: Any, path: Path, **arguments: Any) -> Any:
    """The library's model of a folder, in fp32."""
    load = library.AutoModelForCausalLM.from_pretrained
    return load(path, dtype=torch.float32, local_files_only=True, **arguments)


def unpacked_by(library: Any, path: Path) -> Any:
    """The library's floats of a quantised folder, rounded as it rounds them; None where it cannot unpack it here: many
    methods need a package or a GPU, and tensors that it does not know, such as scales, it leaves out."""
    try:
        theirs, about = from_files(library, path, output_loading_info=True)
        if about["unexpected_keys"] or about["missing_keys"]:
            return None
        method = getattr(getattr(theirs, "hf_quantizer", None), "quantization_config", None)
        theirs = theirs.dequantize(dtype=torch.float32) if "BitsAndBytes" in type(method).__name__ else theirs
        return theirs.float()
    except Exception:  # of packages that read one method each
        return None


def require_transformers() -> Any:
    """The library; FathomError where it is not installed."""
    try:
        return import_module("transformers")
    except ImportError:
        raise FathomError(
            "transformers is not installed; pip install 'fathom-lm[peers]', or leave it out of --against"
        ) from None


def with_our_weights(library: Any, opened: Opened) -> Any:
    """The library's model of this config, with our tensors under its names."""
    ours = read(opened, torch.float32)
    if isinstance(ours.config.mlp, Experts):  # the library's tensors hold all experts, its files one each
        return through_files(library, ours)
    family = of(ours.config)
    settings = family.write("hf", ours.config)
    config, model = (getattr(library, name) for name in family.classes)
    theirs = model(
        config(**{key: value for key, value in settings.items() if key not in ("model_type", "architectures")})
    )
    stored = from_ours(ours.config, ours.state_dict(), "hf")
    differences = theirs.load_state_dict(stored, strict=False)
    if differences.unexpected_keys or set(differences.missing_keys) - {"lm_head.weight"}:
        return through_files(library, ours)
    theirs.tie_weights()
    return theirs


def through_files(library: Any, ours: Transformer) -> Any:
    """The library's model of files with our weights, whose tensors its version may call otherwise than its files do."""
    with TemporaryDirectory() as folder:
        write_model(ours, None, "hf", Path(folder) / "model")
        theirs, about = from_files(library, Path(folder) / "model", output_loading_info=True)
    if wrong := [*about["unexpected_keys"], *about["missing_keys"]]:
        raise FathomError(f"transformers {version('transformers')} has other names of tensors: {', '.join(wrong[:3])}")
    return theirs


def from_file(path: str, model: Transformer) -> Reference:
    """Another file of what should be the same model."""
    opened = open_model(path)
    theirs = read(opened)
    if theirs.config.vocab_size != model.config.vocab_size:
        raise FathomError(
            f"{path} has {theirs.config.vocab_size:,} tokens and the model {model.config.vocab_size:,}; they cannot be"
            " compared"
        )
    mine, other = model.state_dict(), theirs.state_dict()
    equal = sum(name in other and torch.equal(mine[name].cpu(), other[name]) for name in mine)
    about = f"{opened.format}; {equal} of {len(mine)} tensors equal to the bit"
    return Reference(f"file:{Path(path).name}", about, theirs.embed.weight.dtype, whole(theirs))


MAKERS: dict[str, Callable[[Opened, Transformer], Reference]] = {
    "naive": naive,
    "cache": cached,
    "native": native,
    "transformers": transformers,
}
