"""`fathom.show(model, tokenizer, "…")`: the page in the output of a notebook's cell; a table of text anywhere else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from fathom.errors import FathomError
from fathom.files import replacing
from fathom.glass.document import document
from fathom.glass.panels import entry, filled
from fathom.glass.passes import Pass, first_pass, pair
from fathom.glass.subject import Subject, open_subject
from fathom.inspect.look import require_transformer
from fathom.model.transformer import Transformer
from fathom.report.table import plain, table
from fathom.tokenizer.protocol import Tokenizer

HEIGHT = 760  # pixels of the frame in a notebook
LIKELIEST = 5  # next tokens in the table


class Shown:
    """A page of one prompt. A notebook draws it; `save` writes it to a file; printed, it is a table."""

    def __init__(self, run: Pass, prompt: str, panels: Sequence[str]) -> None:
        self.run, self.prompt, self.panels = run, prompt, panels

    def _repr_html_(self) -> str:
        """The page in a frame of its own, whose script sees nothing of the notebook."""
        inside = html.escape(self.html(), quote=True)
        return (
            f'<iframe sandbox="allow-scripts" srcdoc="{inside}" title="{html.escape(self.run.subject.name)}" '
            f'style="width:100%;height:{HEIGHT}px;border:1px solid #8884;border-radius:8px"></iframe>'
        )

    def html(self) -> str:
        """The page, as it is written to a file. FathomError: the page was not built."""
        return document(self.run, self.panels, self.prompt).html

    def save(self, path: str | Path) -> None:
        """Write the page to a file that opens in a browser."""
        with replacing(Path(path)) as file:
            file.write(self.html().encode())

    def __repr__(self) -> str:
        panel, _ = filled("next-token", self.run)
        texts = [token["text"] for token in panel.facts["tokens"][:LIKELIEST]]
        likely = ", ".join(f"{text!r} {p:.1%}" for text, p in zip(texts, panel.series["p"].values.tolist()))
        side = self.run.side()
        shown = [
            (str(at), str(token["id"]), repr(token["text"]), "" if value is None else f"{value:.3f}")
            for at, (token, value) in enumerate(zip(side["tokens"], side["logprobs"]))
        ]
        return plain(table(("token", "id", "text", "ln p"), shown, (0, 1, 3))) + f"next: {likely}"


def show(
    model: Transformer | str | Path,
    tokenizer: Tokenizer | None = None,
    prompt: str = "",
    beside: Transformer | str | Path | None = None,
    panels: Sequence[str] = (),
    seed: int = 0,
) -> Shown:
    """What a model computes for a prompt, as a page: attention, the residual stream, and a check of every number.

        >>> fathom.show(model, tokenizer, "The sea was calm")   # the last line of a notebook's cell
        >>> fathom.show("runs/demo", prompt="def ").save("look.html")

    model: from `fathom.load`, or a path. tokenizer: of a model in memory; without one the prompt is ids, such as
    "5 17 3". beside: another model, shown beside the first on the same prompt. panels: ids, such as "heads"; () is
    all of them. seed: of what is drawn.

    Returns an object that a notebook shows as the page; printed, it is a table of the tokens. FathomError: the prompt
    is empty or too long, or there is no such panel.
    """
    if isinstance(panels, str):
        raise FathomError(f"panels is the text {panels!r}; expected a list of ids: panels=[{panels!r}]")
    for id in panels:
        entry(id)
    subject = subject_of(model, tokenizer, "model")
    if beside is None:
        return Shown(first_pass(subject, prompt, seed), prompt, panels)
    return Shown(pair(subject, subject_of(beside, tokenizer, "beside"), prompt, seed)[0], prompt, panels)


def subject_of(model: Transformer | str | Path, tokenizer: Tokenizer | None, name: str) -> Subject:
    """The model, opened where it is a path."""
    if isinstance(model, str | Path):
        return open_subject(model)
    if isinstance(tokenizer, str):
        raise FathomError("the tokenizer is a text; such as fathom.show(model, tokenizer, 'The sea was calm')")
    return Subject(name, require_transformer(model), tokenizer)
