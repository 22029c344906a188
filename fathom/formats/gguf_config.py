"""What the values in a GGUF file say of a model, and what they should say of ours.

Keys are those of ggml's docs/gguf.md and llama.cpp's llama-arch.cpp. LLaMA 3.1's rotation for long contexts has none:
the converter writes by how much each frequency is stretched, as the tensor rope_freqs.weight, and we read the scaling
back from that. Does not know files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.formats.names import family
from fathom.formats.opened import Stored
from fathom.model.config import ModelConfig, RopeScaling
from fathom.model.position import frequencies

STRETCH = "rope_freqs.weight"
LLAMA3_ORIGINAL = 8192  # the converter's own word where a model does not say for what context it was trained
LARGEST = 1 << 31  # no size of a model is larger
UNKNOWN = {  # keys of models that are not ours, and the value with which they are
    "expert_count": 0,
    "attention.causal": True,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
}
ARCHITECTURES = {
    "llama": {"position": "rope", "norm": "rms", "mlp": "swiglu"},
    "gpt2": {"position": "learned", "norm": "layer", "mlp": "gelu", "bias": True},
}
EPSILON = {"llama": "attention.layer_norm_rms_epsilon", "gpt2": "attention.layer_norm_epsilon"}


@dataclass(frozen=True)
class Values:
    """The metadata of a file, each value checked as it is asked for. `arch` stands before the keys of the model."""

    metadata: Mapping[str, Any]
    arch: str

    def __contains__(self, key: str) -> bool:
        return f"{self.arch}.{key}" in self.metadata

    def get(self, key: str, default: Any, expected: str) -> Any:
        value = self.metadata.get(f"{self.arch}.{key}", default)
        if value is None:
            raise FathomError(f"{self.arch}.{key} is missing; expected {expected}")
        return value

    def wrong(self, key: str, value: Any, expected: str) -> FathomError:
        return FathomError(f"{self.arch}.{key} is {str(value)[:64]!r}; expected {expected}")

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        expected = f"a whole number from {least}"
        value = self.get(key, default, expected)
        if type(value) is not int or not least <= value < LARGEST:
            raise self.wrong(key, value, expected)
        return value

    def number(self, key: str, default: float | None = None, above: float = 0.0) -> float:
        expected = f"a number above {above:g}"
        value = self.get(key, default, expected)
        if type(value) not in (int, float) or not above < value < math.inf:
            raise self.wrong(key, value, expected)
        return float(value)


def config_of(metadata: Mapping[str, Any], tensors: Mapping[str, Stored]) -> ModelConfig:
    """The config of a file. FathomError names the key that is wrong, or that is not of LLaMA or GPT-2.

    Its sizes are those of the tensors: what is built from it is never larger than what lies in the file.
    """
    arch = str(metadata.get("general.architecture"))
    if arch not in ARCHITECTURES:
        raise FathomError(f"general.architecture is {arch[:64]!r}; expected one of {', '.join(ARCHITECTURES)}")
    values = Values(metadata, arch)
    for key, ours in UNKNOWN.items():
        value = values.get(key, ours, "")
        if type(value) is not type(ours) or value != ours:
            raise values.wrong(key, value, f"{ours}; other models are not known here")
    config = _sizes(values, tensors)
    _check_shapes(config, tensors)
    if arch == "gpt2":
        return config
    _check_rotated(values, config)
    config = replace(config, rope_theta=values.number("rope.freq_base", 10_000.0, above=1.0))
    return replace(config, rope_scaling=_scaling(values, config, tensors))


def _sizes(values: Values, tensors: Mapping[str, Stored]) -> ModelConfig:
    d_model, n_head = values.size("embedding_length"), values.size("attention.head_count")
    n_layer = values.size("block_count", least=0)
    if n_layer > len(tensors):
        raise values.wrong("block_count", n_layer, f"at most one layer for each of the {len(tensors)} tensors")
    embed = _shape("token_embd.weight", tensors)
    vocab_size = values.size("vocab_size", embed[0])
    if vocab_size != embed[0]:
        raise values.wrong("vocab_size", vocab_size, f"{embed[0]} as token_embd.weight has rows")
    config = ModelConfig(
        vocab_size=vocab_size,
        context_length=values.size("context_length"),
        d_model=d_model,
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=values.size("attention.head_count_kv", n_head),
        head_dim=values.size("attention.key_length", max(1, d_model // n_head)),
        d_ff=values.size("feed_forward_length"),
        tie_embeddings="output.weight" not in tensors,
        bias="blk.0.attn_q.bias" in tensors,
        norm_eps=values.number(EPSILON[values.arch]),
    )
    return replace(config, **ARCHITECTURES[values.arch])  # type: ignore[arg-type]


def _check_rotated(values: Values, config: ModelConfig) -> None:
    """Every channel of a head is rotated, and v is as wide as q and k."""
    for key in ("rope.dimension_count", "attention.value_length"):
        if values.size(key, config.head_dim) != config.head_dim:
            raise values.wrong(key, values.size(key), f"{config.head_dim} like the channels of a head")


def _check_shapes(config: ModelConfig, tensors: Mapping[str, Stored]) -> None:
    """The tensors that show every size, so that no number in the header can ask for more than the file holds."""
    z = config.resolved()
    expected = {"token_embd.weight": (z.vocab_size, z.d_model)}
    if z.position == "learned":
        expected["position_embd.weight"] = (z.context_length, z.d_model)
    if z.n_layer:
        expected["blk.0.ffn_up.weight"] = (z.d_ff, z.d_model)
    if z.n_layer and z.position == "rope":
        expected["blk.0.attn_q.weight"] = (z.n_head * z.head_dim, z.d_model)
        expected["blk.0.attn_k.weight"] = (z.n_kv_head * z.head_dim, z.d_model)
    for name, shape in expected.items():
        if _shape(name, tensors) != shape:
            raise FathomError(f"{name} is {_shape(name, tensors)}; the file's values say that it is {shape}")


def _shape(name: str, tensors: Mapping[str, Stored]) -> tuple[int, ...]:
    if name not in tensors:
        raise FathomError(f"tensor {name!r} is missing; the file holds no whole model")
    return tensors[name].shape


def _scaling(values: Values, config: ModelConfig, tensors: Mapping[str, Stored]) -> RopeScaling | None:
    """How rotation is stretched. The older key `rope.scale_linear`, or a factor alone, is linear scaling."""
    factor = values.number("rope.scaling.factor", values.number("rope.scale_linear", 1.0))
    kind = str(values.get("rope.scaling.type", "linear" if factor != 1 else "none", ""))
    temperature = values.number("rope.scaling.attn_factor", 1.0)
    original = values.size("rope.scaling.original_context_length", 0, least=0) or None
    if kind not in ("none", "linear", "yarn") or (temperature != 1 and kind != "yarn"):
        raise values.wrong("rope.scaling.type", kind, "none, linear or yarn, and attn_factor with yarn alone")
    if STRETCH in tensors:
        if kind != "none" and factor != 1:
            raise values.wrong("rope.scaling.type", kind, f"none where there is a tensor {STRETCH}")
        return _llama3(values, config, tensors[STRETCH].read(), original)
    if kind == "none" or (kind == "linear" and factor == 1):
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=factor, original_context_length=original)
    scaling = RopeScaling(
        kind="yarn",
        factor=factor,
        original_context_length=original,
        beta_fast=values.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=values.number("rope.scaling.yarn_beta_slow", 1.0),
    )
    if temperature != 1:  # llama.cpp multiplies it onto the usual temperature
        return replace(scaling, attention_factor=_decimal(temperature * (0.1 * math.log(factor) + 1)))
    if "rope.scaling.yarn_attn_factor" in values:  # the converter writes the model's own word, which is all of it
        return replace(scaling, attention_factor=values.number("rope.scaling.yarn_attn_factor"))
    return scaling


def _llama3(values: Values, config: ModelConfig, stretch: Tensor, original: int | None) -> RopeScaling:
    """The scaling that stretches each frequency by `stretch` (c/2,). FathomError where none does."""
    if original is None and config.context_length > LLAMA3_ORIGINAL:
        original = LLAMA3_ORIGINAL
    scaling = RopeScaling(
        kind="llama3",
        factor=_decimal(float(stretch.max())),
        original_context_length=original,
        low_freq_factor=values.number("rope.scaling.low_freq_factor", 1.0),
        high_freq_factor=values.number("rope.scaling.high_freq_factor", 4.0),
    )
    if 0 < scaling.factor < math.inf and scaling.low_freq_factor != scaling.high_freq_factor:
        expected = stretch_of(replace(config, rope_scaling=scaling))
        if stretch.shape == expected.shape and torch.allclose(stretch.float(), expected, rtol=1e-4):
            return scaling
    raise FathomError(
        f"{STRETCH} is not what LLaMA 3.1 does: its factor would be {scaling.factor:g}, its bands "
        f"{scaling.low_freq_factor:g} and {scaling.high_freq_factor:g}, its original context "
        f"{original or config.context_length}; other stretched rotations are not known here"
    )


def stretch_of(config: ModelConfig) -> Tensor:
    """(c/2,) by how much the config's scaling divides each frequency."""
    return frequencies(replace(config, rope_scaling=None).resolved()) / frequencies(config.resolved())


def _decimal(x: float) -> float:
    """Without the rounding of fp32: 8.000001 is 8."""
    return float(f"{x:.6g}")


def metadata_of(config: ModelConfig) -> dict[str, Any]:
    """The values that say what this model is. FathomError where it is neither LLaMA nor GPT-2."""
    z, arch = config.resolved(), family(config)
    said: dict[str, Any] = {
        "vocab_size": z.vocab_size,
        "context_length": z.context_length,
        "embedding_length": z.d_model,
        "block_count": z.n_layer,
        "feed_forward_length": z.d_ff,
        "attention.head_count": z.n_head,
        "attention.head_count_kv": z.n_kv_head,
        EPSILON[arch]: z.norm_eps,
    }
    if arch == "llama":
        said |= {"attention.key_length": z.head_dim, "attention.value_length": z.head_dim}
        said |= {"rope.dimension_count": z.head_dim, "rope.freq_base": z.rope_theta} | _scaling_values(z)
    return {"general.architecture": arch} | {f"{arch}.{key}": value for key, value in said.items()}


def _scaling_values(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {}
    original = scaling.original_context_length
    said: dict[str, Any] = {"original_context_length": original} if original else {}
    if scaling.kind == "llama3":  # llama.cpp reads the tensor alone; the rest is so that we can read it back
        if original is None and config.context_length > LLAMA3_ORIGINAL:
            said["original_context_length"] = config.context_length
        said |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    else:
        said |= {"type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "yarn":
        said |= {"yarn_beta_fast": scaling.beta_fast, "yarn_beta_slow": scaling.beta_slow}
        if scaling.attention_factor is not None:
            said["attn_factor"] = scaling.attention_factor / (0.1 * math.log(scaling.factor) + 1)
    return {f"rope.scaling.{key}": value for key, value in said.items()}
