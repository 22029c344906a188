"""`fathom generate MODEL`: the prompt and its continuation on stdout, as they are written."""

import sys
from pathlib import Path
from typing import Any

import click

from fathom.cli.choices import LINES, choices, chosen
from fathom.cli.options import answer, verb
from fathom.errors import FathomError


@verb("generate", f"Continue a prompt with the model in MODEL, a run of `fathom train`. {LINES}")
@click.argument("model")
@click.option("-p", "--prompt", default="", help="The text to continue; `-` reads stdin, FILE:path a file.")
@click.option("--num-samples", metavar="N", help="Several continuations, side by side in one batch.")
@click.option("--echo/--no-echo", default=True, help="Print the prompt too.")
@choices
def command(model: str, prompt: str, echo: bool, verbose: bool, as_json: bool, **call: Any) -> None:
    from fathom.formats.load import load, needed
    from fathom.generate.generate import stream
    from fathom.generate.tell import tell
    from fathom.machine import describe

    options = chosen(call)
    text = read_prompt(prompt)
    network, tokenizer = load(model, dtype=call["dtype"] or "auto", device=call["device"] or "auto")
    running = stream(network, needed(tokenizer, model), text, options)
    click.echo(f"{describe(network.embed.weight.device)}, {str(network.embed.weight.dtype)[6:]}", err=True)
    out = sys.stderr if as_json else sys.stdout

    def write(piece: str) -> None:
        out.write(piece)
        out.flush()

    completions = tell(running, write, echo)
    write("\n")
    if verbose:
        click.echo(f"{options.describe()}; {running.facts.describe()}", err=True)
    if as_json:
        facts = {"samplers": options.describe(), **vars(running.facts)}
        answer({"completions": [vars(completion) for completion in completions], "facts": facts})


def read_prompt(prompt: str) -> str:
    """The prompt itself, all of stdin for `-`, or a file's text for FILE:path."""
    if prompt != "-" and not prompt.startswith("FILE:"):
        return prompt
    path = Path(prompt.removeprefix("FILE:"))
    text = sys.stdin.buffer.read() if prompt == "-" else path.read_bytes()
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        where = "stdin" if prompt == "-" else path
        raise FathomError(f"{where} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
