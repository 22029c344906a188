"""`fathom chat MODEL`: a conversation; what the model says goes to stdout, everything else to stderr."""

import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from fathom.cli.options import LINES, answer, choices, chosen, drafting, loaded, verb
from fathom.errors import FathomError, near

if TYPE_CHECKING:
    from fathom.generate.chat import Conversation


COMMANDS = {
    "/help": "show this",
    "/reset": "forget what was said, but not the system prompt",
    "/system": "TEXT: set the system prompt and begin anew; without TEXT none",
    "/save": "FILE: write the conversation as JSON",
    "/load": "FILE: go on with a conversation that was saved",
    "/quit": "end, as Ctrl-D and Ctrl-C do",
}
HELP = "\n".join(f"{name:<8} {about}" for name, about in COMMANDS.items()) + "\nCtrl-C stops an answer."


@verb("chat", f"Talk with the model in MODEL, one line at a time; /help lists the commands. {LINES}")
@click.argument("model")
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation.")
@choices
def chat_command(model: str, system: str | None, verbose: bool, as_json: bool, **call: Any) -> None:
    from fathom.generate.chat import Conversation
    from fathom.tokenizer.template import template_for, template_origin

    options = chosen(call)
    network, tokenizer, how = loaded(model, call)
    talk = Conversation(network, tokenizer, options, system, drafting(call, tokenizer))
    brought = "" if tokenizer.special.template is not None else "; the model brings none"
    note(f"chat template: {template_origin(template_for(tokenizer))}{brought}")
    note(f"{how}; /help lists commands")
    converse(talk, as_json, verbose)
    if as_json:
        messages = [vars(message) for message in talk.messages]
        answer({"messages": messages, "template": template_origin(template_for(tokenizer))})


def note(line: str) -> None:
    click.echo(line, err=True)


def converse(talk: "Conversation", as_json: bool, verbose: bool) -> None:
    """Lines in, answers out, until there are no more lines. At a terminal a mistake is told and one may go on."""
    interactive = sys.stdin.isatty()
    for line in lines(interactive):
        try:
            if line.startswith("/") and not line.startswith("//"):
                if obey(talk, line) == "/quit":
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
    """What is typed, or what stands in stdin, line by line; at a terminal Ctrl-C and Ctrl-D end it."""
    if not interactive:
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as problem:
                raise FathomError(f"stdin, line {number}: not UTF-8 at byte {problem.start}; send UTF-8") from None
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (lets `input` edit lines and remember them)
    prompt = "> " if sys.stdout.isatty() else ""
    while True:
        click.echo("" if prompt else "> ", err=True, nl=False)
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            return note("")
        yield line


def reply(talk: "Conversation", text: str, out: TextIO, verbose: bool) -> None:
    """One answer, written as it comes; Ctrl-C ends it where it is."""
    seen = talk.left_out
    said = talk.say(text)
    if talk.left_out > seen:
        gone, context = talk.left_out, talk.model.config.context_length
        note(f"(the context of {context:,} tokens is full: the model no longer sees the oldest {gone} messages)")
    begun, finish = False, None
    try:
        with closing(said):
            for piece in said:
                shown = piece.text if begun else piece.text.lstrip()
                begun, finish = begun or bool(shown), piece.finish_reason
                out.write(shown)
                out.flush()
    except KeyboardInterrupt:
        note("\n(stopped)")
    out.write("\n")
    out.flush()
    if finish == "length":
        note("(cut: the answer is as long as it may be)")
    if verbose:
        note(f"{talk.options.describe()}; {said.stats.describe()}")


def obey(talk: "Conversation", line: str) -> str:
    """Do what a line that begins with / says; returns the command."""
    name, _, rest = line.strip().partition(" ")
    path = Path(rest.strip()).expanduser()
    if name in ("/save", "/load") and not rest.strip():
        raise FathomError(f"{name} without a file; say {name} FILE.json")
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
            note(f"saved {len(talk.messages)} messages: {path}")
        case "/load":
            talk.load(path)
            note(f"loaded {len(talk.messages)} messages: {path}")
        case "/quit":
            pass
        case _:
            raise FathomError(
                f"no command {name!r:.80}{near(name, COMMANDS) or ';'} /help lists them; // begins a text with /"
            )
    return name
