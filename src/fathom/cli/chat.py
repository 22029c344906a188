"""`fathom chat MODEL`: a conversation; answers go to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from fathom.cli.completion import models
from fathom.cli.generation import (
    RUNNING,
    SAMPLING,
    effective,
    generation_options,
    get_ready,
)
from fathom.cli.options import given_fields, option, print_json, verb
from fathom.cli.streams import say
from fathom.errors import FathomError, near
from fathom.fields import build
from fathom.words import counted

if TYPE_CHECKING:
    from fathom.generation.chat import Conversation
    from fathom.tokenizer.template import Extras


COMMANDS = {
    "/help": "show this",
    "/reset": "start again, keeping the system prompt",
    "/system": "TEXT: set the system prompt and start again; without TEXT remove it",
    "/save": "FILE: write the conversation as JSON",
    "/load": "FILE: continue a saved conversation",
    "/quit": "end, as Ctrl-D and Ctrl-C do",
}
HELP = "\n".join(f"{name:<8} {text}" for name, text in COMMANDS.items()) + "\nCtrl-C stops an answer."


@verb(
    "chat",
    "Chat with a model, one line at a time; /help lists the commands.",
    groups={
        "Conversation": "system tools template_arg",
        "Server": "url remote_model",
        "Sampling": SAMPLING,
        "Model": RUNNING,
    },
    example="fathom chat runs/finetune -n 200",
    effective=effective,
)
@click.argument("model", required=False, shell_complete=models)
@option(
    "--url",
    metavar="URL",
    shown="the model is loaded here",
    help="Ask a server of OpenAI's API instead of loading a model.",
)
@option("--model", "remote_model", metavar="NAME", shown="its first", help="The server's model.")
@option("--system", metavar="TEXT", help="The system prompt.")
@option("--tools", metavar="FILE", help="Functions that the model may call: a JSON list, as OpenAI's tools.")
@option("--template-arg", multiple=True, metavar="NAME=VALUE", help="A name that the chat template reads; repeatable.")
@generation_options
def chat_command(
    model: str | None,
    system: str | None,
    tools: str | None,
    template_arg: tuple[str, ...],
    verbose: bool,
    as_json: bool,
    **call: Any,
) -> None:
    from fathom.running.chat import chat
    from fathom.tokenizer.template import Extras, template_for, template_origin

    functions = None if tools is None else read_tools(Path(tools))
    extras = Extras(functions, arguments=dict(map(argument, template_arg)))
    if call["url"] is not None:
        ask_server(model, call, system, extras, as_json, verbose)
        return
    if model is None:
        raise FathomError("chat needs MODEL, or a server: --url URL; for example: fathom chat runs/finetune")
    network, tokenizer, options, draft, how = get_ready(model, call)
    talk = chat(network, tokenizer, system, options, draft, extras)
    origin = "" if tokenizer.special.template is not None else "; the model has none of its own"
    note(f"chat template: {template_origin(template_for(tokenizer))}{origin}")
    note(f"{how}; /help lists commands")
    converse(talk, as_json, verbose)
    if as_json:
        messages = [message.to_json() for message in talk.messages]
        print_json({"messages": messages, "template": template_origin(template_for(tokenizer))})


def ask_server(
    model: str | None, call: Mapping[str, Any], system: str | None, extras: "Extras", as_json: bool, verbose: bool
) -> None:
    """The same with a server's model. FathomError: an option needs the model itself."""
    from fathom.generation.options import ORDER, GenerateOptions
    from fathom.running.remote import Remote

    built = build(GenerateOptions, given_fields(GenerateOptions, call), "generate")
    given = {name: getattr(built, name) for name in given_fields(GenerateOptions, call)}
    known = {*ORDER, "max_new_tokens", "stop", "seed"}
    local = [name for name in ("adapter", "quantize", "device", "dtype", "rope_scaling", "draft") if call[name]]
    local += [name for name in given if name not in known]
    if model is not None or extras.arguments or local:
        wrong = model or f"--{(local or ['template-arg'])[0].replace('_', '-')}"
        raise FathomError(f"{wrong} is given beside --url; the server has its own model: choose one with --model NAME")
    talk = Remote(call["url"], call["remote_model"], system, given, extras)
    note(f"{talk.name} at {talk.url}; /help lists commands")
    converse(talk, as_json, verbose)
    if as_json:
        print_json({"messages": [message.to_json() for message in talk.messages], "model": talk.name})


def read_tools(path: Path) -> list[dict[str, Any]]:
    """The tools in a JSON file: a list of objects, or an object with a list `tools`."""
    text = path.read_text(encoding="utf-8-sig") if path.is_file() else None
    if text is None:
        raise FathomError(f"--tools {path} is no file; give a JSON file with a list of tools")
    try:
        values = json.loads(text)
    except ValueError as problem:
        raise FathomError(f"--tools {path} is not JSON ({problem}); expected a list of tools") from None
    listed = values.get("tools") if isinstance(values, dict) else values
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise FathomError(
            f"--tools {path} holds {type(listed).__name__}; expected a list of objects, one for each tool"
        )
    return listed


def argument(text: str) -> tuple[str, Any]:
    """`enable_thinking=false` as a name and a value: JSON where it is, else text."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise FathomError(f"--template-arg {text!r} is not NAME=VALUE; give for example enable_thinking=false")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


class Reasoning:
    """Dims what a model writes between <think> and </think> at the beginning of an answer, as it comes."""

    BEGIN, END = "<think>", "</think>"

    def __init__(self, styled: bool) -> None:
        self.styled, self.text = styled, ""

    def show(self, text: str) -> str:
        before, self.text = self.text, self.text + text
        if not self.styled or not self.text.startswith(self.BEGIN) or self.END in before:
            return text
        inside = len(text) if self.END not in self.text else self.text.index(self.END) + len(self.END) - len(before)
        return click.style(text[:inside], dim=True) + text[inside:]


def note(line: str) -> None:
    say(line, err=True)


def converse(talk: "Conversation", as_json: bool, verbose: bool) -> None:
    """Read lines and write answers until the input ends. At a terminal an error is printed and the chat continues."""
    interactive = sys.stdin.isatty()
    for line in lines(interactive):
        try:
            if line.startswith("/") and not line.startswith("//"):
                if run_command(talk, line) == "/quit":
                    return
            elif line.strip():
                reply(
                    talk,
                    line.removeprefix("/") if line.startswith("//") else line,
                    sys.stderr if as_json else sys.stdout,
                    verbose,
                )
        except FathomError as error:
            if not interactive:
                raise
            note(f"fathom: {error}")


def lines(interactive: bool) -> Iterator[str]:
    """Lines of stdin, as training reads text, or typed at a terminal, where Ctrl-C and Ctrl-D end it."""
    from fathom.tokenizer.typed import uniform

    if not interactive:
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield from uniform(line.decode("utf-8").removesuffix("\n").removesuffix("\r")).split("\n")
            except UnicodeDecodeError as problem:
                raise FathomError(f"stdin, line {number}: not UTF-8 at byte {problem.start}; send UTF-8") from None
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for `input`)
    prompt = "> " if sys.stdout.isatty() else ""
    while True:
        click.echo("" if prompt else "> ", err=True, nl=False)
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            return note("")
        yield line


def reply(talk: "Conversation", text: str, out: TextIO, verbose: bool) -> None:
    """Write one answer as it is generated; Ctrl-C stops it."""
    dropped_before = talk.left_out
    response = talk.say(text)
    if talk.left_out > dropped_before:
        dropped, context = talk.left_out, talk.model.config.context_length
        lost = counted(dropped, "message was", "messages were")
        note(f"(the context of {context:,} tokens is full: the oldest {lost} dropped)")
    started, finish, reasoning = False, None, Reasoning(out.isatty())
    try:
        with closing(response):
            for piece in response:
                shown = piece.text if started else piece.text.lstrip()
                started, finish = started or bool(shown), piece.finish_reason
                out.write(reasoning.show(shown))
                out.flush()
    except KeyboardInterrupt:
        note("\n(stopped)")
    out.write("\n")
    out.flush()
    if finish == "length":
        note(f"(stopped at the {talk.options.max_new_tokens}-token limit; use -n)")
    if verbose:
        note(f"{talk.options.describe()}; {response.stats.describe()}")


def run_command(talk: "Conversation", line: str) -> str:
    """Run a line that begins with /; returns the command."""
    name, _, rest = line.strip().partition(" ")
    path = Path(rest.strip()).expanduser()
    if name in ("/save", "/load") and not rest.strip():
        raise FathomError(f"{name} needs a file: {name} FILE.json")
    match name:
        case "/help":
            note(HELP)
        case "/reset":
            talk.reset()
        case "/system":
            talk.system = rest.strip() or None
            talk.reset()
        case "/save":
            talk.save(path)
            note(f"saved {counted(len(talk.messages), 'message')}: {path}")
        case "/load":
            talk.load(path)
            note(f"loaded {counted(len(talk.messages), 'message')}: {path}")
        case "/quit" | "/exit" | "/bye" | "/q":  # what people type elsewhere
            return "/quit"
        case _:
            raise FathomError(
                f"no command {name!r:.80}{near(name, COMMANDS) or ';'} /help lists them; // begins a message with /"
            )
    return name
