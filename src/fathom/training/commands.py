"""The commands with which a run continues, as one would type them: generate, measure, train longer, merge, export."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fathom.training.run import BEST, FinetuneRun, Run
from fathom.training.session import Session

ENDINGS = {"gguf": ".gguf", "llama2c": ".bin", "llama2c-v1": ".bin"}  # of files; other formats are folders


@dataclass(frozen=True)
class Command:
    """A command line, and what it does."""

    about: str
    line: str


def commands(run: Run, session: Session, formats: Sequence[str]) -> Iterator[Command]:
    """What can be done with the run. formats: those to which it is exported."""
    folder, name = str(run.folder), str(run.folder.with_name(run.folder.name))
    adapted = isinstance(run, FinetuneRun) and run.tuning.adapted
    if isinstance(run, FinetuneRun) and run.data.records:
        yield Command("ask it", line("chat", folder))
    else:
        prompt = ("-p", run.options.sample_prompt) if run.options.sample_prompt else ()
        yield Command("let it write", line("generate", folder, *prompt, "-n", "400", "-t", "0.8"))
    yield Command(*longer(run, session))
    if not adapted:
        yield Command("measure it on the validation text", line("eval", folder))
    if isinstance(run, FinetuneRun) and adapted:
        merged = f"{name}-merged"
        yield Command(
            "add the adapter to the model's weights",
            line("merge", near(run.base.path), str(run.folder / BEST), "-o", merged),
        )
        folder = merged
    for format in formats:
        out = f"{name}{ENDINGS.get(format, f'-{format}')}"
        yield Command(f"export it to {format}", line("export", folder, "--format", format, "-o", out))


def longer(run: Run, session: Session) -> tuple[str, str]:
    """How the run continues: to its end or, where it has ended, for twice as long."""
    parts = [run.verb, "--resume", "--out-dir", str(run.folder)]
    if not session.finished:
        return "continue it where it stopped", line(*parts)
    minutes = run.options.max_minutes
    more = ("--max-iters", f"{2 * session.step}") if minutes is None else ("--max-minutes", f"{2 * minutes:g}")
    return "train it for twice as long", line(*parts, *more)


def near(path: str) -> str:
    """A path as one types it here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def line(*words: str) -> str:
    return shlex.join(("fathom", *words))
