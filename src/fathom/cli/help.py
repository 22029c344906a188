"""`fathom help [VERB]`, `fathom completion SHELL`, and `fathom --version`, which does not import torch."""

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

import fathom
from fathom.cli.completion import script, shells
from fathom.cli.options import verb

NVIDIA = Path("/proc/driver/nvidia/gpus")


@verb("help", "Show the help of fathom, or of one verb.", example="fathom help train", as_json=False)
@click.argument("topic", metavar="VERB", required=False)
@click.pass_context
def help_command(ctx: click.Context, /, topic: str | None, **_: Any) -> None:
    parent = ctx.parent or ctx
    group = parent.command
    if topic is None or not isinstance(group, click.Group):
        click.echo(parent.get_help())
    elif command := group.get_command(parent, topic):
        click.echo(command.get_help(click.Context(command, info_name=topic, parent=parent)))


COMPLETION = """Print the script that completes fathom's verbs, options, presets and run folders when you press Tab.

\b
  bash, zsh:  eval "$(fathom completion bash)"      (in ~/.bashrc or ~/.zshrc)
  fish:       fathom completion fish > ~/.config/fish/completions/fathom.fish
"""


@verb("completion", COMPLETION, example='eval "$(fathom completion zsh)"', as_json=False)
@click.argument("shell", shell_complete=shells)
def completion_command(shell: str, **_: Any) -> None:
    click.echo(script(shell))


def version() -> str:
    """fathom, Python, torch, the device that `auto` takes, and the instruction set of native code."""
    from fathom.native.build import instruction_set

    native = instruction_set()
    return (
        f"fathom {fathom.__version__}\n"
        f"python {platform.python_version()}, torch {metadata.version('torch')}\n"
        f"device {torch_device()}, {native or 'no'} native code"
    )


def torch_device() -> str:
    """The device that the installed torch would take here, as far as the system tells without it."""
    gpus = sorted(NVIDIA.glob("*/information")) if "+cpu" not in metadata.version("torch") else []
    if gpus:
        lines = gpus[0].read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("Model")), "")
        return f"cuda ({model})"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    return f"cpu ({platform.machine()})"
