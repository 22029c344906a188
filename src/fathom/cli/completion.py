"""Completion with Tab for bash, zsh and fish: the script of a shell, and what an argument can be completed to.

Verbs, options, their choices, presets and run folders are completed; everything else is completed to files.
"""

from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from fathom.demos import ADDRESS, DEMOS
from fathom.errors import FathomError, near

VARIABLE = "_FATHOM_COMPLETE"  # names what a shell asks for, such as bash_complete
SHELLS = ("bash", "zsh", "fish")
RUNS = ("runs/*/config.yaml", "*/config.yaml")


def answer(cli: click.Command, instruction: str) -> int:
    """The answer to a shell that asks for completions, on stdout, and the exit code."""
    return shell_complete(cli, {}, "fathom", VARIABLE, instruction)


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run folders here and in runs/, the demos, and any file."""
    runs = sorted({str(config.parent) for pattern in RUNS for config in Path().glob(pattern)})
    demos = [CompletionItem(f"{ADDRESS}{name}", help=about) for name, about in DEMOS.items()] if incomplete else []
    named = [CompletionItem(run) for run in runs] + demos
    return [item for item in named if item.value.startswith(incomplete)] + [CompletionItem(incomplete, "file")]


def presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from fathom.training.presets import PRESETS

    return [CompletionItem(k, help=r.description) for k, r in PRESETS.items() if k.startswith(incomplete)]


def shells(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(shell) for shell in SHELLS if shell.startswith(incomplete)]


def script(shell: str) -> str:
    """What a shell reads at its start; FathomError for one that is not known."""
    kind = get_completion_class(shell)
    if shell not in SHELLS or kind is None:
        raise FathomError(f"no completion for {shell!r}{near(shell, SHELLS, then='choose')} one of {', '.join(SHELLS)}")
    return kind(click.Command("fathom"), {}, "fathom", VARIABLE).source()
