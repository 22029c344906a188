"""Every shape of template in use gives the ids of transformers, and what it does not support is refused by both."""

from typing import Any

import pytest

from fathom.errors import FathomError
from fathom.tokenizer.message import FRAME, Message, read_message
from fathom.tokenizer.template import PARTS, Extras, render
from tests.tokenizer.shapes import CALL, EXTRAS, SHAPES, TALKS, TOOLS, reference_of, tokenizer_of
from tests.tokenizer.shapes import PARTS as CONTENT
from tests.tokenizer.templates import bpe

LEAST_EQUAL = {"gemma2": 16}  # of 48; the others are refused by both


def expected(template: str, talk: list[dict[str, Any]], reply: bool, extras: Extras) -> list[int] | None:
    """The ids of transformers; None: it refuses the conversation. A template that reads no parts is given their text,
    where transformers fails or writes a list as Python does."""
    if not PARTS.search(template):
        talk = [
            one | {"content": "".join(p["text"] for p in CONTENT)} if one["content"] is CONTENT else one for one in talk
        ]
    try:
        found: list[int] = reference_of(template).apply_chat_template(
            talk, tools=extras.tools, add_generation_prompt=reply, return_dict=False, **extras.arguments
        )
    except Exception:
        return None
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_ids_are_those_of_transformers(name: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    tokenizer, n_equal = tokenizer_of(SHAPES[name]), 0
    for talk, dicts in TALKS.items():
        messages = [read_message(values, talk) for values in dicts]
        for extra in EXTRAS:
            extras = Extras(
                extra.tools, arguments={} if extra.thinking is None else {"enable_thinking": extra.thinking}
            )
            for reply in (True, False):
                ids = expected(SHAPES[name], dicts, reply, extras)
                try:
                    found = render(tokenizer, messages, reply, extras=extras, special_in_content=True).ids
                except FathomError:
                    assert ids is None, (talk, extra, reply)
                    continue
                assert found == ids or ids is None, (
                    talk,
                    extra,
                    reply,
                )  # null beside calls: some templates test for it
                n_equal += ids is not None
    assert n_equal >= LEAST_EQUAL.get(name, 32)


def test_a_list_that_is_written_as_text_keeps_who_says_it() -> None:
    for form in ("{{ tools }}", "{{ tools | string }}", "{{ '' ~ tools }}", "{{ [tools] | join }}"):
        tokenizer = bpe(form)
        tools = [{"name": "</s>"}]
        found = render(tokenizer, [Message("user", "x")], False, extras=Extras(tools))
        assert found.text == str(tools) and tokenizer.eos not in found.ids and set(found.roles) == {"tools"}


@pytest.mark.parametrize(
    "form, text",
    [
        ("{{ '{}-{0}'.replace('0', '') .format('a', m) }}", "a-<b>"),
        ("{{ '{x}{{}}'.format(x=m) }}", "<b>{}"),
        ("{{ ('<i>' | safe) + m }}", "<i>&lt;b&gt;"),
        ("{{ (m + ('<i>' | safe)) | upper }}", "&LT;B&GT;<I>"),
        (
            "{{ '%s: %02d, %.1f%%' % (m, 3, 2.5) }}{{ '%s' | format(m) }}{{ '%(x)s' | format(x=m) }}",
            "<b>: 03, 2.5%<b><b>",
        ),
        ("{{ m | e }}{{ m | escape | e }}{{ m | wordcount }}", "&lt;b&gt;&lt;b&gt;1"),
        ("{{ [1, 2, 3] | batch(2, 'x') | list }}{{ [1, 2, 3] | slice(2) | list }}", "[[1, 2], [3, 'x']][[1, 2], [3]]"),
        (
            "{{ 2.346 | round(2) }}{{ 2.6 | round(method='floor') }}{{ -3 | abs }}{{ m is lower }}{{ m is upper }}",
            "2.352.03TrueFalse",
        ),
        ("{% for r, all in messages | groupby('role') %}{{ r }}{{ all | length }}{% endfor %}", "user1"),
        ("{% set s = joiner('; ') %}{{ s() }}a{{ s() }}{{ m }}", "a; <b>"),
    ],
)
def test_forms_and_safe_texts_are_as_in_jinja(form: str, text: str) -> None:
    template = "{% set m = messages[0].content %}" + form
    assert render(bpe(template), [Message("user", "<b>")], False).text == text
    assert reference_of(template).apply_chat_template([{"role": "user", "content": "<b>"}], tokenize=False) == text


def test_a_form_that_makes_much_from_little_is_refused() -> None:
    for form in ("'{:9999999}'", "'{0.real}'", "'{!r}'"):
        with pytest.raises(FathomError, match="unsupported way"):
            render(bpe("{{ " + form + ".format(1) }}"), [Message("user", "x")], False)

    for form in ("'%999s' % 'x'", "'%s' % ()", "'%r' | format('x')", "1.5 | round(400)"):
        with pytest.raises(FathomError, match=r"line 1: it (formats|rounds)"):
            render(bpe("{{ " + form + " }}"), [Message("user", "x")], False)
    for form in ("range(9) | batch(10000000, 'x')", "[1] | slice(10000000)"):
        with pytest.raises(FathomError, match="far more text"):
            render(bpe("{{ " + form + " | list }}"), [Message("user", "x")], False)


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_each_of_its_names(field: str) -> None:
    template = "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}"
    found = render(bpe(template), [Message("assistant", "x", {field: "Hm."})], False)
    assert found.text == "Hm.Hm." and set(found.roles) == {"reasoning"}


def test_null_beside_calls_is_no_field_and_else_null() -> None:
    calling = Message("assistant", None, {"tool_calls": [CALL]})
    assert render(bpe("{{ 'content' in messages[0] }}"), [calling], False).text == "False"
    older = "{{ '' if messages[0].content is none else messages[0].content + '' }}."  # fails where it is undefined
    assert render(bpe(older), [calling], False).text == "."
    assert FRAME in render(bpe(older), [calling], False, extras=Extras(TOOLS)).roles
