"""A chat template in Jinja, run without being trusted: Jinja's own sandbox bounds neither memory nor time.

A template can only produce text, and only so much of it. The rules are those of Hugging Face's `apply_chat_template`:
blocks take the rest of their lines with them; loop controls and `generation` blocks are supported. Whatever can grow or
repeat is charged to a meter; `template_functions` lists what else a template may use.
"""

import traceback
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import _GroupTuple
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from fathom.errors import FathomError
from fathom.tokenizer import template_filters as filters
from fathom.tokenizer import template_functions as functions
from fathom.tokenizer.marked_text import join
from fathom.tokenizer.template_functions import charge, charged, metering, method, size_of

N = TypeVar("N", bound=nodes.Node)
MAX_CHARACTERS, MAX_TOKENS = 1 << 17, 12_000  # of a template: parsing one of its tokens takes 4 KB
BUDGET, BUDGET_PER_CHARACTER = 4 << 20, 64  # of a template, and in addition for each character of its messages
SOURCE = "<template>"  # what Jinja calls the source in tracebacks


class TemplateRefusal(Exception):
    """Raised by a template itself: it does not support this conversation."""


def run_template(template: str, values: Mapping[str, Any]) -> str:
    """The text that `template` makes of plain values (text, numbers, lists, dicts): marked where they are.

    FathomError in one line for everything that can be wrong, in the template's own words where it refuses.
    """
    try:
        with metering(BUDGET + BUDGET_PER_CHARACTER * size_of(dict(values), limit=1 << 40)):
            return compiled(template).render(values)
    except TemplateRefusal as refusal:
        raise FathomError(f"the chat template refuses this conversation: {str(refusal)[:500]}") from None
    except Exception as problem:  # anything that an untrusted program can cause
        raise FathomError(f"the chat template{_line(problem)}: {_message(problem)}") from None


@lru_cache(maxsize=16)
def compiled(template: str) -> Template:
    """The template, ready to be run with metering."""
    if len(template) > MAX_CHARACTERS:
        raise FathomError(f"it has {len(template):,} characters; expected at most {MAX_CHARACTERS:,}")
    if (tokens := sum(kind != "whitespace" for _, kind, _ in ENVIRONMENT.lex(template))) > MAX_TOKENS:
        raise FathomError(f"it has {tokens:,} words and signs; expected at most {MAX_TOKENS:,}")
    tree = Metering().visit(ENVIRONMENT.parse(template)).set_environment(ENVIRONMENT).set_lineno(1)
    return Template.from_code(ENVIRONMENT, ENVIRONMENT.compile(tree, None, SOURCE), ENVIRONMENT.globals)


def _line(problem: Exception) -> str:
    if isinstance(problem, TemplateSyntaxError):
        return f", line {problem.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == SOURCE]
    return f", line {lines[-1]}" if lines else ""


def _message(problem: Exception) -> str:
    match problem:
        case RecursionError():
            return "it calls itself without end, or is nested too deeply"
        case MemoryError():
            return "it needs too much memory"
        case FathomError() | SecurityError():
            return str(problem)[:500]
    return f"{' '.join(str(problem).split())[:500]} ({type(problem).__name__})"


class Metering(NodeTransformer):
    """The same template, in which all that can grow or repeat is charged."""

    def charged_body(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        """Each time the body runs, all text in it is charged."""
        texts = [text.data for text in node.find_all(nodes.TemplateData)]
        texts += [text.value for text in node.find_all(nodes.Const) if isinstance(text.value, str)]
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(call("charge", nodes.Const(sum(map(len, texts))))))
        return node

    def charged_value(self, node: nodes.Expr) -> nodes.Node:
        return call("charged", self.inside(node))

    visit_For = visit_Macro = visit_CallBlock = charged_body
    visit_List = visit_Dict = charged_value

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        return call("concatenate", *self.inside(node).nodes)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self.inside(node) if node.ctx == "store" else self.charged_value(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        return self.charged_value(node) if isinstance(node.arg, nodes.Slice) else self.inside(node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = call("charged_operand", node.expr)
        for operand in node.ops:
            operand.expr = call("charged_operand", operand.expr)
        return node

    def inside(self, node: N) -> N:
        self.generic_visit(node)
        return node


def call(function: str, *arguments: nodes.Expr) -> nodes.Call:
    """A call of one of the environment's own functions, which a template itself cannot name."""
    return nodes.Call(nodes.EnvironmentAttribute(function), list(arguments), [], None, None)


class Generation(Extension):
    """`{% generation %}` encloses what an assistant says; here the speakers record that."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class TemplateNamespace(Namespace):
    """A template's `namespace`. It never shows what it holds, which may be itself."""

    def __repr__(self) -> str:
        return "namespace"

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"it puts {name!r} into a namespace")
        super().__setitem__(name, value)


class Sandbox(ImmutableSandboxedEnvironment):
    """Nothing can be reached but what is named here and in `template_functions`."""

    intercepted_binops = frozenset(functions.OPERATORS)
    concat = staticmethod(join)  # of what a block, or the whole template, has written
    charge = staticmethod(functions.charge)
    charged = staticmethod(functions.charged)
    charged_operand = staticmethod(functions.charged_operand)
    concatenate = staticmethod(functions.concatenate)

    def __init__(self) -> None:
        extensions = [Generation, loopcontrols]
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=extensions, finalize=functions.to_text
        )
        self.binop_table = {**functions.OPERATORS, "%": filters.modulo}
        self.filters = {**functions.FILTERS, **filters.FILTERS}
        self.tests = {**functions.TESTS, **filters.TESTS}
        self.globals = {
            "range": functions.charged_range,
            "namespace": lambda *pairs, **named: TemplateNamespace(*pairs, **named),
            "dict": lambda *pairs, **named: functions.charged(dict(*pairs, **named)),
            "joiner": filters.joiner,
            "strftime_now": functions.strftime_now,
            "raise_exception": refuse,
        }

    def call(__self, __context: Any, __obj: Any, *arguments: Any, **named: Any) -> Any:
        charge()
        return super().call(__context, __obj, *arguments, **named)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An allowed method, an attribute of a loop, macro or namespace, or an entry of a dict."""
        if (function := method(obj, attribute)) is not None:
            return function
        if isinstance(obj, LoopContext | Macro | Namespace | Undefined | _GroupTuple) and not attribute.startswith("_"):
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
            if isinstance(argument, str):
                return self.getattr(obj, str(argument))
            return self.undefined(obj=obj, name=argument)


def refuse(message: object) -> None:
    raise TemplateRefusal(str(charged(message)))


ENVIRONMENT = Sandbox()
