"""What every panel's tests share: models to look at, and that the number on the page is the number in Python."""

import contextlib
import io
import json
import struct
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import fathom
from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.glass.panel import Panel, Series
from fathom.glass.passes import Pass
from fathom.glass.subject import Subject
from fathom.model.config import ModelConfig
from fathom.quant.model import quantize_model
from tests.architectures import LLAMA, ids_for, model_of


def a_pass(config: ModelConfig, t: int = 12, tokenizer: Any = None) -> Pass:
    """A pass of random ids through a random model, in fp32 and evaluation mode."""
    model = model_of(config).eval()
    return Pass(Subject("small", model, tokenizer), ids_for(config, 1, t))


def changed_pass(kind: str) -> Pass:
    """A pass through a packed model (int8), or through one with an adapter that changes it (adapted)."""
    run = a_pass(replace(LLAMA, d_model=32, head_dim=8))
    if kind == "int8":
        quantize_model(run.model, "int8")
    else:
        lora.add(run.model, LoraOptions(rank=2, targets=("blocks.*.attn.*",)))
        for parameter in lora.parameters(run.model):
            torch.nn.init.normal_(parameter, std=0.3)
    return run


def printed(run: Pass, series: Series, *at: int) -> float:
    """What the snippet of one number prints, run with the model of the pass."""
    names = {"fathom": fathom, "torch": torch, "model": run.model, "ids": run.ids, "tokenizer": run.subject.tokenizer}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(series.program(*at), names)
    return float(out.getvalue())


def differs_in_python(run: Pass, panel: Panel, places: int = 3, within: float = 1e-6) -> dict[str, tuple[float, float]]:
    """The series whose snippet prints another number than the page shows, at some places of each: {} if all agree."""
    wrong = {}
    for name, series in panel.series.items():
        shape = series.values.shape
        for n in range(places if series.values.numel() else 0):
            at = [int(index) for index in torch.unravel_index(torch.tensor(n * 7919 % series.values.numel()), shape)]
            shown, said = float(series.values[tuple(at)]), printed(run, series, *at)
            if not (
                abs(shown - said) <= within * max(1, abs(said)) or (shown != shown and said != said) or shown == said
            ):
                wrong[f"{name}{at}"] = (shown, said)
    return wrong


def decoded(payload: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors of a panel's bytes, read as the page reads them."""
    (length,) = struct.unpack("<Q", payload[:8])
    header = json.loads(payload[8 : 8 + length])
    types = {"F32": torch.float32, "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64}
    about = json.loads(header.pop("__metadata__")["panel"])
    data = payload[8 + length :]
    tensors = {
        name: torch.frombuffer(bytearray(data[slice(*one["data_offsets"])]), dtype=types[one["dtype"]]).view(
            one["shape"]
        )
        for name, one in header.items()
        if one["data_offsets"][0] < one["data_offsets"][1]
    }
    return about, tensors
