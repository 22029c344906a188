"""`fathom show-batch MODEL_OR_TOKENIZER --data FILE`: the exact tokens of the first training examples.

A token's colour is its role; trained tokens are underlined, or between « » without colours.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from fathom.cli.completion import models
from fathom.cli.options import option, print_json, verb

if TYPE_CHECKING:
    from fathom.data.examples import Example
    from fathom.tokenizer.protocol import Tokenizer


COLOURS = {"frame": "bright_black", "text": "default", "system": "magenta", "user": "cyan", "assistant": "green"}
OTHER = "yellow"
EMPTY = "▁"  # a token that decodes to nothing here, such as the space before a first word
ABOUT = "Show the exact tokens of the first training examples: who says each, and which of them are learned."
DATA = "A .json or .jsonl file of records, or text, as for fathom train."
CUT = "Cut each example after N tokens."


@verb("show-batch", ABOUT, example="fathom show-batch runs/demo --data questions.jsonl")
@click.argument("source", metavar="MODEL_OR_TOKENIZER", shell_complete=models)
@option("--data", required=True, metavar="FILE", help=DATA)
@option("--count", type=click.IntRange(1), default=3, metavar="N", shown="3", help="Number of examples.")
@option("--context-length", "--block-size", type=click.IntRange(1), metavar="N", shown="no cut", help=CUT)
@option("--ids", "with_ids", is_flag=True, help="Show the id of each token too.")
def show_batch_command(
    source: str, data: str, count: int, context_length: int | None, with_ids: bool, as_json: bool, **_: Any
) -> None:
    from fathom.formats.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(source)
    about, examples = read(data, tokenizer, context_length)
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    console.print(Text(about))
    shown = []
    for number, example in enumerate(islice(examples, count), 1):
        cut = shortened(example, context_length)
        texts = spelled(cut.ids, tokenizer)
        console.print(Text(f"\nexample {number}: {describe(example, cut)}", "bold"))
        console.print(styled(cut, texts, with_ids, console.color_system is not None))
        shown.append(
            {"ids": cut.ids, "tokens": texts, "roles": cut.roles, "trained": cut.trained, "n": len(example.ids)}
        )
    console.print(legend(console.color_system is not None))
    if as_json:
        print_json({"data": about, "examples": shown})


def read(data: str, tokenizer: "Tokenizer", context_length: int | None) -> tuple[str, "Iterator[Example]"]:
    """What the data are, in words, and their examples."""
    from fathom.data.corpus import resolve
    from fathom.data.examples import corpus_examples, to_example
    from fathom.data.records import Dialogue, RecordFile, is_record_file
    from fathom.tokenizer.template import template_for, template_origin

    if not is_record_file(data):
        length = context_length or 256
        return f"{data}: text, in windows of {length} tokens", corpus_examples(resolve(data), tokenizer, length)
    records = RecordFile(Path(data))
    dialogue = isinstance(next(iter(records)), Dialogue)
    how = f"; chat template: {template_origin(template_for(tokenizer))}" if dialogue else ""
    return f"{data}: {records.kind.description}{how}", (to_example(record, tokenizer) for record in records)


def shortened(example: "Example", length: int | None) -> "Example":
    from fathom.data.examples import Example

    return Example(example.ids[:length], example.roles[:length], example.trained[:length])


def describe(whole: "Example", cut: "Example") -> str:
    text = f"{len(cut.ids):,} tokens, {sum(cut.trained):,} of them learned"
    return text if len(cut.ids) == len(whole.ids) else f"{text}; cut from {len(whole.ids):,}"


def spelled(ids: Sequence[int], tokenizer: "Tokenizer") -> list[str]:
    """Each token as text; partial characters and invisible bytes as escapes."""
    names = {id: name for name, id in tokenizer.special.names.items()}
    spelled = zip(ids, tokenizer.token_bytes(ids))
    return [names.get(id) or added.decode("utf-8", "backslashreplace") for id, added in spelled]


def visible(text: str) -> str:
    shown = (c if c.isprintable() else "⏎\n" if c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


def styled(example: "Example", texts: list[str], with_ids: bool, colours: bool) -> Text:
    """The tokens in a row, separated by thin lines."""
    row, learned = Text(), False
    for id, role, trained, text in zip(example.ids, example.roles, example.trained, texts):
        if not colours and trained != learned:
            row.append("«" if trained else "»")
        elif row:
            row.append("|", "bright_black")
        style = f"{COLOURS.get(role, OTHER)}{' underline' if trained else ''}"
        row.append(visible(text) or EMPTY, style)
        if with_ids:
            row.append(f":{id}", "bright_black italic")
        learned = trained
    return row.append("»") if learned and not colours else row


def legend(colours: bool) -> Text:
    """The meaning of the colours."""
    text = Text("\nlearned: " + ("" if colours else "« »"))
    if colours:
        text.append("underlined", "underline").append("; roles: ")
        for role, colour in COLOURS.items():
            text.append(f"{role} ", colour)
    return text
