"""`fathom VERB [MODEL] [options]`: the table of verbs, one-line errors, exit codes.

Exit codes: 0 done, 1 a check failed or a process of several was lost, 2 the call or an input is
wrong (one line on stderr), 130 and 143 interrupted.
A verb's module, and with it torch, is imported only when that verb is called.
"""

import os
import re
import sys
import warnings
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from fathom.cli.command import HELP_NAMES, write_options
from fathom.cli.streams import prepare_streams, say
from fathom.errors import FathomError, near
from fathom.native.build import listeners
from fathom.processes import end_with_launcher, one_of_several, this_process

GROUPS = {  # verb: (the module that holds VERB_command, what it does)
    "Train": {
        "prepare": ("fathom.cli.prepare", "turn text of any size into tokens on disk, for any number of runs"),
        "train": ("fathom.cli.train", "train a model from random weights"),
        "finetune": ("fathom.cli.train", "fine-tune an existing model: LoRA, QLoRA, DoRA or all weights"),
        "plan": ("fathom.cli.plan", "what training will need: memory, hours, traffic, and what fits"),
        "presets": ("fathom.cli.presets", "list presets, or print one as YAML"),
        "replay": ("fathom.cli.replay", "make one step of a run again: its batch, its losses, its gradients"),
        "runs": ("fathom.cli.runs", "list runs with their losses, or draw several on one picture"),
        "ladder": ("fathom.cli.ladder", "build up from a bigram to LLaMA and measure each idea"),
    },
    "Run": {
        "generate": ("fathom.cli.generate", "continue a prompt"),
        "chat": ("fathom.cli.chat", "chat with a model"),
    },
    "Look inside": {
        "serve": ("fathom.cli.serve", "open a page that shows what a model computes"),
        "look": ("fathom.cli.look", "a page of what a model computes for a prompt, as one file"),
        "info": ("fathom.cli.info", "what a model is, without loading its weights"),
        "tokenize": ("fathom.cli.tokenize", "how a text becomes tokens: pieces, ids and byte offsets"),
        "show-batch": ("fathom.cli.show_batch", "the exact tokens of training examples, and which are trained on"),
        "svd": ("fathom.cli.svd", "spectra of weights, of their changes and of adapters"),
    },
    "Measure": {
        "eval": ("fathom.cli.evaluate", "how well a model predicts a text, and what quantising it costs"),
        "verify": ("fathom.cli.evaluate", "check that a model computes what it should"),
        "bench": ("fathom.cli.bench", "how fast a model runs, trains and starts on this machine"),
    },
    "Convert": {
        "export": ("fathom.cli.export", "write a model in another format, and compare what was written"),
        "eject": ("fathom.cli.export", "write a model as one readable Python file that needs torch alone"),
        "merge": ("fathom.cli.export", "add an adapter to a model's weights"),
        "extract": ("fathom.cli.svd", "the best adapter of a full fine-tune (SVD)"),
    },
    "Help": {
        "help": ("fathom.cli.help", "this text, or the help of a verb"),
        "completion": ("fathom.cli.help", "completion with Tab for bash, zsh and fish"),
    },
}
VERBS = {name: entry for verbs in GROUPS.values() for name, entry in verbs.items()}

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
        if cmd_name not in VERBS and cmd_name in import_module("fathom").__all__:
            raise FathomError(f"{cmd_name} is not a verb but a Python function; {_in_python(cmd_name)}")
        if cmd_name not in VERBS:
            raise FathomError(f"no verb {cmd_name!r}{near(cmd_name, VERBS, then='verbs')} are {', '.join(VERBS)}")
        module, _ = VERBS[cmd_name]
        command: click.Command = getattr(import_module(module), cmd_name.replace("-", "_") + "_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, VERBS))
        for title, group in GROUPS.items():
            with formatter.section(title):
                write_options(formatter, [(name, about) for name, (_, about) in group.items()], width)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        formatter.write("\nfathom VERB --help explains a verb; fathom --version says what runs here.\n")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name, help=about) for name, (_, about) in VERBS.items() if name.startswith(incomplete)]


def _in_python(name: str) -> str:
    """What to do about the name of a function as a verb."""
    verb = next((f"; did you mean fathom {verb}?" for verb in VERBS if name.startswith(verb)), "")
    return f"python -c 'import fathom; help(fathom.{name})' shows how it is used{verb}"


def _show_version(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        say(import_module("fathom.cli.help").version())
        ctx.exit()


@click.group(
    cls=Verbs,
    help=HELP,
    context_settings={"help_option_names": HELP_NAMES},
    no_args_is_help=False,
    options_metavar="",
    subcommand_metavar="VERB [OPTIONS]",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version)
def verbs() -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run one call and return its exit code; every mistake ends in one line on stderr."""
    prepare_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        arguments = ["--help"]
    if instruction := os.environ.get("_FATHOM_COMPLETE"):
        code: int = import_module("fathom.cli.completion").answer(verbs, instruction)
        return code
    try:
        listeners[:] = [announce]
        outcome = verbs.main(arguments, prog_name="fathom", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except (BrokenPipeError, SystemExit):  # the reader has gone, as in `fathom generate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, click.Abort):
        return _end("stopped", 130)
    except Exception as error:
        if "--debug" in arguments[1:]:
            raise
        return _end(*explain(error))


def explain(error: Exception) -> tuple[str, int]:
    """One line for the reader, and the exit code."""
    match error:
        case FathomError():
            return str(error), error.exit_code
        case click.NoSuchOption():
            return unknown_option(error.option_name, error.ctx), 2
        case click.ClickException():
            return " ".join(error.format_message().split()), 2
        case OSError() if error.filename is not None:
            return f"{error.filename}: {(error.strerror or str(error)).lower()}", 2
        case OSError():
            return f"system error: {error}", 2
        case MemoryError() | RuntimeError() if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            return "not enough memory; use a smaller model or batch, a narrower --dtype, or --quantize", 2
    return f"{type(error).__name__}: {' '.join(str(error).split())} (this is a bug; --debug shows where)", 2


def unknown_option(name: str, ctx: click.Context | None) -> str:
    """The nearest option of the verb; before a verb there are hardly any."""
    known = [option for param in (ctx.command.params if ctx else []) for option in param.opts if len(option) > 2]
    if ctx and ctx.parent:
        nearest = near(name, known, then="see") if len(name) > 2 else "; see"
        return f"no option {name}{nearest} {ctx.command_path} --help-all"
    nearest = near(name, ["--version", "--help"], then="options")
    return f"no option {name} before the verb{nearest} follow it, as in fathom info runs/demo --json; see fathom --help"


def announce(name: str) -> None:
    """Say why the next ten seconds show nothing."""
    say(f"compiling native code for this machine ({name}): once, and kept", err=True)


def _end(line: str, code: int) -> int:
    said = import_module("fathom.training.voice").last_words(line, code) if one_of_several() else line
    if said is not None:
        say(f"fathom: {said}", err=True)
    return code


def run() -> None:
    """The console script.

    OpenMP threads spin only briefly before they sleep: where another program needs a core, spinning as long as GNU's
    OpenMP does by default makes a training step many times slower.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    warnings.formatwarning = lambda message, *_, **__: f"fathom: {message}\n"
    if not one_of_several():
        sys.exit(main())
    end_with_launcher()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # torch's own account of a broken connection
    if not this_process().first:
        warnings.simplefilter("ignore", UserWarning)
    code = main()
    import_module("fathom.training.voice").linger(code)
    sys.exit(code)
