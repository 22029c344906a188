"""`fathom tokenize TEXT [MODEL]`: the tokens of a text, with ids, pieces and byte offsets.

Pieces alternate in colour, or stand between | without colours; what the format puts before a text is shown by name.
Does not import torch itself.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.console import Console
from rich.text import Text

from fathom.cli.options import option, print_json, verb
from fathom.cli.show_batch import EMPTY, visible
from fathom.cli.streams import say
from fathom.errors import FathomError
from fathom.report.table import in_lines
from fathom.words import counted

if TYPE_CHECKING:
    from fathom.tokenizer.protocol import Tokenizer

BUILT_IN, LEARNED, CORPUS = ("char", "byte", "bpe"), "bpe:1024", "python-docs"
COLOURS = tuple(f"black on {colour}" for colour in ("cyan", "yellow", "green", "bright_magenta", "bright_blue"))
SPECIAL = "bold white on red"
SHOWN, LISTED = 2000, 32  # tokens in colour, and in the table
ABOUT = """Show how a text becomes tokens: pieces, ids, byte offsets and how many characters a token holds.

TEXT may be - for stdin. MODEL is a model, a tokenizer's file or folder, char, byte or bpe:SIZE.
"""
DATA = "Text that char and bpe:SIZE are learned from: a file, a folder or the name of a corpus."
EXAMPLE = "fathom tokenize 'The sea was calm' runs/demo"


class Token(NamedTuple):
    """The text's bytes from `start` to `end`; a special token has a name and none of them."""

    id: int
    piece: bytes
    start: int
    end: int
    name: str | None

    @property
    def text(self) -> str:
        return self.name or self.piece.decode("utf-8", "backslashreplace")


@verb("tokenize", ABOUT, example=EXAMPLE)
@click.argument("text", required=False)
@click.argument("model", default=LEARNED)
@option("--data", metavar="TEXT", shown=CORPUS, help=DATA)
def tokenize_command(text: str | None, model: str, data: str | None, as_json: bool, **_: Any) -> None:
    text = read_text(text)
    if Path(text[:1000]).is_dir() and not is_built_in(model) and not Path(model).exists():
        raise FathomError(f"{text} is a folder and {model!r} is not a model; expected the text first: {EXAMPLE}")
    tokenizer = tokenizer_named(model, data)
    ids = [*tokenizer.prefix, *tokenizer.encode(text)]
    tokens = split(ids if as_json else ids[:SHOWN], tokenizer)
    learned = f", learned from {data or CORPUS}" if is_built_in(model) and model != "byte" else ""
    say(f"{model}{learned}: {tokenizer.kind}, a vocabulary of {tokenizer.vocab_size:,} tokens\n", err=as_json)
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    width = console.width if console.is_terminal else 0
    console.print(coloured(tokens, console.color_system is not None, width))
    say("\n" + "\n".join([*listed(tokens), *totals(text, ids, tokenizer)]), err=as_json)
    if as_json:
        print_json(as_values(text, tokens, tokenizer))


def read_text(text: str | None) -> str:
    """The text of the call; that of stdin where it is -, or is left out and something is piped in.

    Both as training reads text: without a byte order mark, with newlines.
    """
    from fathom.tokenizer.typed import decoded_text, uniform

    if text is not None and text != "-":
        return uniform(text)
    if text is None and sys.stdin.isatty():
        raise FathomError(f"no text was given; expected a text, or - for stdin: {EXAMPLE}")
    return decoded_text(sys.stdin.buffer.read(), "stdin")


def is_built_in(model: str) -> bool:
    """Whether MODEL is char, byte or bpe:SIZE and no path."""
    return model.partition(":")[0] in BUILT_IN and not Path(model).exists()


def tokenizer_named(model: str, data: str | None) -> "Tokenizer":
    """The tokenizer of a model or a file, or a built-in one, learned where it has to be."""
    from fathom.data.corpus import resolve
    from fathom.formats.tokenizer import load_tokenizer
    from fathom.tokenizer.load import make

    if data is not None and (model == "byte" or not is_built_in(model)):
        raise FathomError(f"--data is {data}, but {model} has its vocabulary already; --data is for char and bpe:SIZE")
    return make(model, resolve(data or CORPUS).chunks()) if is_built_in(model) else load_tokenizer(model)


def split(ids: Sequence[int], tokenizer: "Tokenizer") -> list[Token]:
    """Each id with the bytes that it adds to the text."""
    names = {id: name for name, id in tokenizer.special.names.items()}
    tokens, end = list[Token](), 0
    for id, piece in zip(ids, tokenizer.token_bytes(ids)):
        piece = b"" if id in names else piece
        tokens.append(Token(id, piece, end, end := end + len(piece), names.get(id)))
    return tokens


def coloured(tokens: Sequence[Token], colours: bool, width: int = 0) -> Text:
    """The pieces in a row, or in rows of this width."""
    pieces = []
    for place, token in enumerate(tokens):
        style = SPECIAL if token.name else COLOURS[place % len(COLOURS)]
        piece = Text("|" if place and not colours else "")
        pieces.append(piece.append(visible(token.text) or EMPTY, style if colours else ""))
    return in_lines(pieces, width)


def listed(tokens: Sequence[Token]) -> list[str]:
    """A line for each of the first tokens: id, byte offsets, and the piece as Python writes it."""
    if not tokens:
        return []
    rows = [("id", "bytes", "piece")]
    for token in tokens[:LISTED]:
        piece = token.name or (repr(token.text) if spells(token.piece) else repr(token.piece))
        rows.append((str(token.id), "" if token.name else f"{token.start}–{token.end}", piece))
    first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
    lines = [f"{id:>{first}}  {offsets:>{second}}  {piece}" for id, offsets, piece in rows]
    more = f"… the first {LISTED} tokens; --json lists all of them"
    return [*lines, *([more] if len(tokens) > LISTED else []), ""]


def spells(piece: bytes) -> bool:
    """Whether the bytes are whole characters."""
    return piece.decode("utf-8", "ignore").encode() == piece


def totals(text: str, ids: Sequence[int], tokenizer: "Tokenizer") -> list[str]:
    """The counts, and what text does not become."""
    own = len(ids) - len(tokenizer.prefix)
    special = f" and {len(tokenizer.prefix)} special" if tokenizer.prefix else ""
    ratio = f", {len(text) / own:.2f} characters per token" if own else ""
    sizes = (counted(len(text), "character"), counted(len(text.encode()), "byte"), counted(own, "token"))
    lines = [f"{', '.join(sizes)}{special}{ratio}"]
    if named := [name for name in tokenizer.special.names if name in text]:
        lines.append(f"{', '.join(named)} in a text is ordinary characters: no text becomes a special token")
    return lines


def as_values(text: str, tokens: Sequence[Token], tokenizer: "Tokenizer") -> dict[str, Any]:
    """Everything that is shown, as plain values."""
    return {
        "tokenizer": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "characters": len(text),
        "bytes": len(text.encode()),
        "ids": [token.id for token in tokens],
        "pieces": [token.text for token in tokens],
        "offsets": [[token.start, token.end] for token in tokens],
        "special": [token.name is not None for token in tokens],
    }
