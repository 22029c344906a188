"""A function of the package as it is for one model: branches that are never taken are gone, and so is what is known."""

import ast
import copy
from collections.abc import Sequence
from dataclasses import replace as with_
from typing import Any

from torch import nn

from fathom.model.config import ResolvedConfig
from fathom.one_file.calls import Calls
from fathom.one_file.known import SAME, UNKNOWN, Method, Opaque, Part, Some, value_of
from fathom.one_file.work import (
    fits,
    is_empty,
    is_items,
    is_number,
    is_own,
    literal,
    ours,
    written_out,
)

ERRORS = {"ContextOverflow", "FathomError"}
COMPREHENSIONS = ast.ListComp | ast.GeneratorExp | ast.DictComp | ast.SetComp


class Fold(Calls):
    """Folds one function. names: parameters that are known, by their names."""

    def body(self) -> list[ast.stmt]:
        return self.statements(self.definition.body)

    # statements

    def statements(self, block: Sequence[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for statement in block:
            for made in self.statement(copy.deepcopy(statement)):
                found.append(ast.copy_location(made, statement))
                if not hasattr(made, "comment"):
                    made.comment = getattr(statement, "comment", None)  # type: ignore[attr-defined]
            if found and isinstance(found[-1], ast.Return | ast.Raise):
                break
        return found

    def statement(self, node: ast.stmt) -> list[ast.stmt]:
        match node:
            case ast.If():
                return self.condition(node)
            case ast.Match():
                return self.matched(node)
            case ast.Assign():
                return self.assignment(node)
            case ast.AnnAssign() if node.value is not None:
                plain = ast.Assign([node.target], node.value)
                plain.comment = getattr(node, "comment", None)  # type: ignore[attr-defined]
                return self.assignment(plain)
            case ast.For():
                return self.loop(node)
            case ast.FunctionDef():
                for each in node.args.args:
                    self.frame.names[each.arg] = UNKNOWN
                node.body = self.statements(node.body)
                return [node]
            case ast.Expr() if isinstance(node.value, ast.Constant):
                return [node]
            case ast.Expr(value=ast.Call() as made) if (
                parent := self.parent(made)
            ) is not None and made.func.attr == "__init__":  # type: ignore[attr-defined]
                return self.inherited(made, parent)
            case _:
                for name, child in ast.iter_fields(node):
                    if isinstance(child, ast.expr):
                        setattr(node, name, self.expression(child))
                    elif isinstance(child, list) and child and isinstance(child[0], ast.stmt):
                        setattr(node, name, self.statements(child))
                    elif isinstance(child, list):
                        setattr(
                            node, name, [self.expression(one) if isinstance(one, ast.expr) else one for one in child]
                        )
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    return []  # a call that does nothing
                return [node]

    def condition(self, node: ast.If) -> list[ast.stmt]:
        test = value_of(node.test, self.frame)
        if test is not UNKNOWN and not isinstance(test, Opaque):
            return self.statements(node.body if test else node.orelse)
        node.test = self.expression(node.test)
        if (test := value_of(node.test, self.frame)) is not UNKNOWN and not isinstance(test, Opaque):
            node.test = ast.Constant(test)
        if isinstance(node.test, ast.Constant):
            return self.statements(node.body if node.test.value else node.orelse)
        self.forget([*node.body, *node.orelse])
        node.body, node.orelse = self.statements(node.body), self.statements(node.orelse)
        return [node] if node.body else []

    def matched(self, node: ast.Match) -> list[ast.stmt]:
        subject = value_of(node.subject, self.frame)
        for case in node.cases:
            if subject is not UNKNOWN and fits(case.pattern, subject):
                return self.statements(case.body)
        raise TypeError(f"match over {ast.unparse(node.subject)}, which is not known")

    def loop(self, node: ast.For) -> list[ast.stmt]:
        items = value_of(node.iter.func.value, self.frame) if is_items(node.iter) else UNKNOWN  # type: ignore[attr-defined]
        if items == {} or (value_of(node.iter, self.frame) == Part(nn.ModuleList) and not self.held(node.iter)):
            return []
        if isinstance(items, dict) and len(items) == 1 and isinstance(node.target, ast.Tuple):
            for target, value in zip(node.target.elts, next(iter(items.items()))):
                assert isinstance(target, ast.Name)
                self.frame.names[target.id] = value
                self.unrolled.add(target.id)
            return self.statements(node.body)
        self.forget([node])
        self.elements(node.target, node.iter)
        node.iter = self.expression(node.iter)
        node.body = self.statements(node.body)
        return [node]

    def forget(self, block: Sequence[ast.stmt]) -> None:
        """What is assigned in a branch is not known after it."""
        for statement in block:
            for each in ast.walk(statement):
                if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                    self.frame.names[each.id] = UNKNOWN

    def assignment(self, node: ast.Assign) -> list[ast.stmt]:
        targets, value = node.targets, node.value
        pairs: list[tuple[ast.expr, ast.expr]]
        if len(targets) == 1 and isinstance(targets[0], ast.Tuple):
            known = value_of(value, self.frame)
            if isinstance(value, ast.Tuple):
                pairs = list(zip(targets[0].elts, value.elts))
            elif isinstance(known, tuple):
                pairs = [(target, written_out(one)) for target, one in zip(targets[0].elts, known)]
            else:
                pairs = [(targets[0], value)]
        else:
            pairs = [(target, value) for target in targets[::-1]]
        kept: list[tuple[ast.expr, ast.expr]] = []
        known_now: dict[str, Any] = {}
        for target, each in pairs:
            what = value_of(each, self.frame)
            if isinstance(target, ast.Name):
                droppable = (
                    self.assigned.count(target.id) == 1 and not is_number(what) and not isinstance(what, Part | Some)
                )
                known_now[target.id] = what
                if what is not UNKNOWN and droppable:
                    continue
            elif is_own(target) and self.frame.own.get(target.attr, UNKNOWN) is SAME:  # type: ignore[attr-defined]
                continue
            if self.by_layer(target, each, kept):
                continue
            if isinstance(target, ast.Subscript):
                target.slice = self.expression(target.slice)
            made_value = self.expression(each)
            if (
                isinstance(target, ast.Name)
                and isinstance(made_value, ast.Constant)
                and droppable
                and not is_number(made_value.value)
            ):
                known_now[target.id] = made_value.value
                continue
            kept.append((target, made_value))
        self.frame.names |= known_now
        kept = [(target, each) for target, each in kept if ast.unparse(target) != ast.unparse(each)]
        if not kept:
            return []
        if len(kept) == 1:
            made: ast.stmt = ast.Assign([kept[0][0]], kept[0][1])
        else:
            left, right = zip(*kept)
            made = ast.Assign([ast.Tuple(list(left), ast.Store())], ast.Tuple(list(right), ast.Load()))
        made.comment = getattr(node, "comment", None)  # type: ignore[attr-defined]
        return [made]

    def by_layer(self, target: ast.expr, value: ast.expr, kept: list[tuple[ast.expr, ast.expr]]) -> bool:
        """In a constructor, a value that follows from the number of the layer: the same for all, or one of two."""
        if not is_own(target) or self.frame.names.get("layer", 0) is not UNKNOWN:
            return False
        if not any(isinstance(each, ast.Name) and each.id == "layer" for each in ast.walk(value)):
            return False
        if isinstance(value, ast.Name) or not self.work.config.n_layer:
            return False
        made: dict[str, list[int]] = {}
        shapes = {}
        for layer in range(self.work.config.n_layer):
            trial = with_(self.work, sites={}, needed=[], records=[], constants={})
            probe = copy.copy(self)
            probe.work, probe.frame = trial, with_(self.frame, names={**self.frame.names, "layer": layer})
            shape = ast.unparse(probe.expression(copy.deepcopy(value)))
            made.setdefault(shape, []).append(layer)
            shapes[shape] = layer
        if len(made) > 2 or (len(made) == 2 and min(map(len, made.values())) * 2 > 24):
            return False
        found = []
        for layer in shapes.values():
            probe = copy.copy(self)
            probe.frame = with_(self.frame, names={**self.frame.names, "layer": layer})
            found.append((probe.expression(copy.deepcopy(value)), layer))
        if len(found) == 1:
            kept.append((target, found[0][0]))
            return True
        (first, at), (second, _) = sorted(
            found, key=lambda one: len(made[list(shapes)[list(shapes.values()).index(one[1])]])
        )
        layers = made[next(shape for shape, layer in shapes.items() if layer == at)]
        test = ast.Compare(ast.Name("layer", ast.Load()), [ast.In()], [written_out(tuple(layers))])
        kept.append((target, ast.IfExp(test, first, second)))
        return True

    # expressions

    def expression(self, node: ast.expr) -> ast.expr:
        value = value_of(node, self.frame)
        if (
            value is not UNKNOWN
            and not isinstance(value, Opaque)
            and not is_number(value)
            and not isinstance(node, ast.Tuple | ast.List)
            and (made := self.as_literal(value)) is not None
        ):
            return made
        match node:
            case ast.IfExp():
                test = value_of(node.test, self.frame)
                if test is UNKNOWN or isinstance(test, Opaque):
                    return self.children(node)
                return self.expression(node.body if test else node.orelse)
            case ast.BoolOp():
                return self.boolean(node)
            case ast.BinOp():
                return self.binary(node)
            case ast.UnaryOp(op=ast.Not()):
                operand = self.expression(node.operand)
                return (
                    ast.Constant(not operand.value)
                    if isinstance(operand, ast.Constant)
                    else ast.UnaryOp(node.op, operand)
                )
            case ast.Name() if node.id in self.unrolled and is_number(value):
                return ast.Constant(value)
            case ast.Name() if node.id in ERRORS:
                return ast.Name("ValueError", ast.Load())
            case ast.Call():
                return self.call(node)
            case ast.Attribute():
                return self.attribute(node, value)
            case ast.NamedExpr():
                made_value = self.expression(node.value)
                return ast.NamedExpr(node.target, made_value)
            case ast.Name() if is_number(value) and node.id in self.frame.scope and node.id not in self.frame.names:
                self.work.constants[node.id] = value
                return node
            case ast.Constant():
                return node
        return self.children(node)

    def as_literal(self, value: Any) -> ast.expr | None:
        if isinstance(value, ResolvedConfig):
            return ast.Name("config", ast.Load()) if value == self.work.config else None
        if callable(value) and ours(value) and not isinstance(value, type):
            self.work.need((value, ""))
            return ast.Name(value.__name__, ast.Load())
        return literal(value)

    def children(self, node: ast.expr) -> ast.expr:
        bound = [each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]
        outer = {name: self.frame.names[name] for name in bound if name in self.frame.names}
        self.frame.names |= dict.fromkeys(bound, UNKNOWN) if isinstance(node, COMPREHENSIONS) else {}
        for name, child in ast.iter_fields(node):
            if isinstance(child, ast.expr):
                setattr(node, name, self.expression(child))
            elif isinstance(child, list):
                setattr(node, name, [self.part(one) for one in child])
        if isinstance(node, COMPREHENSIONS):
            for name in bound:
                self.frame.names.pop(name, None)
            self.frame.names |= outer
        if isinstance(node, ast.Tuple | ast.List):
            node.elts = [one for one in node.elts if not (isinstance(one, ast.Starred) and is_empty(one.value))]
        return node

    def part(self, node: Any) -> Any:
        if isinstance(node, ast.expr):
            return self.expression(node)
        if isinstance(node, ast.keyword):
            node.value = self.expression(node.value)
        if isinstance(node, ast.comprehension):
            node.iter, node.ifs = self.expression(node.iter), [self.expression(one) for one in node.ifs]
        return node

    def boolean(self, node: ast.BoolOp) -> ast.expr:
        ends, kept = isinstance(node.op, ast.Or), []
        for each in node.values:
            value = value_of(each, self.frame)
            if value is not UNKNOWN and not isinstance(value, Opaque):
                if bool(value) is not ends:
                    continue
                kept.append(self.expression(each))
                break
            kept.append(self.expression(each))
        if not ends and kept and isinstance(kept[-1], ast.Constant) and kept[-1].value is False:
            return kept[-1]
        node.values = kept
        return kept[0] if len(kept) == 1 else node

    def binary(self, node: ast.BinOp) -> ast.expr:
        if isinstance(node.op, ast.Mult):
            left, right = value_of(node.left, self.frame), value_of(node.right, self.frame)
            if type(right) in (int, float) and right == 1:
                return self.expression(node.left)
            if type(left) in (int, float) and left == 1:
                return self.expression(node.right)
            if 0.0 in [side for side in (left, right) if type(side) is float]:
                return ast.Constant(0.0)
        if isinstance(node.op, ast.Add | ast.Sub) and value_of(node.right, self.frame) in (0, 0.0):
            return self.expression(node.left)
        return self.children(node)

    def attribute(self, node: ast.Attribute, value: Any) -> ast.expr:
        if is_number(value):
            owner = value_of(node.value, self.frame)
            if isinstance(owner, ResolvedConfig):
                if node.attr in self.varying:
                    return ast.Name(node.attr, ast.Load())
                if getattr(self.work.config, node.attr) == value:
                    return ast.Attribute(ast.Name("config", ast.Load()), node.attr, ast.Load())
                return ast.Constant(value)
            if not (isinstance(node.value, ast.Name) and node.value.id == "self") or hasattr(self.cls, node.attr):
                return ast.Constant(value)  # of a record, or of the class
        if isinstance(value, Method) and value.cls in self.work.instances and ours(getattr(value.cls, value.name)):
            self.work.need((value.cls, value.name))  # a method that is handed on
        if (
            isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and self.cls is not None
            and isinstance(getattr(self.cls, node.attr, None), property)
        ):
            self.work.need((self.cls, node.attr))
        return self.children(node)
