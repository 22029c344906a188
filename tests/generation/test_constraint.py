"""What is written under a grammar is always in it, whatever the vocabulary, and a grammar that cannot be is refused."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.errors import FathomError
from fathom.formats.tokenizer import load_tokenizer
from fathom.generation.constraint import Grammar, Masks, Vocabulary, of_rules, of_schema, of_text
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from fathom.tokenizer.protocol import Special, Tokenizer

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

CHARACTERS = "".join(map(chr, range(32, 127))) + "\n\té"


def tokenizers(shared_data: Path | None) -> dict[str, Tokenizer]:
    """One of every class: bytes, characters, and with the shared files sentencepiece and BPE."""
    found: dict[str, Tokenizer] = {"byte": ByteTokenizer(), "char": CharacterTokenizer(CHARACTERS)}
    for name in ("llama2_tokenizer.model", "stories260K/tok512.bin", "tokenizers/qwen3"):
        if shared_data is not None and (shared_data / name).exists():
            found[name] = load_tokenizer(shared_data / name)
    return found


def written(masks: Masks, tokenizer: Tokenizer, choose: random.Random, most: int = 2000) -> list[int] | None:
    """Any tokens that the masks allow; None: there was no end within `most` of them."""
    ids: list[int] = []
    while not masks.finished:
        allowed = masks.mask().nonzero()[:, 0].tolist()
        ends = [id for id in allowed if id in tokenizer.special.end_ids]
        token = ends[0] if ends else choose.choice(allowed)
        if ends or len(ids) == most:
            return ids if ends else None
        masks.accept(token)
        ids.append(token)
    return ids


def schema(choose: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema of what llguidance knows."""
    kinds = ["integer", "number", "boolean", "null", "string", "enum", "const"]
    kind = choose.choice(kinds + ["array", "object", "anyOf"] * 2 * (depth < 3))
    match kind:
        case "integer":
            return {"type": kind, "minimum": choose.randint(-50, 0), "maximum": choose.randint(0, 5000)}
        case "string":
            return {"type": kind, "minLength": choose.randint(0, 2), "maxLength": choose.randint(2, 9)}
        case "enum":
            return {"enum": choose.sample(["a", "b c", 'quo"te', 3, None, True, "\\"], 3)}
        case "const":
            return {"const": choose.choice(["x", 1.5, {"k": [1]}])}
        case "array":
            least = choose.randint(0, 2)
            return {"type": kind, "items": schema(choose, depth + 1), "minItems": least, "maxItems": least + 2}
        case "object":
            names = choose.sample(["name", "n o", "a", "b", "x_1", 'q"'], choose.randint(0, 4))
            properties = {name: schema(choose, depth + 1) for name in names}
            required = [name for name in names if choose.random() < 0.7]
            return {"type": kind, "properties": properties, "required": required, "additionalProperties": False}
        case "anyOf":
            return {kind: [schema(choose, depth + 1) for _ in range(2)]}
    return {"type": kind}


@pytest.mark.parametrize("count", [6, pytest.param(150, marks=pytest.mark.slow)])
def test_random_schemas_give_valid_json(count: int, shared_data: Path | None) -> None:
    for name, tokenizer in tokenizers(shared_data).items():
        words, choose, ended = Vocabulary(tokenizer, tokenizer.vocab_size + 5), random.Random(7), 0
        for _ in range(count):
            wanted = schema(choose)
            ids = written(of_schema(words, wanted).start(), tokenizer, choose)
            if ids is not None:
                ended += 1
                text = tokenizer.decode_bytes(ids).decode("utf-8")
                jsonschema.validate(json.loads(text), wanted)
        assert ended >= 0.9 * count, name


def test_one_grammar_serves_many_texts_each_its_own() -> None:
    tokenizer = ByteTokenizer()
    grammar = of_text(Vocabulary(tokenizer, 256), 'start: "ab" | "ac"')
    one, other = grammar.start(), grammar.start()
    one.accept(ord("a"))
    one.accept(ord("b"))
    assert one.finished and not other.finished
    assert other.mask().nonzero().flatten().tolist() == [ord("a")]
    with pytest.raises(FathomError, match="outside of the grammar"):
        other.accept(ord("x"))


def test_gbnf_and_lark_are_known_by_their_definitions() -> None:
    words = Vocabulary(ByteTokenizer(), 256)
    for text in ('root ::= ("yes" | "no")', 'start: "yes" | "no"'):
        masks = of_text(words, text).start()
        assert masks.mask().nonzero().flatten().tolist() == sorted(map(ord, "yn"))


def test_special_tokens_are_text_of_no_grammar_but_where_it_names_them() -> None:
    tokenizer = CharacterTokenizer("ab<|>")
    tokenizer.special = Special(eos=4, names={">": 4, "<": 2})
    words = Vocabulary(tokenizer, 5)
    assert of_text(words, 'start: "a" /.*/').start().mask().nonzero().flatten().tolist() == [0]
    named = of_rules(words, ['start: <[2]> "b"']).start()
    assert named.mask().nonzero().flatten().tolist() == [2]
    named.accept(2)
    assert named.mask().nonzero().flatten().tolist() == [1]
    named.accept(1)
    assert named.mask().nonzero().flatten().tolist() == [4] and not named.finished


@pytest.mark.parametrize(
    "make, line",
    [
        (lambda words: of_schema(words, {"type": "strin"}), "strin"),
        (lambda words: of_schema(words, {"$ref": "#/nowhere"}), "nowhere"),
        (lambda words: of_schema(words, {"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda words: of_text(words, 'start: "a'), "lexer error"),
        (lambda words: of_text(words, 'root ::= "a" b'), "'b' not found"),
        (lambda words: of_text(words, ""), "[Ee]mpty"),
        (lambda words: of_text(words, "a" * (1 << 19)), "characters; expected at most"),
    ],
)
def test_what_cannot_be_compiled_is_one_line(make: Any, line: str) -> None:
    with pytest.raises(FathomError, match=line) as found:
        make(Vocabulary(ByteTokenizer(), 256))
    assert "\n" not in str(found.value)


def test_a_vocabulary_that_cannot_spell_it_is_said() -> None:
    with pytest.raises(FathomError, match="allows no token"):
        of_schema(Vocabulary(CharacterTokenizer("abc"), 3), {"type": "object"})


def test_masks_are_as_wide_as_the_model() -> None:
    made: Grammar = of_text(Vocabulary(ByteTokenizer(), 300), "start: /[a-c]+/")
    mask = made.start().mask()
    assert mask.dtype == torch.bool and mask.shape == (300,) and mask.sum() == 3
