"""The source of one model: what `fold` makes of the package's own classes and functions, in one file's order."""

import ast
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fathom.model import position
from fathom.model.config import ResolvedConfig
from fathom.model.transformer import Block, Transformer
from fathom.one_file.fold import Fold
from fathom.one_file.known import UNKNOWN, Method, Part
from fathom.one_file.lines import documented, lines_of, quoted
from fathom.one_file.unread import KEPT, drop, without_unread
from fathom.one_file.work import Key, Site, Work, called_as, definer_of, is_docstring, is_number, ours, plain

ORDER = ("transformer", "ends", "position", "attention", "mlp", "norm")  # callers before what they call


def source_of(config: ResolvedConfig) -> tuple[str, set[str]]:
    """The classes and functions of a model with this config, and which fields of the config they read."""
    with torch.device("meta"):
        model = Transformer(config)
    instances: dict[type, list[nn.Module]] = {}
    for module in model.modules():
        instances.setdefault(type(module), []).append(module)
    work = Work(model, config, instances)
    work.need((Transformer, "__init__"))
    work.need((Transformer, "forward"))
    for cls in instances:
        for name in KEPT:
            if ours(definer_of(cls, name)):
                work.need((cls, name))
    made = made_of(work)
    for key, definition in made.items():
        if key[0] is Transformer:
            Unhanded(handed(config)).visit(definition)
    without_unread(made, work)
    text = written(work, made)
    read = [each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Attribute)]
    return text, {each.attr for each in read if ast.unparse(each.value) == "config"}


def made_of(work: Work) -> dict[Key, ast.FunctionDef]:
    """Each function that is needed, folded once all that call it are."""
    made: dict[Key, ast.FunctionDef] = {}
    inside = {
        cls: {type(part) for one in several for part in one.modules()} - {cls}
        for cls, several in work.instances.items()
    }
    while pending := [key for key in work.needed if key not in made]:
        key = following(pending, inside)
        made[key] = function_of(work, key)
    return made


def following(pending: Sequence[Key], inside: dict[type, set[type]]) -> Key:
    """The first of these that none of the others calls. inside: which classes of modules a class holds."""
    held = {cls for key in pending for cls in inside.get(key[0], ())}
    pending = [key for key in pending if key[0] not in held]

    def rank(key: Key) -> int:
        module = (definer_of(key[0], plain(key)) if key[1] else key[0]).__module__.rpartition(".")[2]
        return 2 * (ORDER.index(module) if module in ORDER else len(ORDER)) + (not key[1])

    first = min(map(rank, pending))
    same = [key for key in pending if rank(key) == first]
    called = {name for key in same for name in code_of(key).co_names if name != called_as(key)}
    return next((key for key in same if called_as(key) not in called), same[0])


def resolved(key: Key) -> tuple[Any, type | None]:
    """The function itself, and the class that defines it."""
    thing, name = key
    if not name:
        return thing, None
    method, _, parent = name.partition(" of ")
    definer = next(each for each in thing.__mro__ if each.__name__ == parent) if parent else definer_of(thing, method)
    found = vars(definer)[method]
    return (found.fget if isinstance(found, property) else found), definer


def code_of(key: Key) -> Any:
    return inspect.unwrap(resolved(key)[0]).__code__


def function_of(work: Work, key: Key) -> ast.FunctionDef:
    """The function as this model has it, and the calls of it without what is known."""
    function, definer = resolved(key)
    sites = work.sites.get(key, [])
    known = agreed(work, sites)
    if key[1] == "forward" and issubclass(key[0], Block):
        known |= handed(work.config)
    varying = differing(work, sites)
    fold = Fold(work, function, known, key[0] if key[1] else None, varying, definer)
    definition = fold.definition
    body = fold.body()
    definition.name = called_as(key)
    gone = {
        name
        for name, value in known.items()
        if value is not UNKNOWN and not is_number(value) and not isinstance(value, Part)
    }
    drop(definition, gone, sites)
    for name in sorted(varying):
        definition.args.args.append(ast.arg(name, ast.Name("int", ast.Load())))
        for site in sites:
            theirs = site.known.get("config")
            value = getattr(theirs, name)
            same = value == getattr(work.config, name)
            site.node.keywords.append(
                ast.keyword(
                    name,
                    ast.Attribute(ast.Name("config", ast.Load()), name, ast.Load()) if same else ast.Constant(value),
                )
            )
    definition.body = body if any(not is_docstring(one) for one in body) else [*body, ast.Pass()]
    definition.decorator_list = [one for one in definition.decorator_list if ast.unparse(one) == "property"]
    return definition


def agreed(work: Work, sites: Sequence[Site]) -> dict[str, Any]:
    """The parameters that are known, and the same, wherever the function is called."""
    if not sites:
        return {"config": work.config}
    found = {}
    for name in sites[0].known:
        values = [site.known.get(name, UNKNOWN) for site in sites]
        if isinstance(values[0], ResolvedConfig) or (
            all(type(value) is type(values[0]) and value == values[0] for value in values)
            and not isinstance(values[0], Method)
        ):
            found[name] = values[0]
    return found


def differing(work: Work, sites: Sequence[Site]) -> frozenset[str]:
    """Sizes in which a module is not everywhere as the config says: the width of experts and of what stands beside."""
    configs = [site.known["config"] for site in sites if isinstance(site.known.get("config"), ResolvedConfig)]
    return frozenset(
        name for name in ("d_ff",) if any(getattr(one, name) != getattr(work.config, name) for one in configs)
    )


def handed(config: ResolvedConfig) -> dict[str, Any]:
    """What every block is given that this model does without: a rotation, a mask."""
    windows = any(config.layers.window_of(layer) for layer in range(config.n_layer))
    masks = {} if windows or config.position == "alibi" else {"visible": None}
    return masks if config.position == "rope" else masks | {"rotate": position.unrotated}


class Unhanded(ast.NodeTransformer):
    """`views` gives blocks as many things as are left: (rotation, visible), one of them, or nothing."""

    def __init__(self, gone: dict[str, Any]) -> None:
        self.gone = gone

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.targets[0], ast.Subscript) and isinstance(node.value, ast.Tuple):
            kept = [one for name, one in zip(("rotate", "visible"), node.value.elts) if name not in self.gone]
            node.value = kept[0] if len(kept) == 1 else ast.Tuple(kept, ast.Load())
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        args = []
        for one in node.args:
            if not isinstance(one, ast.Starred) or "views" not in ast.unparse(one):
                args.append(one)
            elif len(self.gone) < 2:
                args.append(one.value if self.gone else one)
        node.args = args
        return node


def written(work: Work, made: dict[Key, ast.FunctionDef]) -> str:
    functions = [key for key in made if not key[1]]
    classes = list(dict.fromkeys(key[0] for key in made if key[1]))

    def place(thing: Any) -> tuple[int, int]:
        module = thing.__module__.rpartition(".")[2]
        return -(ORDER.index(module) if module in ORDER else len(ORDER)), inspect.getsourcelines(thing)[1]

    parts = []
    for value, name in ((value, name) for name, value in work.constants.items()):
        parts.append(f"{name} = {value!r}")
    for record in work.records:
        parts.append("\n".join(one for one in inspect.getsource(record).splitlines()))
    things = sorted({*classes, *(key[0] for key in functions)}, key=place)
    for thing in things:
        if (thing, "") in made:
            parts.append("\n".join(lines_of(made[thing, ""], 0)))
            continue
        methods = [made[key] for key in made if key[0] is thing and key[1]]
        methods.sort(key=lambda one: (one.name != "__init__", one.name != "forward"))
        base = next(each for each in thing.__mro__ if not ours(each))
        head = [f"class {thing.__name__}({'nn.' + base.__name__}):", *documented(inspect.getdoc(thing), 4)]
        for one in methods:
            head += ["", *lines_of(one, 4)]
        parts.append("\n".join(head))
    return quoted("\n\n\n".join(parts) + "\n")
