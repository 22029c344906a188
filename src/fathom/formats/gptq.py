"""GPTQ (Frantar et al. 2022) and AWQ (Lin et al. 2023): whole numbers of 2 to 8 bits, a scale and a zero for a group.

W[i, j] = scale[g, i] * (q[i, j] - zero[g, i]), where g is the group of input channel j. Both store the matrix as
(in, out), in words of 32 bits. GPTQ's codes run along the inputs and its zeros along the outputs, the first in the
lowest bits; AWQ's both run along the outputs, in the order of AWQ_ORDER.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fathom.formats.opened import Stored
from fathom.formats.packed_layer import Method, PackedLayer, Settings, by_groups, codes_in, names, order_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


WORD = 32  # bits
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # which of the eight codes in a word belongs to column 0, 1, ...


def gptq(layer: PackedLayer, settings: Settings) -> Stored:
    """The matrix of a layer in GPTQ's layout. Its bits follow from the tensors: single layers may have others."""
    words = layer.part("qweight", ("I32", "U32"), (0, 0))
    out = words.shape[1]
    width, bits = widths(layer, words, settings)
    scales = layer.floats("scales", (0, out))
    groups = scales.shape[0]
    zeros = layer.part("qzeros", ("I32", "U32"), (groups, -(-out * bits // WORD)))
    version = str(settings.entries.get("checkpoint_format") or settings.entries.get("format") or "gptq")
    symmetric = settings.entries.get("sym") is not False
    if bits == 3 and version == "gptq" and not symmetric:
        raise layer.error(
            "3 bits with sym false and checkpoint_format gptq, which AutoGPTQ and GPTQModel write differently; expected"
            " gptq_v2: convert it with the tool that wrote it"
        )
    if out * bits % WORD or width * bits % WORD or (bits == 3 and (out % WORD or width % WORD)):
        raise layer.error(f"{out} x {width} codes of {bits} bits do not fill words; expected multiples of {WORD}")
    if "g_idx" not in layer.parts and width % groups:
        raise layer.error(f"{groups} groups do not divide {width} inputs; expected g_idx")
    if "g_idx" in layer.parts:
        layer.part("g_idx", ("I32", "I64"), (width,))

    def rows(start: int, stop: int) -> Tensor:
        x = codes_in(words.read().view(torch.int32)[:, start:stop].T, bits).float()
        zero: Tensor | float = 4.0  # of every symmetric layer of 3 bits
        if bits != 3 or version != "gptq":
            zero = zero_points(zeros.read(), bits, version)[:, start:stop].T.float()
        order = order_of(layer, "g_idx", width, groups)
        return by_groups(x, zero, scales.read()[:, start:stop].T.float(), order)

    return layer.matrix(f"GPTQ{bits}", (out, width), rows)


def widths(layer: PackedLayer, words: Stored, settings: Settings) -> tuple[int, int]:
    """Input channels and bits: g_idx has an entry for each channel, and without it the settings say the bits."""
    order = layer.parts.get("g_idx")
    bits = settings.count("bits")
    if order is not None and len(order.shape) == 1 and order.shape[0] and words.shape[0] * WORD % order.shape[0] == 0:
        bits = words.shape[0] * WORD // order.shape[0]
    if bits not in (2, 3, 4, 8) or words.shape[0] * WORD % bits:
        raise layer.error(f"{bits} bits; expected 2, 3, 4 or 8 that fill {words.shape[0]} words")
    return words.shape[0] * WORD // bits, bits


def zero_points(words: Tensor, bits: int, version: str) -> Tensor:
    """(groups, words) -> (groups, out). The first version keeps each zero less one: one is added in every code at once,
    a carry going on into the next, as the subtraction borrowed from it."""
    if version == "gptq":
        ones = sum(1 << bits * i for i in range(WORD // bits))
        words = words.view(torch.int32).long() + ones
        words = torch.where((words := words & 0xFFFFFFFF) >= 1 << 31, words - (1 << 32), words).int()
    return codes_in(words.view(torch.int32), bits)


def awq(layer: PackedLayer, settings: Settings) -> Stored:
    """The matrix of a layer in AWQ's `gemm` layout."""
    words = layer.part("qweight", ("I32", "U32"), (0, 0))
    width, out = words.shape[0], words.shape[1] * 8
    scales = layer.floats("scales", (0, out))
    groups = scales.shape[0]
    zeros = layer.part("qzeros", ("I32", "U32"), (groups, words.shape[1]))
    if width % groups:
        raise layer.error(f"{groups} groups; expected a divisor of {width}, the inputs")

    def rows(start: int, stop: int) -> Tensor:
        span = slice(start // 8, -(-stop // 8))  # words
        inside = slice(start - 8 * span.start, stop - 8 * span.start)
        x, zero = (in_order(part.read().view(torch.int32)[:, span])[:, inside].T.float() for part in (words, zeros))
        return by_groups(x, zero, scales.read()[:, start:stop].T.float(), None)

    return layer.matrix("AWQ4", (out, width), rows)


def in_order(words: Tensor) -> Tensor:
    """(n, words) -> (n, 8 words): codes in the order of the columns."""
    return codes_in(words, 4).unflatten(1, (-1, 8))[..., AWQ_ORDER].flatten(1)


QUANTISER = names(  # what only the quantiser of either needs, or what follows from the tensors
    "bits group_size desc_act sym static_groups true_sequential damp_percent damp_auto_increment model_name_or_path"
    " model_file_base_name use_cuda_fp16 use_exllama exllama_config disable_exllama max_input_length batch_size dataset"
    " tokenizer block_name_to_quantize module_name_preceding_first_block modules_in_block_to_quantize pad_token_id"
    " cache_block_outputs model_seqlen act_group_aware lm_head dynamic meta mse backend modules_to_not_convert"
    " do_fuse fuse_max_seq_len modules_to_fuse uri hyb_act offload_to_disk offload_to_disk_path"
    " auto_forward_data_parallel"
    " failsafe fallback gc_mode process vram_strategy wait_for_submodule_finalizers mock_quantization"
    " compute_device_filter dense_vram_strategy moe moe_vram_strategy gptaq foem v2 v2_alpha scale_search timestamp"
)
GPTQ = Method(
    title="GPTQ",
    marks=("qweight",),
    parts=("qzeros", "scales", "g_idx"),
    unpack=gptq,
    allowed={
        "checkpoint_format": ("gptq", "gptq_v2", None),
        "format": ("gptq", "gptq_v2", None),
        "pack_dtype": ("int32", None),
        "is_marlin_format": (False, None),
        "quant_type": ("int", None),
        "method": ("gptq", None),
    },
    known=QUANTISER,
)
AWQ = Method(
    title="AWQ",
    marks=("qweight",),
    parts=("qzeros", "scales"),
    unpack=awq,
    allowed={
        "bits": (4,),
        "version": ("gemm", "GEMM", None),
        "format": ("gemm", None),
        "zero_point": (True, None),
        "method": ("awq", None),
        "backend": ("autoawq", "auto", "auto-awq", None),
        "pack_dtype": ("int32", None),
    },
    known=QUANTISER,
)
