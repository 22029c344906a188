"""What a run was trained on, where a model is one: the part of its data that it has never seen, and whether a text is
among what it has."""

from pathlib import Path

from fathom.data.record_files import is_record_file
from fathom.errors import FathomError
from fathom.formats.config_file import CONFIG, read_config
from fathom.formats.run import DATA_SUMMARY
from fathom.training.data import fingerprint as of_files
from fathom.training.run import FinetuneRun, Run, open_finetune_run, open_run
from fathom.verification.evaluate import (
    EvalSet,
    checked_stride,
    of_record,
    scored_records,
    scored_text,
    spread,
    window,
    windows,
)


def run_at(model: str | Path) -> Run | FinetuneRun | None:
    """The run that a model is, or one of whose checkpoints it is; None where it is none."""
    path = Path(model)
    for folder in (path, path.parent.parent):
        if (folder / CONFIG).is_file() and (folder / DATA_SUMMARY).is_file():
            return open_finetune_run(folder) if "finetune" in read_config(folder / CONFIG) else open_run(folder)
    return None


def validation_part(model: str | Path, context_length: int, stride: int | None, limit: int | None) -> EvalSet:
    """The data that a run was validated on and not trained on. FathomError where the model is no run."""
    run = run_at(model)
    if run is None:
        raise FathomError(f"{model} is no run, whose data would be known; name a text or records: --data FILE")
    part = f"the validation part of {run.data.corpus}, never trained on"
    if isinstance(run, FinetuneRun) and run.data.records:
        if stride is not None:
            raise FathomError(f"{run.data.corpus} holds records, which have no stride; leave --stride out")
        held = run.examples("val")
        chosen = spread(range(len(held)), limit)
        return EvalSet(f"{part}: only the answers are scored", (of_record(held[i]) for i in chosen), len(chosen), None)
    tokens, stride = run.tokens("val"), checked_stride(stride, context_length)
    places = spread(windows(len(tokens), context_length, stride), limit)
    about = f"{part}, in windows of {context_length} tokens, {stride} apart"
    return EvalSet(about, (window(tokens, *place) for place in places), len(places), stride)


def warning(model: str | Path, data: str) -> str:
    """A line for the reader where the run was trained on these data; empty where it was not, or cannot be known."""
    run = run_at(model)
    if run is None or fingerprint(data) != run.data.fingerprint:
        return ""
    return (
        f"{model} was trained on most of {data}: this loss is better than on new text; leave --data out for the part"
        " that it has never seen"
    )


def fingerprint(data: str) -> str:
    """The sha256 of what is scored of the data, as runs keep that of what they learn."""
    return of_files(scored_records(data)) if is_record_file(data) else scored_text(data).fingerprint()
