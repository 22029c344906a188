"""`fathom generate MODEL`: the prompt and its continuation on stdout, as they are written."""

import sys
from pathlib import Path
from typing import Any

import click

from fathom.cli.options import answer, verb
from fathom.errors import FathomError
from fathom.fields import build
from fathom.generate.options import ORDER, GenerateOptions

LINES = (
    "How the next token is chosen: repetition penalty, temperature, top-k, top-p, min-p, in the order of --samplers."
)


@verb("generate", f"Continue a prompt with the model in MODEL, a run of `fathom train`. {LINES}")
@click.argument("model")
@click.option("-p", "--prompt", default="", help="The text to continue; `-` reads stdin, FILE:path a file.")
@click.option("-n", "--max-new-tokens", "--max-tokens", "-m", "max_new_tokens", metavar="N", help="default 256")
@click.option("-t", "--temperature", "--temp", "temperature", metavar="T", help="0 is greedy; default 1")
@click.option("--top-k", metavar="K", help="Only the K likeliest.")
@click.option("--top-p", metavar="P", help="Only the likeliest that reach P together.")
@click.option("--min-p", metavar="P", help="Only those at least P times as likely as the likeliest.")
@click.option("--repetition-penalty", metavar="X", help="Above 1: what was said becomes less likely.")
@click.option("--samplers", metavar="NAMES", help=f"Their order; default {','.join(ORDER)}")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times.")
@click.option("--num-samples", metavar="N", help="Several continuations, side by side in one batch.")
@click.option("--past-context", metavar="HOW", help="When the context is full: slide, stop or extend.")
@click.option("--echo/--no-echo", default=True, help="Print the prompt too.")
@click.option("--cache/--no-cache", default=True, help="Keep keys and values of the past, or work them out anew.")
@click.option("-v", "--verbose", is_flag=True, help="Say the order of samplers and the speed, on stderr.")
def command(model: str, prompt: str, echo: bool, cache: bool, verbose: bool, as_json: bool, **call: Any) -> None:
    from fathom.formats.load import load, needed
    from fathom.generate.generate import stream
    from fathom.generate.tell import tell
    from fathom.machine import describe

    given = {key: value for key, value in call.items() if key in GenerateOptions.__dataclass_fields__}
    given = {key: value for key, value in given.items() if value not in (None, ())} | {"use_cache": cache}
    options = build(GenerateOptions, given, "generate")
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
