"""Takes out of a model what nothing reads: attributes, names, parameters, and what only they needed."""

import ast
from collections.abc import Sequence

from fathom.one_file.work import Key, Site, Work, called_as, plain

KEPT = ("_apply",)  # methods that torch calls
SIMPLE = {"Tensor", "int", "float", "bool", "str", "None", "tuple", "list", "dict", "nn", "torch", "Module", "device"}


def without_unread(made: dict[Key, ast.FunctionDef], work: Work) -> None:
    """Takes out attributes and names that nothing reads, and what only they needed."""
    while True:
        read = {name for one in made.values() for each in ast.walk(one) for name in attribute_read(each)}
        before = sum(1 for one in made.values() for _ in ast.walk(one))
        quiet = {called_as(key) for key, one in made.items() if key[1] and is_quiet(one)}
        for key, definition in made.items():
            names = {
                each.id
                for each in ast.walk(definition)
                if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
            }
            definition.body = cleaned(definition.body, read, names, key[1] == "__init__", quiet) or [ast.Pass()]
            returned(definition.body)
            without_parameters(key, definition, work.sites.get(key, []))
        used = {each.id for one in made.values() for each in ast.walk(one) if isinstance(each, ast.Name)}
        for key in [
            key
            for key in made
            if plain(key) not in ("__init__", "forward", *KEPT) and called_as(key) not in (read if key[1] else used)
        ]:
            del made[key]
        if sum(1 for one in made.values() for _ in ast.walk(one)) == before:
            return


def returned(body: list[ast.stmt]) -> None:
    """`y = f(x)` and `return y` as `return f(x)`."""
    if len(body) > 1 and isinstance(last := body[-1], ast.Return) and isinstance(last.value, ast.Name):
        before = body[-2]
        if isinstance(before, ast.Assign) and ast.unparse(before.targets[0]) == last.value.id:
            body[-2:] = [ast.Return(before.value)]
            body[-1].comment = getattr(before, "comment", None)  # type: ignore[attr-defined]


def without_parameters(key: Key, definition: ast.FunctionDef, sites: Sequence[Site]) -> None:
    """Takes out parameters that are not read, where every call is known."""
    if not sites or any(isinstance(one, ast.Starred) for site in sites for one in site.node.args):
        return
    names = {each.id for one in definition.body for each in ast.walk(one) if isinstance(each, ast.Name)}
    gone = {one.arg for one in definition.args.args if one.arg not in names and one.arg != "self"}
    if gone:
        drop(definition, gone, sites)


def attribute_read(node: ast.AST) -> list[str]:
    """The attribute of a module that this reads, and none where it is one of the config or of torch."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
        return []
    return [] if ast.unparse(node.value) in ("config", "F", "nn", "torch") else [node.attr]


def is_quiet(node: ast.AST) -> bool:
    """Whether a function does nothing but compute."""
    calls = {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
    return not any(isinstance(each, ast.Raise) for each in ast.walk(node)) and calls <= {"max", "min"}


class Bare(ast.NodeTransformer):
    """Takes out names that are given inside an expression and not read."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.AST:
        return node if node.target.id in self.names else node.value


def cleaned(
    block: Sequence[ast.stmt], read: set[str], names: set[str], building: bool, quiet: set[str]
) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for node in block:
        Bare(names).visit(node)
        if isinstance(node, ast.Assign):
            comment = getattr(node, "comment", None)
            [target] = node.targets
            both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = list(zip(target.elts, node.value.elts)) if both else [(target, node.value)]  # type: ignore[attr-defined]
            kept = [(one, value) for one, value in pairs if not unread(one, value, read, names, building, quiet)]
            for one, value in [pair for pair in kept if isinstance(pair[0], ast.Name) and pair[0].id not in names]:
                found.append(ast.Expr(value))  # what it does is needed, and what it gives is not
                kept.remove((one, value))
            if not kept:
                continue
            if len(kept) == 1:
                node = ast.Assign([kept[0][0]], kept[0][1])
            elif len(kept) < len(pairs):
                node = ast.Assign(
                    [ast.Tuple([one for one, _ in kept], ast.Store())], ast.Tuple([one for _, one in kept], ast.Load())
                )
            node.comment = comment  # type: ignore[attr-defined]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            if called == "self.register_buffer" and node.value.args[0].value not in read:  # type: ignore[attr-defined]
                continue
            if called == "init_weights":
                continue
        elif isinstance(node, ast.If | ast.For | ast.FunctionDef):
            node.body = cleaned(node.body, read, names, building, quiet)
            if isinstance(node, ast.If | ast.For):
                node.orelse = cleaned(node.orelse, read, names, building, quiet)
            if not node.body:
                continue
        found.append(node)
    return found


def unread(target: ast.expr, value: ast.expr, read: set[str], names: set[str], building: bool, quiet: set[str]) -> bool:
    if ast.unparse(target) == ast.unparse(value):
        return True
    calls = {ast.unparse(each.func) for each in ast.walk(value) if isinstance(each, ast.Call)}
    simple = calls <= {f"self.{name}" for name in quiet}
    if isinstance(target, ast.Attribute):
        made_only = building and "nn.Parameter" not in ast.unparse(value) and "nn.Buffer" not in ast.unparse(value)
        return made_only and target.attr not in read and target.attr != "weight"
    return isinstance(target, ast.Name) and target.id not in names and simple


def drop(definition: ast.FunctionDef, gone: set[str], sites: Sequence[Site]) -> None:
    arguments = definition.args
    defaults = dict(zip([one.arg for one in arguments.args][::-1], arguments.defaults[::-1]))
    arguments.args = [one for one in arguments.args if one.arg not in gone]
    arguments.defaults = [defaults[one.arg] for one in arguments.args if one.arg in defaults]
    pairs = [(one, default) for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults) if one.arg not in gone]
    arguments.kwonlyargs, arguments.kw_defaults = [one for one, _ in pairs], [default for _, default in pairs]
    for one in (*arguments.args, *arguments.kwonlyargs):
        names = (
            {each.id for each in ast.walk(one.annotation) if isinstance(each, ast.Name)} if one.annotation else set()
        )
        one.annotation = one.annotation if names and names <= SIMPLE else None
    names = (
        {each.id for each in ast.walk(definition.returns) if isinstance(each, ast.Name)}
        if definition.returns
        else set()
    )
    definition.returns = (
        definition.returns
        if names <= SIMPLE and definition.returns and "'" not in ast.unparse(definition.returns)
        else None
    )
    for site in sites:
        site.node.args = [
            one for one, name in zip(site.node.args, [*site.places, *[""] * len(site.node.args)]) if name not in gone
        ]
        site.places = [name for name in site.places if name not in gone]
        site.node.keywords = [one for one in site.node.keywords if one.arg not in gone]
