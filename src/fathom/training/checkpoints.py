"""Saving and restoring checkpoints: one holds everything that a run needs to continue, bit for bit.

model.safetensors  optimizer.safetensors  state.json (step, counts, optimizer settings, random states, losses)
config.yaml  tokenizer.json: so that the model can be loaded from this folder alone. No pickle.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from fathom.errors import FathomError
from fathom.formats import checkpoint
from fathom.formats.config_file import CONFIG
from fathom.formats.run import STATE, best_step
from fathom.formats.safetensors_file import TensorFile, read_tensors
from fathom.tokenizer import load as tokenizers
from fathom.training.events import Note, Report, Saved
from fathom.training.run import Run
from fathom.training.session import Session
from fathom.training.world import World
from fathom.words import article

OPTIMIZER = "optimizer.safetensors"


def save_checkpoint(run: Run, session: Session, report: Report) -> None:
    """Save the session; the newest `keep` checkpoints and the best stay.

    Processes that hold parts of a model make one tensor after another whole, and the first writes it: the files are
    those of one process, and any number of processes reads them. FathomError in all where that cannot be.
    """
    learner, world = session.learner, session.world
    tensors, optimizer = optimizer_state(session.optimizers.parts, session.model.named_parameters())
    name, learned, more = run.learned(learner)
    weights, state = TensorFile(learned, learner.whole), TensorFile(tensors, learner.whole)
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
        name: weights.write,
        **more,
        OPTIMIZER: state.write,
        STATE: json.dumps(values).encode(),
        CONFIG: (run.folder / CONFIG).read_bytes(),
        tokenizers.FILE: (run.folder / tokenizers.FILE).read_bytes(),
    }
    problem: FathomError | None = None
    try:
        if world.first:
            checkpoint.save(run.checkpoints, session.step, files, run.options.keep, best_step(run.checkpoints))
            run.after_save()
    except FathomError as error:
        problem = error
    finally:
        weights.skip()  # whatever has failed, the others wait for no tensor in vain
        state.skip()
    if world.agreed(problem is not None):
        raise problem or FathomError(f"the first process could not save a checkpoint of step {session.step}")
    report(Saved(session.step, checkpoint.place(run.checkpoints, session.step)))


def restore(run: Run, session: Session, report: Report) -> None:
    """Put a session at step 0 where the newest intact checkpoint of the run was saved, if there is one."""
    if not checkpoint.newest_first(run.checkpoints):
        report(Note(f"{run.folder} has no checkpoint yet: starting at step 1"))
        return
    newest = newest_of(run.checkpoints, session.world)
    restore_from(newest.path, run, session, report)
    for path, reason in newest.skipped:
        report(Note(f"{path} is damaged and was skipped: {reason}", warning=True))
    report(Note(f"resuming {run.folder} at step {session.step:,}"))
    if session.finished:
        by_time = session.step < session.options.max_iters
        more = f"--max-minutes above {session.seconds / 60:.2f}" if by_time else f"--max-iters above {session.step}"
        report(Note(f"this run is complete; to train it further, give {more}"))


def restore_from(path: Path, run: Run, session: Session, report: Report) -> None:
    """Put a session at step 0 where this checkpoint of the run was saved."""
    learner, values = session.learner, read_state(path / STATE)
    run.load_weights(learner, path)
    tensors, named = read_tensors(path / OPTIMIZER), session.model.named_parameters()
    load_optimizer_state(session.optimizers.parts, named, tensors, values["optimizer"], learner.own)
    if values["scaler"] and session.scaler.is_enabled():
        session.scaler.load_state_dict(values["scaler"])
    session.step, session.tokens, session.seconds = values["step"], values["tokens"], values["seconds"]
    if values["dtype"] != str(session.precision.dtype):
        now = f"this machine computes in {session.precision.dtype}, the run did in {values['dtype']}"
        report(Note(f"{now}: it continues, but not bit for bit", warning=True))
    if restore_random_states(values["random"]):
        report(Note("this machine has other GPUs than the run had: their random numbers are new", warning=True))


def newest_of(folder: Path, world: World) -> checkpoint.Checkpoint:
    """The newest intact checkpoint: the first process reads them through, and all take the same."""
    found, problem = None, None
    if world.first:
        try:
            found = checkpoint.latest(folder)
        except FathomError as error:
            problem = error
    if world.agreed(problem is not None):
        raise problem or FathomError(f"the first process found no intact checkpoint in {folder}")
    step = world.count(found.step if found else 0)
    return found or checkpoint.Checkpoint(checkpoint.place(folder, step), step, ())


def read_state(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FathomError(f"{path} cannot be read: {error}; remove this checkpoint to use the one before it") from None
    return values


# Optimizer state and random states as tensors in a flat dict and plain JSON. Both invert exactly, without pickle.
# Parameters are known by name, so a reordered model still gets its own momentum.

Named = Iterable[tuple[str, Tensor]]  # as `model.named_parameters()`
MACHINE = ("fused", "foreach", "capturable", "differentiable")  # how a step is computed: this machine's choice is kept


def optimizer_state(optimizers: Sequence[Optimizer], named: Named) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All state of the optimizers of one model as (tensors by name, JSON). The tensors are the live ones, not copies.

    Per parameter `{name}/{key}`, for example `blocks.0.attn.q.weight/exp_avg`; learning rates and the like are JSON.
    """
    names, tensors = {parameter: name for name, parameter in named}, dict[str, Tensor]()
    groups = []
    for index, group in enumerate(_groups(optimizers)):
        settings = {key: value for key, value in group.items() if key not in ("params", *MACHINE)}
        saved = {key: _freeze(value, f"groups/{index}/{key}", tensors) for key, value in settings.items()}
        groups.append({"parameters": [_name(names, parameter) for parameter in group["params"]], "settings": saved})
    state = {}
    for parameter, entries in (item for optimizer in optimizers for item in optimizer.state.items()):
        name = _name(names, parameter)
        state[name] = {key: _freeze(value, f"{name}/{key}", tensors) for key, value in entries.items()}
    return tensors, {"groups": groups, "state": state}


def load_optimizer_state(
    optimizers: Sequence[Optimizer],
    named: Named,
    tensors: Mapping[str, Tensor],
    saved: Mapping[str, Any],
    own: Callable[[Tensor, Tensor], Tensor] = lambda whole, like: whole,
) -> None:
    """Restore what `optimizer_state` returned. FathomError, and nothing changed, when parameters or tensors differ.

    Dtypes stay as saved (torch's own `load_state_dict` would cast them to the parameter's). own: what a process takes
    of a whole tensor where it holds a part of the parameter.
    """
    names = {parameter: name for name, parameter in named}
    groups = list(_groups(optimizers))
    saved_names = [set(group["parameters"]) for group in saved["groups"]]
    _require_same_parameters([{_name(names, p) for p in group["params"]} for group in groups], saved_names)
    _require_same("tensor", set(_references(saved)), set(tensors))
    for group, stored in zip(groups, saved["groups"]):
        for key, value in stored["settings"].items():
            group[key] = _thaw(value, tensors, getattr(group.get(key), "device", torch.device("cpu")))
    for optimizer in optimizers:
        optimizer.state.clear()
        for group, parameter in ((each, p) for each in optimizer.param_groups for p in each["params"]):
            if (entries := saved["state"].get(names[parameter])) is not None:
                optimizer.state[parameter] = {
                    key: _part(_thaw(value, tensors, _device(key, group, parameter)), parameter, own)
                    for key, value in entries.items()
                }


def random_states() -> dict[str, Any]:
    """The state of every global random generator, as plain JSON: torch on CPU and each CUDA device, Python, NumPy."""
    states = {
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
    }
    plain: dict[str, Any] = json.loads(json.dumps(states, default=np.ndarray.tolist))
    return plain


def restore_random_states(states: Mapping[str, Any]) -> list[str]:
    """Restore what `random_states` returned; returns what this machine has no generators for, as ["cuda"]."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(_unhex(states["torch"]))
    cuda = [_unhex(state) for state in states["cuda"]]
    if len(cuda) != (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        return ["cuda"]
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    return []


def _groups(optimizers: Sequence[Optimizer]) -> Iterator[dict[str, Any]]:
    return (group for optimizer in optimizers for group in optimizer.param_groups)


def _name(names: Mapping[Tensor, str], parameter: Tensor) -> str:
    if parameter not in names:
        raise FathomError(
            f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that the model does not name"
        )
    return names[parameter]


def _device(key: str, group: Mapping[str, Any], parameter: Tensor) -> torch.device:
    """Where torch's optimizers keep state: beside the parameter, but the step count on the CPU unless fused."""
    beside = key != "step" or group.get("fused") or group.get("capturable")
    return parameter.device if beside else torch.device("cpu")


def _freeze(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go into `tensors` under `name` and leave a reference."""
    match value:
        case Tensor():
            tensors[name] = value.detach().clone() if value.ndim == 0 else value.detach()  # groups may share a scalar
            return {"tensor": name}
        case tuple():
            return {"tuple": [_freeze(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]}
        case None | bool() | int() | float() | str():
            return value
    raise FathomError(
        f"optimizer state {name} is {article(type(value).__name__)}; expected a tensor, number, text or tuple"
    )


def _thaw(value: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    match value:
        case {"tensor": name}:
            return tensors[name].to(device, copy=True)
        case {"tuple": items}:
            return tuple(_thaw(item, tensors, device) for item in items)
    return value


def _part(value: Any, parameter: Tensor, own: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Of a tensor of the parameter's shape what this process holds, with the parameter's strides, on which fused steps
    rely."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    part = own(value, parameter)
    return part if part.stride() == parameter.stride() else torch.empty_like(parameter, dtype=part.dtype).copy_(part)


def _references(saved: Any) -> Iterator[str]:
    """Names of all tensors that the JSON refers to."""
    match saved:
        case {"tensor": str(name)}:
            yield name
        case dict():
            for item in saved.values():
                yield from _references(item)
        case list():
            for item in saved:
                yield from _references(item)


def _require_same_parameters(groups: list[set[str]], saved: list[set[str]]) -> None:
    _require_same("parameter", set().union(*saved), set().union(*groups))
    if saved != groups:
        raise FathomError(
            "optimizer state: the parameters are grouped in another way than when it was saved; "
            "resume with the optimizer and weight-decay options of the run"
        )


def _require_same(kind: str, saved: set[str], here: set[str]) -> None:
    """FathomError unless the names in the checkpoint are those of this run."""
    for names, problem in ((saved - here, "was saved and is not here"), (here - saved, "was not saved")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise FathomError(
                f"optimizer state: {kind} {min(names)!r}{more} {problem}; resume with the model of the run"
            )


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _unhex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
