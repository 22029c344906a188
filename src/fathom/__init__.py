"""Fathom: understand language models by building, training and running them.

    >>> import fathom
    >>> fathom.train("demo", "runs/demo")                           # learn to write, in about a minute
    >>> print(fathom.generate("runs/demo", "The ")[0])              # write
    >>> model, tokenizer = fathom.load("runs/demo")                 # the readable model, a torch module
    >>> with fathom.look(model, "blocks.*.attn.pattern") as seen:   # look inside
    ...     model(torch.tensor([tokenizer.encode("The ")]))
    >>> fathom.export("runs/demo", "demo.gguf", format="gguf")      # take it elsewhere

Train:    prepare  train  finetune  replay  ladder  plan
Run:      load  demo  generate  stream  chat
Measure:  evaluate  evaluate_tasks  verify  info
Look:     look  show  edit  zero  swap
Convert:  export  eject  merge  extract

Each is a function with a help page of its own: help(fathom.train). The classes are Transformer, ModelConfig, KVCache
and FathomError, which every mistake of a call ends in. All of it is also on the command line: fathom --help.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what editors and type checkers see; a test compares it with PUBLIC
    from fathom.adapters.export import export as export
    from fathom.adapters.info import info as info
    from fathom.adapters.load import load as load
    from fathom.adapters.merge import merge as merge
    from fathom.anatomy.swap import swap as swap
    from fathom.errors import FathomError as FathomError
    from fathom.experiments.experiment import ladder as ladder
    from fathom.glass.show import show as show
    from fathom.inspect.edit import edit as edit
    from fathom.inspect.edit import zero as zero
    from fathom.inspect.look import look as look
    from fathom.lab.extract import extract as extract
    from fathom.model.cache import KVCache as KVCache
    from fathom.model.config import ModelConfig as ModelConfig
    from fathom.model.transformer import Transformer as Transformer
    from fathom.one_file.eject import eject as eject
    from fathom.planning.plan import plan as plan
    from fathom.running.chat import chat as chat
    from fathom.running.demo import demo as demo
    from fathom.running.generate import generate as generate
    from fathom.running.generate import stream as stream
    from fathom.training.finetune import finetune as finetune
    from fathom.training.prepare import prepare as prepare
    from fathom.training.replay import replay as replay
    from fathom.training.train import train as train
    from fathom.verification.prediction import evaluate as evaluate
    from fathom.verification.tasks import evaluate_tasks as evaluate_tasks
    from fathom.verification.verify import verify as verify

PUBLIC = {  # name: where it is defined, imported when it is first used, so that `import fathom` is instant
    "FathomError": "errors",
    "KVCache": "model.cache",
    "ModelConfig": "model.config",
    "Transformer": "model.transformer",
    "chat": "running.chat",
    "demo": "running.demo",
    "edit": "inspect.edit",
    "evaluate": "verification.prediction",
    "evaluate_tasks": "verification.tasks",
    "eject": "one_file.eject",
    "export": "adapters.export",
    "extract": "lab.extract",
    "finetune": "training.finetune",
    "generate": "running.generate",
    "info": "adapters.info",
    "ladder": "experiments.experiment",
    "load": "adapters.load",
    "look": "inspect.look",
    "merge": "adapters.merge",
    "plan": "planning.plan",
    "prepare": "training.prepare",
    "replay": "training.replay",
    "show": "glass.show",
    "stream": "running.generate",
    "swap": "anatomy.swap",
    "train": "training.train",
    "verify": "verification.verify",
    "zero": "inspect.edit",
}
__all__ = [name for name in PUBLIC if name.islower()]  # the verbs; `help` would list all that torch's classes inherit

if not TYPE_CHECKING:  # a type checker that saw it would accept every name

    def __getattr__(name: str) -> Any:
        if name not in PUBLIC:
            hint = "" if name.startswith("_") else import_module("fathom.errors").near(name, PUBLIC)
            raise AttributeError(f"module 'fathom' has no attribute {name!r}{hint}")
        value = globals()[name] = getattr(import_module(f"fathom.{PUBLIC[name]}"), name)
        return value


def __dir__() -> list[str]:
    """The public names, and the packages that were imported."""
    hidden = ("__dir__", "__getattr__", "PUBLIC", "TYPE_CHECKING", "Any", "import_module")
    return sorted({*globals(), *PUBLIC} - {*hidden})
