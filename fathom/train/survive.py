"""What of a run survives its end: one checkpoint holds everything that must go on bit for bit.

model.safetensors  optimizer.safetensors  state.json (step, counts, optimizer settings, random states, losses)
config.yaml  tokenizer.json: enough to go on, and enough to load the model from this folder alone. No pickle.
"""

import json
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.formats import checkpoint
from fathom.formats.config_file import CONFIG
from fathom.formats.native import read_weights
from fathom.formats.run import STATE, best_step
from fathom.formats.tensors import write_tensors
from fathom.tokenizer import load as tokenizers
from fathom.train.events import Note, Report, Saved
from fathom.train.loop import Session
from fathom.train.run import Run
from fathom.train.state import load_optimizer_state, optimizer_state, random_states, restore_random_states

OPTIMIZER = "optimizer.safetensors"


def save_checkpoint(run: Run, session: Session, report: Report) -> None:
    """Save where the session stands; the newest `keep` and the best so far stay."""
    tensors, optimizer = optimizer_state(session.optimizers.parts, session.model.named_parameters())
    values = {
        "step": session.step,
        "tokens": session.tokens,
        "seconds": session.seconds,
        "validation_loss": session.validation_loss,
        "optimizer": optimizer,
        "dtype": str(session.precision.dtype),
        "scaler": session.scaler.state_dict(),
        "random": random_states(),
    }
    files: dict[str, checkpoint.Content] = {
        **run.contents(session.model),
        OPTIMIZER: lambda path: write_tensors(path, tensors),
        STATE: json.dumps(values).encode(),
        CONFIG: (run.folder / CONFIG).read_bytes(),
        tokenizers.FILE: (run.folder / tokenizers.FILE).read_bytes(),
    }
    path = checkpoint.save(run.checkpoints, session.step, files, run.options.keep, best_step(run.checkpoints))
    run.saved()
    report(Saved(session.step, path))


def restore(run: Run, session: Session, report: Report) -> checkpoint.Found:
    """Put the session where the newest checkpoint that holds was made."""
    found = checkpoint.latest(run.checkpoints)
    values = read_state(found.path / STATE)
    run.put_back(session.model, found.path)
    tensors = read_weights(found.path / OPTIMIZER)
    load_optimizer_state(session.optimizers.parts, session.model.named_parameters(), tensors, values["optimizer"])
    if values["scaler"] and session.scaler.is_enabled():
        session.scaler.load_state_dict(values["scaler"])
    if values["dtype"] != str(session.precision.dtype):
        now = f"this machine computes in {session.precision.dtype}, the run did in {values['dtype']}"
        report(Note(f"{now}: it goes on, but not bit for bit", warning=True))
    if restore_random_states(values["random"]):
        report(Note("this machine has other GPUs than the run had: what is random on them starts anew", warning=True))
    session.step, session.tokens, session.seconds = values["step"], values["tokens"], values["seconds"]
    return found


def read_state(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FathomError(f"{path} cannot be read: {error}; remove this checkpoint to use the one before it") from None
    return values
