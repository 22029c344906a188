"""What `generate` and `chat` share: their options, and a model loaded as these ask."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fathom.cli.command import in_words
from fathom.cli.options import from_fields, given_fields, option
from fathom.fields import build
from fathom.generation.options import GenerateOptions

if TYPE_CHECKING:
    from fathom.model.transformer import Transformer
    from fathom.tokenizer.protocol import Tokenizer

F = TypeVar("F", bound=Callable[..., Any])

NAMES = {
    "max_new_tokens": ("-n", "--max-new-tokens", "--max-tokens", "-m"),
    "temperature": ("-t", "--temperature", "--temp"),
    "top_k": ("--top-k",),
    "top_p": ("--top-p",),
    "min_p": ("--min-p",),
    "repetition_penalty": ("--repetition-penalty",),
    "presence_penalty": ("--presence-penalty",),
    "frequency_penalty": ("--frequency-penalty",),
    "samplers": ("--samplers",),
    "stop": ("--stop",),
    "seed": ("--seed",),
    "past_context": ("--past-context",),
    "use_cache": ("--cache/--no-cache",),
    "speculate": ("--speculate",),
}
METAVARS = {"temperature": "T", "top_k": "K", "top_p": "P", "min_p": "P", "samplers": "NAMES"}
DTYPE = "Number format of the weights; auto: as stored."
HANDWRITTEN = [
    option("--adapter", multiple=True, metavar="FOLDER", help="LoRA adapter to add to the model."),
    option(
        "--quantize",
        metavar="NAME",
        choices=("int8", "int4", "nf4", "keep"),
        help="Pack the matrices of the blocks; keep: as the file has them.",
    ),
    option("--device", metavar="NAME", choices=("auto", "cpu", "cuda", "mps"), shown="auto", help="Where to run."),
    option("--dtype", metavar="NAME", choices=("auto", "fp32", "bf16", "fp16"), shown="auto", help=DTYPE),
    option("--rope-scaling", metavar="KIND:FACTOR", help="Longer contexts: linear, llama3 or yarn, such as yarn:4."),
    option("--draft", metavar="MODEL", help="Speculative decoding: a small model with the same vocabulary."),
    option("-v", "--verbose", is_flag=True, help="Print the order of samplers too."),
]
SAMPLING = "max_new_tokens temperature top_k top_p seed stop"
RUNNING = "adapter quantize device"


def generation_options(function: F) -> F:
    """Decorator: add the options of generation to a verb."""
    for add in reversed(HANDWRITTEN):
        function = add(function)
    settings = {name: {"metavar": metavar} for name, metavar in METAVARS.items()}
    settings["samplers"]["shown"] = "the penalties as above, temperature, top_k, top_p, min_p"  # else one long word
    return from_fields("", GenerateOptions, NAMES, repeated=("stop",), settings=settings)(function)


class Ready(NamedTuple):
    """A model that a call generates with, and how."""

    network: "Transformer"
    tokenizer: "Tokenizer"
    options: GenerateOptions
    draft: "Transformer | None"
    line: str  # where it runs, and what the model's own settings are used for


def effective(values: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that the files of this model recommend."""
    if not isinstance(model := values.get("model"), str):
        return {}
    from fathom.formats.tokenizer import load_tokenizer
    from fathom.generation.recommended import recommended

    fields, _ = recommended(load_tokenizer(model).special.generation)
    return {name: f"{in_words(value)}, the model's own" for name, value in fields.items()}


def get_ready(model: str, call: Mapping[str, Any]) -> Ready:
    """Model, tokenizer, draft and options of a call, the options checked before anything is read."""
    from fathom.generation.generate import changed
    from fathom.generation.recommended import described

    given = given_fields(GenerateOptions, call)
    build(GenerateOptions, given, "generate")
    network, tokenizer, line = load_for_generation(model, call)
    options, own = changed(None, given, tokenizer), described(given, tokenizer.special.generation)
    line += f"; the model's own {own}" if own else ""
    return Ready(network, tokenizer, options, load_draft(call, tokenizer), line)


def load_for_generation(model: str, call: Mapping[str, Any]) -> "tuple[Transformer, Tokenizer, str]":
    """The model of a call prepared for inference, its tokenizer, and a line that says how it runs."""
    from fathom.adapters.load import load
    from fathom.backend.inference import InferenceModel
    from fathom.formats.tokenizer import require_tokenizer
    from fathom.native.build import library, status
    from fathom.running.ready import described

    dtype, device, adapter = call["dtype"] or "auto", call["device"] or "auto", call["adapter"]
    network, tokenizer = load(model, dtype, device, call["quantize"], call["rope_scaling"], adapter)
    tokenizer, line = require_tokenizer(tokenizer, model), described(network, adapter, call["draft"])
    network = prepared(network, call)
    if isinstance(network, InferenceModel):
        line += f", {network.status}"
    elif library("step") is None:
        line += f", {status()}"
    return network, tokenizer, line


def prepared(network: "Transformer", call: Mapping[str, Any]) -> "Transformer":
    """The model prepared for inference; with --no-cache the plain model, which is the reference."""
    from fathom.backend.inference import prepare_for_inference

    return network if call["use_cache"] is False else prepare_for_inference(network)


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
