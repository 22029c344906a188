"""What becomes of a call: the small expression that it comes to, or a call without the arguments that are known."""

import ast
import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace as with_
from typing import Any

from torch import nn

from fathom.model.config import ResolvedConfig
from fathom.model.init import init_weights
from fathom.model.tap import tap
from fathom.one_file.known import SAME, UNKNOWN, Frame, Method, Part, Parts, value_of
from fathom.one_file.work import (
    Key,
    Site,
    Work,
    definer_of,
    is_docstring,
    is_number,
    method_name,
    ours,
    parsed,
    written_out,
)

SMALL = 6  # nodes of an expression that stands where its function was called


class Calls(ABC):
    """The calls of one function that is folded."""

    def __init__(
        self,
        work: Work,
        function: Callable[..., Any],
        names: dict[str, Any],
        cls: type | None = None,
        varying: frozenset[str] = frozenset(),
        definer: type | None = None,
    ) -> None:
        self.work, self.cls, self.function, self.varying = work, cls, inspect.unwrap(function), varying
        self.definer = definer or definer_of(cls, function.__name__) if cls else None
        self.definition = parsed(self.function)
        self.unrolled: set[str] = set()  # names of a loop that has one round
        arguments = self.definition.args
        self.parameters = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        every = {name: names.get(name, UNKNOWN) for name in self.parameters}
        whole = work.model if cls is type(work.model) else None
        own = work.attributes_of(cls) if cls else {}
        self.frame = Frame(self.function.__globals__, every, cls, own, whole)
        self.assigned = [
            node.id
            for node in ast.walk(self.definition)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
        for name in self.assigned:
            self.frame.names.setdefault(name, UNKNOWN)

    @abstractmethod
    def body(self) -> list[ast.stmt]: ...

    @abstractmethod
    def expression(self, node: ast.expr) -> ast.expr: ...

    @abstractmethod
    def children(self, node: ast.expr) -> ast.expr: ...

    @abstractmethod
    def attribute(self, node: ast.Attribute, value: Any) -> ast.expr: ...

    @abstractmethod
    def as_literal(self, value: Any) -> ast.expr | None: ...

    def never(self, node: ast.expr) -> bool:
        """Of a generator: whether it gives nothing, as one over the layers of a model without any."""
        source = node.generators[0].iter if isinstance(node, ast.GeneratorExp) else None
        return (
            isinstance(source, ast.Call)
            and ast.unparse(source.func) == "range"
            and value_of(source.args[0], self.frame) == 0
        )

    def parent(self, node: ast.Call) -> type | None:
        """The class of ours whose method `super().name(...)` calls."""
        function = node.func
        if not (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Call)
            and ast.unparse(function.value.func) == "super"
        ):
            return None
        assert self.cls is not None
        after = self.cls.__mro__[self.cls.__mro__.index(self.definer) + 1 :]
        found = next(each for each in after if function.attr in vars(each))
        return found if ours(found) else None

    def inherited(self, node: ast.Call, parent: type) -> list[ast.stmt]:
        """The statements of a parent's constructor, which is called with names of its own parameters."""
        places = self.bound(node, parent.__init__, True)  # type: ignore[misc]
        assert places is not None
        known = self.known_arguments(places, parent.__init__, True)  # type: ignore[misc]
        inner = type(self)(self.work, parent.__init__, known, self.cls, self.varying, parent)  # type: ignore[misc]
        return [one for one in inner.body() if not is_docstring(one)]

    def call(self, node: ast.Call) -> ast.expr:
        target = value_of(node.func, self.frame)
        node.args = [one for one in node.args if not self.never(one)]
        if (parent := self.parent(node)) is not None:
            assert isinstance(node.func, ast.Attribute) and self.cls is not None
            name = f"{node.func.attr} of {parent.__name__}"
            self.work.need((self.cls, name), Site(node, {}, []))
            node.func = ast.Attribute(ast.Name("self", ast.Load()), method_name(name), ast.Load())
            return self.children(node)
        if target is SAME:
            return self.expression(node.args[0])
        if target is init_weights:
            return ast.Constant(None)  # its weights are read
        if target is tap:
            return self.expression(node.args[2])
        if isinstance(target, Part):
            if target.cls in self.work.instances and ours(target.cls):
                return self.kept(node, (target.cls, "forward"), vars(definer_of(target.cls, "forward"))["forward"])
            return self.children(node)
        if isinstance(target, Parts):
            for cls in target.classes:
                self.work.need((cls, "forward"), Site(node, {}, []))
            return self.children(node)
        if isinstance(target, Method):
            function = getattr(target.cls, target.name)
            if ours(function) and target.cls in self.work.instances:
                return self.inlined(node, (target.cls, target.name), function) or self.kept(
                    node, (target.cls, target.name), function
                )
            return self.children(node)
        if isinstance(target, type) and ours(target):
            return self.constructed(node, target)
        if inspect.isfunction(target) and ours(target):
            target = self.variant(node, target)
            return self.inlined(node, (target, ""), target) or self.kept(node, (target, ""), target)
        owner = getattr(target, "__self__", None)
        if (
            inspect.ismethod(target)
            and owner is not None
            and not isinstance(owner, type | nn.Module)
            and ours(type(owner))
        ):
            made = self.inlined(node, (type(owner), target.__name__), target.__func__, {"self": owner})
            if made is None:
                raise TypeError(f"{ast.unparse(node)} is not known")
            return made
        return self.children(node)

    def variant(self, node: ast.Call, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, or where it is given a config that differs from the model's, that function under a name of its
        own."""
        configs = [one for one in (value_of(each, self.frame) for each in node.args) if isinstance(one, ResolvedConfig)]
        if not configs or configs[0] == self.work.config:
            return function
        known = self.work.variants.setdefault(function, [])
        if configs[0] not in known:
            known.append(configs[0])

        def renamed() -> None: ...

        renamed.__wrapped__, renamed.__module__ = function, function.__module__  # type: ignore[attr-defined]
        renamed.__name__ = f"{function.__name__}_{known.index(configs[0]) + 2}"
        return self.work.renamed.setdefault(renamed.__name__, renamed)

    def bound(
        self, node: ast.Call, function: Callable[..., Any], method: bool
    ) -> dict[str, ast.expr | ast.keyword] | None:
        """The argument of each parameter; None where some are starred."""
        arguments = inspect.unwrap(function).__code__
        names = list(arguments.co_varnames[: arguments.co_argcount + arguments.co_kwonlyargcount])[1 if method else 0 :]
        node.keywords = [each for keyword in node.keywords for each in self.spread(keyword)]
        if any(isinstance(each, ast.Starred) for each in node.args) or any(each.arg is None for each in node.keywords):
            return None
        return {**dict(zip(names, node.args)), **{str(each.arg): each for each in node.keywords}}

    def spread(self, keyword: ast.keyword) -> list[ast.keyword]:
        """`**soft` as its items, where they are known."""
        value = value_of(keyword.value, self.frame) if keyword.arg is None else UNKNOWN
        if not isinstance(value, dict):
            return [keyword]
        made = []
        for name, one in value.items():
            self.frame.names[f"__{name}"] = one
            made.append(ast.keyword(name, ast.Name(f"__{name}", ast.Load())))
        return made

    def known_arguments(
        self, places: dict[str, ast.expr | ast.keyword], function: Callable[..., Any], method: bool
    ) -> dict[str, Any]:
        known = {}
        parameters = list(inspect.signature(inspect.unwrap(function)).parameters.values())[1 if method else 0 :]
        for each in parameters:
            if each.name in places:
                argument = places[each.name]
                known[each.name] = value_of(
                    argument.value if isinstance(argument, ast.keyword) else argument, self.frame
                )
            elif each.default is not inspect.Parameter.empty:
                known[each.name] = each.default
        return known

    def inlined(
        self, node: ast.Call, key: Key, function: Callable[..., Any], own: dict[str, Any] | None = None
    ) -> ast.expr | None:
        """The small expression that a call comes to: a constant, an argument, another call; None: it is not small."""
        method = key[1] != ""
        places = self.bound(node, function, method)
        if places is None:
            return None
        known = self.known_arguments(places, function, method) | (own or {})
        cls = key[0] if method and own is None else None
        trial = type(self)(with_(self.work, sites={}, needed=[], records=[], constants={}), function, known, cls)
        try:
            body = [one for one in trial.body() if not is_docstring(one)]
        except TypeError:
            return None
        if not body:
            return ast.Constant(None)
        if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
            return None
        result = body[0].value
        if isinstance(result, ast.Constant) or (isinstance(result, ast.Name) and result.id == "config"):
            return result
        factory = function.__name__.startswith("make_") or own is not None
        names = [each.id for each in ast.walk(result) if isinstance(each, ast.Name)]
        uses = {name: names.count(name) for name in places}
        if not factory and (
            sum(1 for _ in ast.walk(result)) > SMALL
            or any(count > 1 for count in uses.values())
            or (method and "self" in names)
        ):
            return None
        again = type(self)(self.work, function, known, cls)
        [final] = [one for one in again.body() if not is_docstring(one)]
        assert isinstance(final, ast.Return) and final.value is not None
        given = {
            name: self.expression(copy.deepcopy(one.value if isinstance(one, ast.keyword) else one))
            for name, one in places.items()
            if name in names
        }
        return Put(given).visit(final.value)

    def kept(self, node: ast.Call, key: Key, function: Callable[..., Any]) -> ast.expr:
        """A call that stays. Its known arguments leave it later, if they are the same wherever it is called."""
        method = key[1] != ""
        places = self.bound(node, function, method)
        known = {} if places is None else self.known_arguments(places, function, method)
        if method and isinstance(node.func, ast.Attribute) and isinstance(value_of(node.func, self.frame), Part):
            node.func = self.attribute(node.func, UNKNOWN)
        elif not method:
            node.func = ast.Name(function.__name__, ast.Load())
        self.arguments(node)
        self.work.need(key, Site(node, known, [*(places or {})][: len(node.args)]))
        return node

    def arguments(self, node: ast.Call) -> None:
        node.args = [self.argument(one) for one in node.args]
        for each in node.keywords:
            each.value = self.argument(each.value)

    def argument(self, node: ast.expr) -> ast.expr:
        value = value_of(node, self.frame)
        if value is UNKNOWN or isinstance(value, Part) or is_number(value):
            return self.expression(node)
        return self.as_literal(value) or self.record(value) or self.expression(node)

    def record(self, value: Any) -> ast.expr | None:
        """A value of one of our own small classes, as the call that makes it."""
        if not (isinstance(value, tuple) and hasattr(value, "_fields") and ours(type(value))):
            return None
        if type(value) not in self.work.records:
            self.work.records.append(type(value))
        return ast.Call(ast.Name(type(value).__name__, ast.Load()), [written_out(one) for one in value], [])

    def constructed(self, node: ast.Call, cls: type) -> ast.expr:
        if cls not in self.work.instances:
            if issubclass(cls, tuple) and cls not in self.work.records:
                self.work.records.append(cls)
            return self.children(node)  # such as NoCache, which `standalone` has
        function = cls.__init__  # type: ignore[misc]
        if not ours(function):
            node.func = ast.Name(cls.__name__, ast.Load())
            return self.children(node)
        places = self.bound(node, function, True)
        assert places is not None
        known = self.known_arguments(places, function, True)
        node.func = ast.Name(cls.__name__, ast.Load())
        self.arguments(node)
        self.work.need((cls, "__init__"), Site(node, known, [*places][: len(node.args)]))
        return node

    def elements(self, target: ast.expr, source: ast.expr) -> None:
        """`for block in self.blocks`: of which class a block is."""
        if isinstance(target, ast.Tuple) and isinstance(source, ast.Call) and ast.unparse(source.func) == "zip":
            for one, where in zip(target.elts, source.args):
                self.elements(one, where)
        elif isinstance(target, ast.Name) and value_of(source, self.frame) == Part(nn.ModuleList) and self.cls:
            inside = self.held(source)
            self.frame.names[target.id] = Part(inside.pop()) if len(inside) == 1 else UNKNOWN

    def held(self, source: ast.expr) -> set[type]:
        """The classes of modules in a list that `self` holds."""
        assert isinstance(source, ast.Attribute) and self.cls is not None
        return {type(one) for owner in self.work.instances[self.cls] for one in getattr(owner, source.attr)}


class Put(ast.NodeTransformer):
    """Puts expressions in the place of names."""

    def __init__(self, given: dict[str, ast.expr]) -> None:
        self.given = given

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.given.get(node.id, node)
