"""A template can do what published ones do, exactly as there; nothing else, and never much."""

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from fathom.errors import FathomError
from fathom.tokenizer.marked_text import mark, speakers_of
from fathom.tokenizer.sandbox import MAX_CHARACTERS, run_template
from tests.mutants import survive
from tests.tokenizer.templates import LLAMA31, PUBLISHED

MESSAGES = [{"role": "user", "content": " Hi\nyou "}, {"role": "assistant", "content": "<b>&</b> \u00e9"}]
VALUES = {"messages": MESSAGES, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "tools": None}

ORDINARY = [
    "{% for m in messages %}\n  {% if loop.first %}\nfirst\n  {% endif %}\n{{ m.content }}\n{% endfor %}\nend\n",
    "{{ messages|length }} {{ messages[-1]['role'] | upper }} {{ messages[0].role.title() }} {{ 'ab'|capitalize }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }}",
    "{{ messages | rejectattr('role', 'in', ['user']) | list | tojson }}",
    "{{ messages[0] | tojson(indent=4) }}{{ messages[1].content | tojson }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% macro say(m, n=2) %}[{{ m.content.strip() }}]{{ caller() if caller }}{% endmacro %}{{ say(messages[0]) }}",
    "{% set x %}  {{ messages[0].content }} {% endset %}{{ x|trim }}|{{ x | replace('Hi', 'Ho') }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].get('none', 7) }}",
    "{{ messages[0].content.split('\\n')[0].lstrip() ~ 1 ~ none ~ 2.5 ~ true }}{{ nothing }}{{ nothing is defined }}",
    "{% for m in messages if m.role != 'user' %}{{ loop.index }}{{ loop.last }}{% else %}none{% endfor %}",
    "{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ 7 / 2 - 1 }}{{ -(3) }}{{ not 1 }}",
    "{{ 'abc'[::-1] }}{{ 'abc'|reverse }}{{ [1, 2]|first }}{{ [1, 2]|last }}{{ ('x' * 3) }}",
    "{{ '3'|int + 1 }}{{ [1] + [2] }}{{ 'x'|float }}{{ messages[0] == messages[1] }}{{ 1 < 2 <= 2 }}",
    "{{ 'a\nb\n\nc' | indent(2) }}|{{ 'a\nb\n\nc\n' | indent(2, true) }}|{{ '\na' | indent('--', blank=true) }}",
    "{% generation %}{{ messages[1].content }}{% endgeneration %}{{ 'a' in messages[1].content }}",
    "{{ messages[0]['content'] is string }}{{ messages is iterable }}{{ x|default('d') }}{{ ''|default('e', true) }}",
    "{{ dict(a=1, b=[2])|tojson }}{{ {'a': (1, 2)}['a'][1] }}{% set a, b = 1, 2 %}{{ b }}",
    "{%- if false -%} x {%- elif true %}  y  {%- endif %}{# gone #} {{- ' z' }}{{ 'A' if add_generation_prompt }}",
]


def transformers_text(template: str, values: dict[str, Any]) -> str:
    utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="needs the extra `peers`")
    return str(utils._compile_jinja_template(template).render(**values))


@pytest.mark.parametrize("template", [*ORDINARY, *PUBLISHED.values()], ids=lambda text: text[:40])
def test_what_templates_do_is_done_as_in_transformers(template: str) -> None:
    assert run_template(template, VALUES) == transformers_text(template, VALUES)


def test_what_a_message_says_keeps_its_speaker_through_blocks_and_macros() -> None:
    values = {"text": mark(" ab ", 5)}
    for template in (
        "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(text|trim) }}",
        "{% set x %}<{{ text.strip() }}>{% endset %}{{ x }}",
    ):
        assert speakers_of(run_template(template, values)) == b"\0\5\5\0"


LOOP, DONE = "{% for a in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] %}", "{% endfor %}"
GROW = "{%% set ns = namespace(x=%s) %%}{%% for i in range(200) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
BOMBS = [
    "{{ 'a' * 1000000000 }}",
    "{{ 1000000000 * ['a'] }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'.center(1000000000) }}{{ 'a'.zfill(1000000000) }}",
    "{{ 'a' | center(1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "{{ 'a\tb'.expandtabs(1000000000) }}",
    "{{ (1).to_bytes(1000000000) }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ range(1000000000) | list }}",
    "{{ range(100000) | map('string') | join('x' * 100000) }}",
    "{{ messages | tojson(indent=1000000000) }}",
    "{{ 'a\nb' | indent(1000000000) }}",
    "{{ strftime_now('%1000000000d') }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ ('a' * 100000) | replace('', 'b' * 100000) }}",
    "{{ (['a' * 1000] * 1000) | join('x' * 10000) }}",
    "{{ ['x' * 100000] * 1000 ~ '' }}",
    "{% set x = 'x' * 100000 %}{{ " + " ~ ".join(["x"] * 20000) + " }}",
    "{% set x = 'x' * 1000000 %}{{ [" + ", ".join(["x"] * 20000) + "] }}",
    "{% set x = 'x' * 1000000 %}{{ ([" + ", ".join(["x"] * 20000) + "] == 1) is lower }}",
    GROW % ("'ab'", "ns.x ~ ns.x"),
    GROW % ("'ab'", "ns.x + ns.x"),
    GROW % ("'ab'", "ns.x.join(['a', 'b', ns.x])"),
    GROW % ("'ab'", "ns.x | replace('a', ns.x)"),
    GROW % ("[1]", "ns.x + ns.x"),
    GROW % ("[1]", "[ns.x, ns.x]"),
    GROW % ("[1]", "(ns.x, ns.x)"),
    GROW % ("[1]", "{'a': ns.x, 'b': ns.x}"),
    GROW % ("[1]", "dict(a=ns.x, b=ns.x)"),
    GROW % ("[1]", "namespace(a=ns.x, b=ns.x)") + "{{ 'x' * 100000000 }}",
    GROW % ("77", "ns.x * ns.x"),
    GROW % ("1", "[ns.x]"),
    "{% set x %}{{ 'a' * 1000000 }}{% endset %}" + LOOP * 3 + "{{ x }}" + DONE * 3,
    LOOP * 12 + DONE * 12,
    LOOP * 7 + "x" * 1000 + DONE * 7,
    LOOP * 7 + "{{ '" + "x" * 1000 + "' }}" + DONE * 7,
    "{% set few = 'aaaaaaaaaa' %}" + "{% for a in few %}" * 9 + DONE * 9,
    "{% set few = 'aaaaaaaaaa' %}" + "{% for a in few %}" * 4 + "x" * 10_000 + DONE * 4,
    "{% macro m() %}" + "x" * 100_000 + "{% endmacro %}" + "{{ m()|length }}" * 1_000,
    "{% set x = 'x' * 1000000 %}" + "{{ x }}" * 1_000,
    "{{ ('a' * 3000).replace('a', 'b' * 30000) | length }}",
    "{{ ('a' * 3000) | replace('a', 'b' * 30000) | length }}",
    "{{ ('ab,' * 440000).split(',') | length }}",
    "{{ ('ab,' * 440000).rsplit(',') | length }}",
    "{{ ('ab ' * 440000).split() | length }}",
    "{{ ('ab\n' * 440000).splitlines() | length }}",
    "{{ ('a' * 1900000) | list | length }}",
    "{% for i in range(60000) if false %}{% endfor %}" * 1000,
    "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for a in [[[]]] recursive %}{{ loop([[a, a]]) }}{% endfor %}",
    "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "{{ 1" + " + 1" * 20000 + " }}",
    "{{ a" + ".b" * 20000 + " }}",
    "{% if a %}" * 5000 + "{% endif %}" * 5000,
    "{{ 0x" + "f" * 60000 + " * 2 }}",
    "{{ " + "9" * 60000 + " }}",
    "x" * (MAX_CHARACTERS + 1),
]
ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}{{ messages['__class__'] }}{{ messages.__class__ }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | attr('__class__') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ range.__call__ }}",
    "{{ 'a'.strip.func }}{{ messages[0].get.args }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ messages[0].pop('role') }}",
    "{% include 'secret' %}",
    "{% import 'secret' as s %}",
    "{% extends 'secret' %}",
    "{{ lipsum() }}",
    "{{ cycler(1).next() }}",
    "{{ self.__init__ }}",
    "{{ loop.__init__ }}{{ (1).real }}",
    "{% macro m() %}{% endmacro %}{{ m._func }}{{ m.__init__ }}",
    "{{ environment.charged }}{{ context.vars }}",
    "{{ 1 / 0 }}",
    "{{ messages.0.content.x.y }}",
    "{% for %}",
    "{% endfor %}",
    "{{ 'a' | nofilter }}",
    "{{ raise_exception() }}",
    "{{ 'a' < 1 }}",
    "{{ none() }}",
]


@pytest.mark.parametrize("template", [*BOMBS, *ESCAPES], ids=lambda text: text[:50])
def test_what_no_template_needs_is_one_line_at_once(template: str) -> None:
    began = time.thread_time()
    with pytest.raises(FathomError, match=r"^the chat template") as caught:
        run_template(template, VALUES)
    assert time.thread_time() - began < 2
    assert len(str(caught.value)) < 800 and MESSAGES[0] == {"role": "user", "content": " Hi\nyou "}
    tracemalloc.start()
    with pytest.raises(FathomError):
        run_template(template, VALUES)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_what_is_wrong_is_reported_with_its_line() -> None:
    with pytest.raises(FathomError, match=r"the chat template, line 3: division by zero"):
        run_template("a\nb\n{{ 1 / 0 }}", VALUES)
    with pytest.raises(FathomError, match=r"the chat template, line 2: .*endfor"):
        run_template("a\n{% for m in messages %}", VALUES)
    with pytest.raises(FathomError, match="it has 14,001 words and signs; expected at most 12,000"):
        run_template("{{ x" + " ~ x" * 6_999 + " }}", VALUES)
    with pytest.raises(FathomError, match="refuses this conversation: only you and me"):
        run_template("{{ raise_exception('only you\nand me') }}", VALUES)


def test_a_long_conversation_has_more_to_spend() -> None:
    long = [{"role": "user", "content": "x" * 5_000}] * 2_000
    told = run_template(PUBLISHED["thinking"], VALUES | {"messages": long})
    assert told.count("<|im_start|>user") == 2_000 and len(told) > 10_000_000


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_templates_end_in_a_text_or_one_line(tmp_path: Path, count: int) -> None:
    path = tmp_path / "template.jinja"
    path.write_text(LLAMA31)
    survive(lambda file: run_template(file.read_text(encoding="utf-8", errors="replace"), VALUES), path, count)
