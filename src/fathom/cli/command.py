"""A verb as click runs it: `--help` with the options people use, in titled groups, `--help-all` with every one, and a
wrong call that ends in an example of a right one.

One spelling of an option is shown, all are accepted. The default shown is the one that this call would have.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import click
from click.shell_completion import CompletionItem

from fathom.errors import FathomError

HELP_NAMES = ["-h", "--help"]
CONTEXT = {"help_option_names": HELP_NAMES, "token_normalize_func": lambda name: name.replace("_", "-")}
WORDS = "words"  # of a context's meta: the verb and all that was typed after it
WIDEST = 28  # columns of an option's name; longer ones stand on a line of their own
Effective = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Option(click.Option):
    """An option with its choices, the heading it is listed under, and its default in words.

    shown: the default as the reader sees it; None where it is in `--help` of no use, as for a flag.
    """

    def __init__(
        self, *names: Any, heading: str = "", choices: Sequence[str] = (), shown: str | None = None, **settings: Any
    ) -> None:
        super().__init__(*names, **settings)
        self.heading, self.choices, self.shown = heading, tuple(choices), shown

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if self.hidden:
            return None
        short = next((name for name in self.opts if not name.startswith("--")), None)
        long = next(name for name in self.opts if name.startswith("--"))
        if self.secondary_opts:
            long = f"--[no-]{long[2:]}"
        spelled = f"{short}, {long}" if short else long
        return f"{spelled} {self.make_metavar(ctx)}" if not self.is_flag else spelled, self.explained(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        if self.choices:
            return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete)]
        return [CompletionItem(incomplete, "file")]

    def explained(self, ctx: click.Context) -> str:
        """The sentence, the choices, and the default."""
        text = (self.help or "").strip()
        text = text[:1].upper() + text[1:]
        text = text if text.endswith(".") or not text else f"{text}."
        if self.choices:
            text += f" Choices: {', '.join(self.choices)}."
        effective = ctx.meta.get("effective", {})
        value = effective.get(self.name)
        default = self.shown if value in (None, "", ()) else in_words(value)
        marks = [f"default: {default}"] if default else []
        marks += ["required"] if self.required else ["repeatable"] if self.multiple else []
        return f"{text}  [{'; '.join(marks)}]" if marks else text


def in_words(value: Any) -> str:
    """A default as it is typed on the command line."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ",".join(in_words(item) for item in value)
    return str(value)


def write_options(formatter: click.HelpFormatter, records: Sequence[tuple[str, str]], width: int) -> None:
    """Names and what they mean in two columns; no word is broken, also not at its hyphens."""
    left = formatter.current_indent
    for name, text in records:
        lines = wrap(text, formatter.width - left - width - 2, break_on_hyphens=False, break_long_words=False)
        if len(name) > width:
            lines = ["", *lines]
        for first, line in zip((name, *[""] * len(lines)), lines):
            formatter.write(f"{'':{left}}{first:<{width}}  {line}".rstrip() + "\n")


class Verb(click.Command):
    """A command with groups of options, an example, and the defaults that follow from its arguments.

    groups: title -> names of parameters, in the order of `--help`; every other option is in `--help-all` only.
    effective: from the values that were typed, by parameter name, to the defaults they lead to.
    hint: the option that an argument too many was perhaps meant for, such as `-p`.
    """

    def __init__(
        self,
        *args: Any,
        groups: Mapping[str, str] | None = None,
        example: str = "",
        effective: Effective | None = None,
        hint: str = "",
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.groups = {title: names.split() for title, names in (groups or {}).items()}
        self.usual, self.effective, self.hint = example, effective, hint

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.effective is not None and {*HELP_NAMES, "--help-all"} & set(args):
            ctx.meta["effective"] = self.defaults(ctx, list(args))
        ctx.meta[WORDS] = [str(ctx.info_name), *args]
        ctx.allow_extra_args = True
        try:
            rest = super().parse_args(ctx, args)
        except click.MissingParameter as missing:
            raise FathomError(self.missing(missing)) from None
        except click.BadOptionUsage as error:
            raise FathomError(f"{error.option_name} needs a value; see fathom {self.name} --help") from None
        if rest and not ctx.resilient_parsing:
            raise FathomError(self.too_many(rest))
        return rest

    def defaults(self, ctx: click.Context, args: list[str]) -> Mapping[str, Any]:
        """The defaults of this call; none where it is wrong, which its `--help` does not refuse."""
        try:
            values, _, _ = self.make_parser(ctx).parse_args(args)
            return self.effective(values) if self.effective else {}
        except (click.UsageError, FathomError):
            return {}

    def missing(self, error: click.MissingParameter) -> str:
        param = error.param
        name = param.opts[-1] if isinstance(param, click.Option) else param.human_readable_name if param else ""
        return f"{self.name} needs {name}; for example: {self.usual}"

    def too_many(self, rest: Sequence[str]) -> str:
        takes = [param.human_readable_name for param in self.params if isinstance(param, click.Argument)]
        expected = f"expected {' and '.join(takes)} only" if takes else "expected options only"
        text, hint = " ".join(rest), self.hint
        meant = f"{hint}{text:.60}" if hint.endswith(":") else f'{hint} "{text:.60}"'
        if not hint or (hint != "-p" and not Path(text).exists()):
            return f"{self.name}: unexpected {text!r:.80}; {expected}; for example: {self.usual}"
        return f"{self.name}: unexpected {text!r:.80}; {expected}; did you mean {meant}?"

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        if self.usual:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write(f"{'':>{formatter.current_indent}}Example: {self.usual}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        every = bool(ctx.meta.get("every"))
        sections = [
            (title, [record for option in options if (record := option.get_help_record(ctx))])
            for title, options in self.listed(ctx, every)
        ]
        width = max((len(name) for _, records in sections for name, _ in records if len(name) <= WIDEST), default=0)
        for title, records in sections:
            if records:
                with formatter.section(title):
                    write_options(formatter, records, width)
        shown = sum(len(records) for _, records in sections)
        if self.groups and not every:
            rest = sum(not o.hidden for o in self.options(ctx)) - shown
            if rest > 0:
                formatter.write_paragraph()
                formatter.write(f"fathom {self.name} --help-all shows {rest} more options.\n")

    def options(self, ctx: click.Context) -> list[click.Option]:
        return [param for param in self.get_params(ctx) if isinstance(param, click.Option)]

    def listed(self, ctx: click.Context, every: bool) -> Iterator[tuple[str, list[click.Option]]]:
        """Titles and their options: the groups, then what is left, by its heading."""
        left = {option.name: option for option in self.options(ctx)}
        general = [
            left.pop(name)
            for name in [*left]
            if name in ("as_json", "debug", "help_all") or "--help" in left[name].opts
        ]
        for title, names in self.groups.items():
            yield title, [left.pop(name) for name in names]
        rest: dict[str, list[click.Option]] = {}
        for option in left.values():
            rest.setdefault(getattr(option, "heading", "") or "Options", []).append(option)
        if every or not self.groups:
            yield from rest.items()
        hidden = {"debug"} if self.groups else {"help_all"}
        yield "General", [o for o in general if every or o.name not in hidden]
