"""A chat template in Jinja, as a stranger wrote it: run so that it can only make text, and only so much of it.

The rules are those of Hugging Face's `apply_chat_template`: blocks take the rest of their lines with them, loop
controls and `generation` blocks are known. Whatever can grow or go on is paid from a meter; what else a template may
use stands in `allowed`. Does not know tokens.
"""

import traceback
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from fathom.errors import FathomError
from fathom.tokenizer.allowed import (
    FILTERS,
    OPERATORS,
    TESTS,
    charge,
    compared,
    joined,
    made,
    metering,
    method,
    now,
    span,
    weight,
)
from fathom.tokenizer.marked_text import join

N = TypeVar("N", bound=nodes.Node)
LONGEST, MOST = 1 << 17, 12_000  # characters and words of a template: to read a word takes 4 KB
PURSE, EACH = 4 << 20, 64  # what a template may spend; and this much for each character of its messages
WHERE = "<template>"  # what Jinja calls the source in tracebacks


class Refused(Exception):
    """What a template raises itself: the conversation is not one it can tell."""


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The text that `template` makes of plain values (text, numbers, lists, dicts); a `Said` where they are.

    FathomError in one line for everything that can be wrong, in the template's own words where it refuses.
    """
    try:
        with metering(PURSE + EACH * weight(dict(values), most=1 << 40)):
            return compiled(template).render(values)
    except Refused as refusal:
        raise FathomError(f"the chat template refuses this conversation: {str(refusal)[:500]}") from None
    except Exception as problem:  # whatever a stranger's program can do
        raise FathomError(f"the chat template{_line(problem)}: {_said_of(problem)}") from None


@lru_cache(maxsize=16)
def compiled(template: str) -> Template:
    """The template, ready to be run and metered."""
    if len(template) > LONGEST:
        raise FathomError(f"it has {len(template):,} characters; expected at most {LONGEST:,}")
    if (words := sum(kind != "whitespace" for _, kind, _ in ENVIRONMENT.lex(template))) > MOST:
        raise FathomError(f"it has {words:,} words and signs; expected at most {MOST:,}")
    tree = Metered().visit(ENVIRONMENT.parse(template)).set_environment(ENVIRONMENT).set_lineno(1)
    return Template.from_code(ENVIRONMENT, ENVIRONMENT.compile(tree, None, WHERE), ENVIRONMENT.globals)


def _line(problem: Exception) -> str:
    if isinstance(problem, TemplateSyntaxError):
        return f", line {problem.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == WHERE]
    return f", line {lines[-1]}" if lines else ""


def _said_of(problem: Exception) -> str:
    match problem:
        case RecursionError():
            return "it calls itself without end, or is nested too deeply"
        case MemoryError():
            return "it needs too much memory"
        case FathomError() | SecurityError():
            return str(problem)[:500]
    return f"{' '.join(str(problem).split())[:500]} ({type(problem).__name__})"


class Metered(NodeTransformer):
    """The same template, in which whatever can grow or go on is paid."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self.running(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self.running(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self.running(node)

    def running(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        """Each time the body runs, all text that stands in it is paid."""
        texts = [text.data for text in node.find_all(nodes.TemplateData)]
        texts += [text.value for text in node.find_all(nodes.Const) if isinstance(text.value, str)]
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(paid("step", nodes.Const(sum(map(len, texts))))))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        return paid("joined", *self.inside(node).nodes)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return paid("made", self.inside(node))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return paid("made", self.inside(node))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self.inside(node) if node.ctx == "store" else paid("made", self.inside(node))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        return paid("made", self.inside(node)) if isinstance(node.arg, nodes.Slice) else self.inside(node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = paid("compared", node.expr)
        for operand in node.ops:
            operand.expr = paid("compared", operand.expr)
        return node

    def inside(self, node: N) -> N:
        self.generic_visit(node)
        return node


def paid(function: str, *arguments: nodes.Expr) -> nodes.Call:
    """A call of one of the sandbox's own functions, for which a template has no name."""
    return nodes.Call(nodes.EnvironmentAttribute(function), list(arguments), [], None, None)


class Generation(Extension):
    """`{% generation %}` encloses what an assistant says; here voices tell that."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Box(Namespace):
    """A template's `namespace`. It never shows what it holds, which may be itself."""

    def __repr__(self) -> str:
        return "namespace"

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"it puts {name!r} into a namespace")
        super().__setitem__(name, value)


class Sandbox(ImmutableSandboxedEnvironment):
    """Nothing can be reached but what is named here and in `allowed`."""

    intercepted_binops = frozenset(OPERATORS)
    concat = staticmethod(join)  # of what a block, or the whole template, has written
    step, joined, made, compared = (
        staticmethod(charge),
        staticmethod(joined),
        staticmethod(made),
        staticmethod(compared),
    )

    def __init__(self) -> None:
        extensions = [Generation, loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=extensions, finalize=made)
        self.binop_table, self.filters, self.tests = dict(OPERATORS), dict(FILTERS), dict(TESTS)
        self.globals = {
            "range": span,
            "namespace": lambda *pairs, **named: Box(*pairs, **named),
            "dict": lambda *pairs, **named: made(dict(*pairs, **named)),
            "strftime_now": now,
            "raise_exception": refuse,
        }

    def call(__self, __context: Any, __obj: Any, *arguments: Any, **named: Any) -> Any:
        charge()
        return super().call(__context, __obj, *arguments, **named)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A method that is allowed, what a loop, macro or namespace has, or an entry of a dict."""
        if (found := method(obj, attribute)) is not None:
            return found
        if isinstance(obj, LoopContext | Macro | Namespace | Undefined) and not attribute.startswith("_"):
            return super().getattr(obj, attribute)
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        if hasattr(obj, attribute):
            raise SecurityError(f"it uses {type(obj).__name__}.{attribute}, which no chat template needs")
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return obj[argument]
        except (TypeError, LookupError, AttributeError):
            return (
                self.getattr(obj, str(argument))
                if isinstance(argument, str)
                else self.undefined(obj=obj, name=argument)
            )


def refuse(message: object) -> None:
    raise Refused(str(made(message)))


ENVIRONMENT = Sandbox()
