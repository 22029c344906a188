"""`fathom.evaluate_tasks`: the scores of a model on the tasks of lm-eval (EleutherAI's harness), by their names.

The package brings tasks, prompts and metrics; `harness` answers its requests. Gao et al., "A framework for few-shot
language model evaluation".
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fathom.adapters.load import Adapters, load
from fathom.backend.inference import prepare_for_inference
from fathom.errors import FathomError, near
from fathom.fields import build, plain
from fathom.formats.tokenizer import require_tokenizer
from fathom.model.transformer import Transformer
from fathom.report.table import plain as as_text
from fathom.report.table import table
from fathom.running.ready import described
from fathom.tokenizer.protocol import Tokenizer
from fathom.training.events import Prepared, Report
from fathom.training.shown import shown
from fathom.verification import quantised
from fathom.verification.options import TaskOptions
from fathom.verification.prediction import require_floats
from fathom.words import counted

if TYPE_CHECKING:
    from fathom.verification.harness import HarnessModel

SEED = 1234  # of few-shot examples, as lm-eval has it
OWN = "float"


@dataclass(frozen=True)
class Figure:
    """One metric of a task."""

    task: str
    metric: str  # such as acc, acc_norm, exact_match; after a comma the filter that answers went through
    shots: int | None  # examples before each question; None: a group of tasks
    values: Mapping[str, float]  # by how the weights are packed: float, int8 ...
    errors: Mapping[str, float | None]  # standard errors; None: lm-eval has none for this metric
    higher_is_better: bool | None


@dataclass(frozen=True, repr=False)
class TaskScores:
    """The scores of a model on tasks. Printed, they are the table of `fathom eval --tasks`."""

    model: str
    run: str  # device, dtype, packing
    samples: Mapping[str, int]  # questions of each task
    figures: tuple[Figure, ...]
    chat_template: bool

    def __getitem__(self, task: str) -> dict[str, float]:
        """The metrics of a task by name, of the model as it is."""
        found = {figure.metric: next(iter(figure.values.values())) for figure in self.figures if figure.task == task}
        if not found:
            known = list(dict.fromkeys(figure.task for figure in self.figures))
            raise FathomError(f"no scores of {task!r}; tasks are {', '.join(known)}")
        return found

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return plain(self)

    def __repr__(self) -> str:
        kinds = list(self.figures[0].values)
        heads = ["task", "shots", "metric", "", *(head for kind in kinds for head in (named(kind, kinds), "±"))]
        rows = []
        for figure in self.figures:
            cells = [figure.task, "" if figure.shots is None else str(figure.shots), figure.metric]
            cells.append({True: "higher is better", False: "lower is better", None: ""}[figure.higher_is_better])
            for kind in kinds:
                error = figure.errors[kind]
                cells += [f"{figure.values[kind]:.4f}", "" if error is None else f"{error:.4f}"]
            rows.append(cells)
        asked = "questions in the model's chat template" if self.chat_template else "plain text"
        total = counted(sum(self.samples.values()), "question")
        lines = [f"{self.model}: {self.run}", f"{total} as {asked}; ± is the standard error", ""]
        return "\n".join([*lines, as_text(table(heads, rows, numbers=(1, *range(4, len(heads)))))]).rstrip()


def named(kind: str, kinds: Sequence[str]) -> str:
    """The head of a column: there is no choice to name where there is one."""
    return kind if len(kinds) > 1 else "value"


def evaluate_tasks(
    model: str | Path,
    tasks: str | Sequence[str],
    adapter: Adapters | None = None,
    options: TaskOptions | None = None,
    report: Report | None = None,
    **changes: Any,
) -> TaskScores:
    """The scores of a model on the tasks of lm-eval; `pip install 'fathom-lm[eval]'` brings it.

        >>> scores = fathom.evaluate_tasks("runs/demo", ["hellaswag", "piqa"], limit=100)
        >>> scores["hellaswag"]["acc_norm"]

    model: the path of a model in any format. tasks: names of lm-eval's tasks, groups and tags, patterns such as
    mmlu_*, or YAML files of tasks. adapter: a folder, or several, on the model. options, or any field of TaskOptions by
    name: num_fewshot, limit, include_path (a folder of tasks; it may hold code, which runs), batch_size,
    apply_chat_template, quantize, dtype, device. report: called with the progress.

    Returns a TaskScores; printed, it is a table. FathomError: no such model or task, data that cannot be fetched,
    lm-eval is not installed.
    """
    chosen = build(TaskOptions, plain(options or TaskOptions()) | changes, "eval")
    names = [name.strip() for name in (tasks.split(",") if isinstance(tasks, str) else tasks)]
    require_lm_eval()
    schemes = [] if chosen.quantize is None else quantised.schemes(chosen.quantize)
    if chosen.quantize is not None:
        require_floats(model, chosen.quantize, adapter)
    found = find_tasks(names, chosen.include_path)
    network, its_own = load(model, chosen.dtype, chosen.device, adapter=adapter)
    tokenizer = require_tokenizer(its_own, model)
    if chosen.apply_chat_template and tokenizer.special.template is None:
        raise FathomError(f"{model} has no chat template; leave --apply-chat-template out")
    packed = {scheme: prepare_for_inference(quantised.packed_copy(network, scheme)) for scheme in schemes}
    adapters = () if adapter is None else (adapter,) if isinstance(adapter, str | Path) else adapter
    run = described(network, adapters=adapters)
    with shown(report, model) as listener:
        results = {
            kind: answers(found, each, tokenizer, chosen, listener)
            for kind, each in {OWN: prepare_for_inference(network), **packed}.items()
        }
    counts = {name: entry["effective"] for name, entry in results[OWN]["n-samples"].items()}
    return TaskScores(str(model), run, counts, tuple(figures(results)), chosen.apply_chat_template)


def require_lm_eval() -> None:
    """FathomError where the package is not installed."""
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError:
        raise FathomError(
            "lm-eval, which holds the tasks, is not installed; pip install 'fathom-lm[eval]', or measure on a text with"
            " --data"
        ) from None


def find_tasks(names: Sequence[str], folder: str | None) -> Mapping[str, Any]:
    """lm-eval's tasks and groups of these names, with their data. FathomError: there is none, or no data."""
    if "" in names or not names:
        raise FathomError("--tasks has an empty name; expected names of tasks separated by commas, such as hellaswag")
    if folder is not None and not Path(folder).is_dir():
        raise FathomError(f"--include-path is {folder}, which is not a folder; give one that holds YAML files of tasks")
    with quiet():
        manager = manager_of(names, folder)
        known, wanted = manager.all_tasks, list[str]()
        for name in names:
            matches = manager.match_tasks([name]) if set("*?[") & set(name) else [name] * (name in known)
            if not matches and not is_yaml(name):
                raise FathomError(f"no task {name!r}{near(name, known)}; lm-eval ls tasks lists all {len(known):,}")
            wanted += matches or [name]
        try:
            found: Mapping[str, Any] = manager.load(list(dict.fromkeys(wanted)))
        except Exception as problem:  # of another library, or of a task's own code
            raise FathomError(
                f"{', '.join(names)}: a task or its data cannot be loaded ({reason(problem)}); data sets are fetched"
                " from the hub, unless the task names local files (dataset_path: json)"
            ) from problem
    return found


def manager_of(names: Sequence[str], folder: str | None) -> Any:
    """lm-eval's index of tasks. Its own 14,000 take ten seconds to read, and stay closed where the folder has all."""
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=folder, include_defaults=False)
    if all(name in own.all_subtasks or is_yaml(name) for name in names):
        return own
    return TaskManager(include_path=folder)


def is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def reason(problem: Exception) -> str:
    """What went wrong, on one line."""
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text if len(text) < 200 else f'{text[:200]}…'}"


def answers(
    found: Mapping[str, Any], model: Transformer, tokenizer: Tokenizer, options: TaskOptions, report: Report
) -> Mapping[str, Any]:
    """lm-eval's results of one model, with its own seeds, as `lm_eval.simple_evaluate` gives them."""
    from lm_eval.evaluator import evaluate

    from fathom.verification.harness import HarnessModel

    asked: HarnessModel = HarnessModel(
        model, tokenizer, options.batch_size, lambda what, done, total: report(Prepared(what, done, total))
    )
    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    for task in found["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (options.num_fewshot is not None and own != 0):  # a task that says 0 means it
            task.set_config(key="num_fewshot", value=options.num_fewshot or 0)
        task.set_fewshot_seed(seed=SEED)
    with quiet():
        try:
            return evaluate(
                lm=asked,
                task_dict=found,
                limit=options.limit,
                log_samples=False,
                apply_chat_template=options.apply_chat_template,
                fewshot_as_multiturn=options.apply_chat_template,
            )
        except ValueError as problem:  # lm-eval refuses a task: code that it would run, images
            raise FathomError(f"lm-eval refuses: {reason(problem)}") from problem


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that lm-eval and its libraries print, warn of or draw, until the block ends: progress is `report`'s."""
    from tqdm import tqdm

    before, draw = logging.root.manager.disable, tqdm.__init__
    logging.disable(logging.WARNING)
    tqdm.__init__ = partialmethod(draw, disable=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tqdm.__init__ = draw
        logging.disable(before)


def figures(results: Mapping[str, Mapping[str, Any]]) -> Iterator[Figure]:
    """The metrics of all tasks and groups, those of each packing beside each other."""
    first = results[OWN]
    for task, metrics in first["results"].items():
        for key, value in metrics.items():
            metric, _, chosen = key.partition(",")
            if not chosen or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = f"{metric}_stderr,{chosen}"
            found = {kind: result["results"][task].get(error) for kind, result in results.items()}
            yield Figure(
                task,
                metric if chosen == "none" else key,
                first["n-shot"].get(task),
                {kind: float(result["results"][task][key]) for kind, result in results.items()},
                {kind: float(x) if isinstance(x, int | float) else None for kind, x in found.items()},
                first["higher_is_better"].get(task, {}).get(metric),
            )
