"""Options of every verb, options made from the fields of a dataclass, and those that `generate` and `chat` share.

`-` and `_` are the same in option names. An option that is not given is None, so that presets and files take precedence
over defaults. Does not import torch.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fathom.fields import build
from fathom.generation.options import ORDER, GenerateOptions

if TYPE_CHECKING:
    from fathom.model.transformer import Transformer
    from fathom.tokenizer.protocol import Tokenizer


F = TypeVar("F", bound=Callable[..., Any])
CONTEXT = {"help_option_names": ["-h", "--help"], "token_normalize_func": lambda name: name.replace("_", "-")}


def verb(name: str, help: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorator: the function as a verb, with the common options."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        for option in reversed(COMMON):
            function = option(function)
        return click.command(name, help=help, context_settings={**CONTEXT, **settings})(function)

    return decorate


COMMON = [
    click.option("--seed", type=click.IntRange(0), help="For everything random."),
    click.option("--device", help="auto, cpu, cuda or mps."),
    click.option("--dtype", help="auto, fp32, bf16 or fp16."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line of stdout."),
    click.option("--debug", is_flag=True, help="Show the traceback of an error."),
]


def from_fields(
    section: str, cls: type, names: Mapping[str, Sequence[str]], without: Collection[str] = ()
) -> Callable[[F], F]:
    """Decorator: an option `--section.field-name` for every field of a dataclass, and aliases that users already
    type."""

    def decorate(function: F) -> F:
        for field in reversed([field for field in dataclasses.fields(cls) if field.name not in without]):
            main = f"--{section}.{field.name.replace('_', '-')}"
            declarations = [*names.get(field.name, ()), main, f"{section}__{field.name}"]
            default = field.default if field.default is not dataclasses.MISSING else "from the tokenizer"
            function = click.option(*declarations, metavar="VALUE", help=f"{default}")(function)
        return function

    return decorate


def fields_of(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The given options of this section, by field name."""
    start = f"{section}__"
    return {name[len(start) :]: v for name, v in values.items() if name.startswith(start) and v is not None}


def print_json(value: Mapping[str, Any]) -> None:
    """Write the result as one line of JSON on stdout."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


LINES = (
    "How the next token is chosen: repetition penalty, temperature, top-k, top-p, min-p, in the order of --samplers."
)
CHOICES = [
    click.option("-n", "--max-new-tokens", "--max-tokens", "-m", "max_new_tokens", metavar="N", help="default 256"),
    click.option("-t", "--temperature", "--temp", "temperature", metavar="T", help="0 is greedy; default 1"),
    click.option("--top-k", metavar="K", help="Keep the K likeliest tokens."),
    click.option("--top-p", metavar="P", help="Keep the likeliest tokens whose probabilities reach P."),
    click.option("--min-p", metavar="P", help="Keep tokens at least P times as likely as the likeliest."),
    click.option("--repetition-penalty", metavar="X", help="Above 1: penalise tokens already in the text."),
    click.option("--samplers", metavar="NAMES", help=f"Order of samplers; default {','.join(ORDER)}"),
    click.option("--stop", multiple=True, metavar="TEXT", help="Stop before this text; repeatable."),
    click.option("--past-context", metavar="HOW", help="When the context is full: slide, stop or extend."),
    click.option("--quantize", metavar="KIND", help="Pack the matrices of the blocks as int8, int4 or nf4."),
    click.option(
        "--rope-scaling", metavar="KIND:FACTOR", help="For longer contexts: linear, llama3 or yarn, such as yarn:4."
    ),
    click.option("--cache/--no-cache", default=True, help="Use the KV cache, or recompute everything for each token."),
    click.option("--speculate", metavar="HOW", help="lookup: prompt lookup; same output, faster."),
    click.option("--draft", metavar="MODEL", help="A draft model with the same vocabulary."),
    click.option("--adapter", multiple=True, metavar="FOLDER", help="Adapter folder; several are added."),
    click.option("-v", "--verbose", is_flag=True, help="Print the order of samplers too, on stderr."),
]


def generation_options(function: F) -> F:
    """Decorator: add the options of generation to a verb."""
    for option in reversed(CHOICES):
        function = option(function)
    return function


def load_for_generation(model: str, call: Mapping[str, Any]) -> "tuple[Transformer, Tokenizer, str]":
    """The model of a call prepared for inference, its tokenizer, and a line that says how it runs."""
    from fathom.adapters.load import load
    from fathom.backend.inference import InferenceModel
    from fathom.formats.tokenizer import require_tokenizer
    from fathom.native.build import library, status

    dtype, device, adapter = call["dtype"] or "auto", call["device"] or "auto", call["adapter"]
    network, tokenizer = load(model, dtype, device, call["quantize"], call["rope_scaling"], adapter)
    tokenizer, line, network = require_tokenizer(tokenizer, model), describe_run(network, call), prepared(network, call)
    if isinstance(network, InferenceModel):
        line += f", {network.status}"
    elif library("step") is None:
        line += f", {status()}"
    return network, tokenizer, line


def prepared(network: "Transformer", call: Mapping[str, Any]) -> "Transformer":
    """The model prepared for inference; with --no-cache the plain model, which is the reference."""
    from fathom.backend.inference import prepare_for_inference
    from fathom.native.build import will_compile

    if not call["cache"]:
        return network
    if network.embed.weight.is_cpu and will_compile("panels", "step", "attention"):
        click.echo("compiling native code for this machine: once, and kept", err=True)
    return prepare_for_inference(network)


def load_draft(call: Mapping[str, Any], tokenizer: "Tokenizer") -> "Transformer | None":
    """The draft model of a call, loaded like the model; None where no --draft is given."""
    from fathom.formats.load import load
    from fathom.generation.speculative import check_tokens

    if call["draft"] is None:
        return None
    network, theirs = load(call["draft"], call["dtype"] or "auto", call["device"] or "auto", call["quantize"])
    if theirs is not None:
        check_tokens(tokenizer, theirs)
    return prepared(network, call)


def describe_run(network: "Transformer", call: Mapping[str, Any]) -> str:
    """Device, dtype, packing and adapters of a model, as one line."""
    from fathom.adapters import lora
    from fathom.machine import describe
    from fathom.quant.model import scheme_of

    scheme = call["quantize"] or scheme_of(network)  # a QLoRA run is packed as it was trained
    packed = f", {scheme}" if scheme else ""
    packed += "".join(f", adapter {folder}" for folder in call["adapter"])
    packed += ", with the run's adapter" if not call["adapter"] and lora.names(network) else ""
    packed += f", draft {call['draft']}" if call["draft"] else ""
    return f"{describe(network.embed.weight.device)}, {str(network.embed.weight.dtype)[6:]}{packed}"


def generate_options(call: Mapping[str, Any]) -> GenerateOptions:
    """The GenerateOptions of a call, validated."""
    known = {key: value for key, value in call.items() if key in GenerateOptions.__dataclass_fields__}
    given = {key: value for key, value in known.items() if value not in (None, ())}
    return build(GenerateOptions, given | {"use_cache": call["cache"]}, "generate")
