"""`fathom generate MODEL`: the prompt and its continuation on stdout, as they are generated."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.cli.generation import (
    RUNNING,
    SAMPLING,
    effective,
    generation_options,
    get_ready,
)
from fathom.cli.options import from_fields, model_argument, option, print_json, verb
from fathom.cli.streams import say
from fathom.generation.options import GenerateOptions

if TYPE_CHECKING:
    from fathom.tokenizer.protocol import Tokenizer


GROUPS = {"Prompt": "prompt chat echo", "Sampling": f"{SAMPLING} num_samples", "Model": RUNNING}
PROMPT = "Text to continue; - reads stdin, FILE:PATH a file."


@verb(
    "generate",
    "Continue a prompt with a model of any format: a run folder, a Hugging Face or GGUF file, a name on the hub.",
    groups=GROUPS,
    example='fathom generate runs/demo -p "Once upon a time" -n 100',
    effective=effective,
    hint="-p",
)
@model_argument
@option("-p", "--prompt", multiple=True, metavar="TEXT", help=PROMPT)
@option("--chat", is_flag=True, help="Put the prompt in the model's chat template, as a user's message.")
@option("--echo/--no-echo", default=None, shown="on, off with --chat", help="Print the prompt too.")
@from_fields("", GenerateOptions, {"num_samples": ("--num-samples",)})
@generation_options
def generate_command(
    model: str, prompt: tuple[str, ...], chat: bool, echo: bool | None, verbose: bool, as_json: bool, **call: Any
) -> None:
    from fathom.generation.generate import show
    from fathom.running.generate import stream

    texts = [read_prompt(text) for text in prompt or ("",)]
    network, tokenizer, options, draft, how = get_ready(model, call)
    prompts = texts if not chat else [chat_prompt(tokenizer, text) for text in texts]
    if chat:
        options = replace(options, stop=(*options.stop, *turn_stops(tokenizer)))
    running = stream(network, tokenizer, prompts, options, draft)
    say(how, err=True)
    out = sys.stderr if as_json else sys.stdout

    def write(piece: str) -> None:
        out.write(piece)
        out.flush()

    completions = show(running, write, echo=not chat if echo is None else echo)
    write("\n")
    say(f"{options.describe() + '; ' if verbose else ''}{running.stats.describe()}", err=True)
    if as_json:
        facts = {"samplers": options.describe(), **vars(running.stats)}
        print_json({"completions": [vars(completion) for completion in completions], "facts": facts})


def chat_prompt(tokenizer: "Tokenizer", text: str) -> list[int]:
    """The ids of a question in the chat template, up to where the answer begins."""
    from fathom.tokenizer.message import Message
    from fathom.tokenizer.template import render

    return render(tokenizer, [Message("user", text)], reply=True).ids


def turn_stops(tokenizer: "Tokenizer") -> tuple[str, ...]:
    """Texts that begin another speaker's turn, for templates whose turns no token ends."""
    from fathom.tokenizer.template import STOPS, template_for

    return STOPS.get(template_for(tokenizer), ())


def read_prompt(prompt: str) -> str:
    """The prompt as given, stdin for `-`, a file's text for FILE:path: read as training reads text."""
    from fathom.tokenizer.typed import decoded_text, uniform

    if prompt != "-" and not prompt.startswith("FILE:"):
        return uniform(prompt)
    path = Path(prompt.removeprefix("FILE:"))
    return decoded_text(*((sys.stdin.buffer.read(), "stdin") if prompt == "-" else (path.read_bytes(), str(path))))
