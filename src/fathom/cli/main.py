"""`fathom VERB [MODEL] [options]`: the table of verbs, one-line errors, exit codes.

Exit codes: 0 done, 1 a check failed, 2 the call or an input is wrong (one line on stderr), 130 and 143 interrupted.
A verb's module, and with it torch, is imported only when that verb is called.
"""

import os
import re
import sys
import warnings
from importlib import import_module

import click

import fathom
from fathom.errors import FathomError, near

VERBS = {  # verb: (the module that holds VERB_command, what it does)
    "train": ("fathom.cli.train", "train a model from random weights"),
    "finetune": ("fathom.cli.train", "fine-tune an existing model: LoRA, QLoRA, DoRA or all weights"),
    "presets": ("fathom.cli.train", "list presets, or print one as YAML"),
    "generate": ("fathom.cli.generate", "continue a prompt with a trained model"),
    "verify": ("fathom.cli.evaluate", "a certificate that a model computes what it should"),
    "eval": ("fathom.cli.evaluate", "how well a model predicts a text, and what quantising it costs"),
    "info": ("fathom.cli.info", "what a model is, without loading its weights"),
    "export": ("fathom.cli.export", "write a model in another format, and compare what was written"),
    "chat": ("fathom.cli.chat", "talk with a model"),
    "tokenize": ("fathom.cli.tokenize", "how a text becomes tokens: pieces, ids and byte offsets"),
    "show-batch": ("fathom.cli.show_batch", "the exact tokens of training examples, and which are learned"),
    "svd": ("fathom.cli.svd", "spectra of weights, changes and adapters; the loss against the rank of a change"),
    "extract": ("fathom.cli.svd", "the best adapter of a full fine-tune, by singular value decomposition"),
    "merge": ("fathom.cli.export", "a model with an adapter in its weights"),
    "bench": ("fathom.cli.bench", "how fast a model runs, trains and starts here, and how much of the limit that is"),
    "ladder": ("fathom.cli.ladder", "train every rung from a bigram to LLaMA and report what each idea bought"),
}

HELP = """Understand language models by building, training and running them.

\b
  fathom train shakespeare-cpu --data FILE.txt   learn to write like FILE.txt
  fathom generate runs/shakespeare-cpu           write
  fathom ladder --data FILE.txt                  see what each idea is worth
"""


OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory")  # in torch's messages, whatever the class


class Verbs(click.Group):
    """Verbs by name, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            raise FathomError(f"no verb {cmd_name!r}{near(cmd_name, VERBS, then='verbs')} are {', '.join(VERBS)}")
        module, _ = VERBS[cmd_name]
        command: click.Command = getattr(import_module(module), cmd_name.replace("-", "_") + "_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs (fathom VERB --help says more)"):
            formatter.write_dl([(name, about) for name, (_, about) in VERBS.items()])


@click.group(cls=Verbs, help=HELP, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(fathom.__version__, prog_name="fathom")
def verbs() -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run one call and return its exit code; every mistake ends in one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        arguments = ["--help"]
    try:
        outcome = verbs.main(arguments, prog_name="fathom", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except (BrokenPipeError, SystemExit):  # the reader has gone, as in `fathom generate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, click.Abort):
        return _end("stopped", 130)
    except Exception as error:
        if "--debug" in arguments:
            raise
        return _end(*explain(error))


def explain(error: Exception) -> tuple[str, int]:
    """One line for the reader, and the exit code."""
    match error:
        case FathomError():
            return str(error), error.exit_code
        case click.NoSuchOption():
            known = [name for p in (error.ctx.command.params if error.ctx else []) for name in p.opts]
            verb = f"{error.ctx.command_path} --help-all" if error.ctx and error.ctx.parent else "fathom --help"
            return f"no option {error.option_name}{near(error.option_name, known, then='see')} {verb}", 2
        case click.ClickException():
            return " ".join(error.format_message().split()), 2
        case OSError() if error.filename is not None:
            return f"{error.filename}: {(error.strerror or str(error)).lower()}", 2
        case OSError():
            return f"the system refused: {error}", 2
        case MemoryError() | RuntimeError() if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            return "not enough memory; use a smaller model or batch, a narrower --dtype, or --quantize", 2
    return f"{type(error).__name__}: {' '.join(str(error).split())} (this is a bug; --debug shows where)", 2


def _end(line: str, code: int) -> int:
    click.echo(f"fathom: {line}", err=True)
    return code


def run() -> None:
    """The console script.

    OpenMP threads spin only briefly before they sleep: where another program needs a core, spinning as long as GNU's
    OpenMP does by default makes a training step many times slower.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    warnings.formatwarning = lambda message, *_, **__: f"fathom: {message}\n"
    sys.exit(main())
