"""`fathom show-batch MODEL_OR_TOKENIZER --data FILE`: the exact tokens of the first training examples.

A token's colour is its role; trained tokens are underlined, or between « » without colours.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
from rich.console import Console
from rich.text import Text

from fathom.cli.completion import models
from fathom.cli.options import FieldValue, WholeNumber, option, print_json, verb
from fathom.cli.streams import can_hold
from fathom.report.table import in_lines
from fathom.words import counted

if TYPE_CHECKING:
    from fathom.data.encoding import OnBadRecord
    from fathom.data.examples import Example
    from fathom.tokenizer.protocol import Tokenizer


COLOURS = {
    "frame": "bright_black",
    "text": "default",
    "system": "magenta",
    "user": "cyan",
    "assistant": "green",
    "reasoning": "bright_blue",
    "tool call": "yellow",
    "tool": "bright_magenta",
    "tools": "bright_cyan",
}
OTHER = "red"
MARKS = {"think": "reasoning", "tool_call": "tool call"}
MARKED = re.compile(rf"<({'|'.join(MARKS)})>.*?(</\1>|\Z)", re.DOTALL)
EMPTY = "▁"  # a token that decodes to nothing here, such as the space before a first word


class Signs(NamedTuple):
    """What is shown for what has no letter: where learned tokens begin and end, the end of a line, an empty token."""

    begin: str = "«"
    end: str = "»"
    newline: str = "⏎"
    empty: str = EMPTY


SIGNS, ASCII = Signs(), Signs("<<", ">>", "\\n", "_")
ABOUT = "Show the exact tokens of the first training examples: the role of each, and which of them are trained on."
DATA = "A .json or .jsonl file of records, a text or a folder of tokens, as for fathom train."
BAD = "What to do with a record that cannot be used."
CUT = "Cut each example after N tokens."


@verb("show-batch", ABOUT, example="fathom show-batch runs/demo --data questions.jsonl")
@click.argument("source", metavar="MODEL_OR_TOKENIZER", shell_complete=models)
@option("--data", required=True, metavar="FILE", help=DATA)
@option("--count", type=WholeNumber(1), default=3, metavar="N", shown="3", help="Number of examples.")
@option("--context-length", "--block-size", type=WholeNumber(1), metavar="N", shown="no cut", help=CUT)
@option(
    "--on-bad-record",
    type=FieldValue(Literal["stop", "skip"]),
    choices=("stop", "skip"),
    default="stop",
    metavar="NAME",
    shown="stop",
    help=BAD,
)
@option("--ids", "with_ids", is_flag=True, help="Show the id of each token too.")
def show_batch_command(
    source: str,
    data: str,
    count: int,
    context_length: int | None,
    on_bad_record: "OnBadRecord",
    with_ids: bool,
    as_json: bool,
    **_: Any,
) -> None:
    from fathom.formats.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(source)
    about, examples, notes = read(data, tokenizer, context_length, on_bad_record)
    console = Console(stderr=as_json, highlight=False)
    console.soft_wrap = not console.is_terminal
    signs = SIGNS if can_hold(console.encoding, "".join(SIGNS)) else ASCII
    width = console.width if console.is_terminal else 0
    console.print(Text(about))
    shown = []
    for name, example in islice(examples, count):
        cut = shortened(example, context_length)
        texts = spelled(cut.ids, tokenizer)
        roles = shown_roles(cut.roles, texts)
        console.print(Text(f"\n{name}: {describe(example, cut)}", "bold"))
        console.print(
            styled(cut, roles, texts, with_ids, console.color_system is not None, signs, width), soft_wrap=True
        )
        shown.append({"ids": cut.ids, "tokens": texts, "roles": roles, "trained": cut.trained, "n": len(example.ids)})
    console.print(legend(console.color_system is not None, signs))
    for note in (said := notes()):
        console.print(Text(note, "yellow"))
    if as_json:
        print_json({"data": about, "examples": shown, "notes": said})


def read(
    data: str, tokenizer: "Tokenizer", context_length: int | None, on_bad_record: "OnBadRecord"
) -> "tuple[str, Iterator[tuple[str, Example]], Callable[[], tuple[str, ...]]]":
    """What the data are, in words; the name of each example and itself; what has been skipped or not used so far."""
    from fathom.data.corpus import resolve
    from fathom.data.encoding import Reader
    from fathom.data.examples import corpus_examples, token_examples
    from fathom.data.record_files import is_record_file, record_files
    from fathom.data.shards import is_prepared, open_shards

    if is_prepared(data):
        shards, length = open_shards(data), context_length or 256
        shards.require(tokenizer, "MODEL_OR_TOKENIZER")
        found = enumerate(token_examples(shards.tokens("train"), tokenizer, length), 1)
        return f"{data}: tokens, in windows of {length}", ((f"window {n}", example) for n, example in found), tuple
    if not is_record_file(data):
        length, text = context_length or 256, resolve(data)
        windows = enumerate(corpus_examples(text, tokenizer, length), 1)
        named = ((f"window {number}", example) for number, example in windows)
        return f"{data}: text, in windows of {length} tokens", named, tuple
    reader = Reader(record_files(data), tokenizer, on_bad_record, train_all=False)
    made = ((f"record {n}", reader.read(entry)) for n, entry in enumerate(reader.records.entries(), 1))
    examples = ((name, example) for name, example in made if example is not None)
    first = next(examples, None)
    files = f" ({counted(len(reader.records.paths), 'file')})" if len(reader.records.paths) > 1 else ""
    about = f"{data}{files}: {reader.description}"
    return about, chain([] if first is None else [first], examples), reader.said


def shown_roles(roles: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The roles, in which what an assistant's text itself marks as reasoning or as a call of a tool is one."""
    shown: list[str] = []
    for written, run in groupby(zip(roles, texts), lambda token: token[0] in ("frame", "assistant")):
        tokens = list(run)
        said = written and any(role == "assistant" for role, _ in tokens)  # and not the template's instructions
        spans = MARKED.finditer("".join(text for _, text in tokens)) if said else ()
        kinds = [(match.start(), match.end(), MARKS[match[1]]) for match in spans]
        start = 0
        for role, text in tokens:
            end = start + len(text)
            shown.append(next((kind for first, last, kind in kinds if first < end and start < last), role))
            start = end
    return shown


def shortened(example: "Example", length: int | None) -> "Example":
    from fathom.data.examples import Example

    return Example(example.ids[:length], example.roles[:length], example.trained[:length])


def describe(whole: "Example", cut: "Example") -> str:
    text = f"{counted(len(cut.ids), 'token')}, {sum(cut.trained):,} of them learned"
    return text if len(cut.ids) == len(whole.ids) else f"{text}; cut from {len(whole.ids):,}"


def spelled(ids: Sequence[int], tokenizer: "Tokenizer") -> list[str]:
    """Each token as text; partial characters and invisible bytes as escapes."""
    names = {id: name for name, id in tokenizer.special.names.items()}
    spelled = zip(ids, tokenizer.token_bytes(ids))
    return [names.get(id) or added.decode("utf-8", "backslashreplace") for id, added in spelled]


def visible(text: str, newline: str = SIGNS.newline) -> str:
    """The text without characters that are not seen or that move a terminal."""
    escapes = {"\n": f"{newline}\n"}
    return "".join(c if c.isprintable() else escapes.get(c) or c.encode("unicode_escape").decode() for c in text)


def styled(
    example: "Example",
    roles: Sequence[str],
    texts: list[str],
    with_ids: bool,
    colours: bool,
    signs: Signs = SIGNS,
    width: int = 0,
) -> Text:
    """The tokens in a row, or in rows of this width, separated by thin lines."""
    pieces, learned = list[Text](), False
    for id, role, trained, text in zip(example.ids, roles, example.trained, texts):
        piece = Text()
        if not colours and trained != learned:
            piece.append(signs.begin if trained else signs.end)
        elif pieces:
            piece.append("|", "bright_black")
        style = f"{COLOURS.get(role, OTHER)}{' underline' if trained else ''}"
        piece.append(visible(text, signs.newline) or signs.empty, style)
        if with_ids:
            piece.append(f":{id}", "bright_black italic")
        pieces.append(piece)
        learned = trained
    return in_lines(pieces + [Text(signs.end)] * (learned and not colours), width)


def legend(colours: bool, signs: Signs = SIGNS) -> Text:
    """The meaning of the colours."""
    text = Text("\nlearned: " + ("" if colours else f"{signs.begin} {signs.end}"))
    if colours:
        text.append("underlined", "underline").append("; roles: ")
        for role, colour in COLOURS.items():
            text.append(f"{role} ", colour)
    return text
