"""Wrong choices are one line each, before anything runs; what does nothing is left out of what runs."""

import subprocess
import sys

import pytest

from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.generation.options import Bias, GenerateOptions, SamplingOptions

NAN = float("nan")
WRONG = [
    ({"temperature": -0.1}, "temperature is -0.1"),
    ({"temperature": float("inf")}, "temperature is inf"),
    ({"temperature": NAN}, "temperature is nan"),
    ({"top_k": 0}, "top_k is 0"),
    ({"top_p": 0.0}, "top_p is 0.0"),
    ({"top_p": 1.01}, "top_p is 1.01"),
    ({"top_p": NAN}, "top_p is nan"),
    ({"min_p": -0.01}, "min_p is -0.01"),
    ({"min_p": 1.5}, "min_p is 1.5"),
    ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    ({"presence_penalty": 2.5}, "presence_penalty is 2.5; expected -2 to 2"),
    ({"frequency_penalty": NAN}, "frequency_penalty is nan"),
    ({"logit_bias": "5:101"}, "logit_bias of token 5 is 101.0; expected -100 to 100"),
    ({"samplers": "temperature,topk"}, "did you mean top_k"),
    ({"samplers": "mirostat"}, "unknown sampler 'mirostat'"),
    ({"samplers": "top_k,top-k"}, "names top_k 2 times"),
    ({"samplers": "top_k", "top_p": 0.9}, "top_p is 0.9 but samplers is 'top_k'"),
    ({"samplers": "top_k", "temperature": 0.8}, "add temperature"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ({"num_samples": -1}, "num_samples is -1"),
    ({"prefill_chunk": 0}, "prefill_chunk is 0"),
    ({"stop": ("a", "")}, "a stop string is empty"),
    ({"seed": -1}, "seed is -1"),
    ({"past_context": "slyde"}, "slide"),
    ({"speculate": "loopup"}, "did you mean lookup"),
    ({"topp": 0.9}, "did you mean top_p"),
    ({"top_k": "many"}, "top_k is 'many'"),
]


@pytest.mark.parametrize("given, found", WRONG, ids=[str(given) for given, _ in WRONG])
def test_a_wrong_choice_is_one_line(given: dict[str, object], found: str) -> None:
    with pytest.raises(FathomError, match=found.replace("(", r"\(")) as problem:
        build(GenerateOptions, given, "generate")
    assert "\n" not in str(problem.value)


def test_none_and_neutral_values_are_off() -> None:
    assert SamplingOptions(temperature=1.0, top_p=1.0, min_p=0.0, repetition_penalty=1.0).steps() == ()
    assert SamplingOptions(temperature=None).describe() == "draw"


def test_the_order_is_said_and_kept() -> None:
    given = {"temperature": "0.8", "top_k": "40", "min_p": "0.05", "samplers": "min-p, top_k,temperature"}
    options = build(GenerateOptions, given, "command line")
    assert options.describe() == "min_p 0.05 -> top_k 40 -> temperature 0.8 -> draw"


def test_biases_are_pairs() -> None:
    options = build(GenerateOptions, {"logit_bias": "5:-100,7:2.5"}, "command line")
    assert options.logit_bias == (Bias(5, -100.0), Bias(7, 2.5))
    assert build(GenerateOptions, plain(options), "again") == options


def test_options_are_read_without_torch() -> None:
    code = "import sys, fathom.generation.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
