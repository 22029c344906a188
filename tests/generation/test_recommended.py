"""What a model's files recommend for generation are the defaults, as transformers reads them; what is given wins."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import fathom
from fathom.cli.main import main
from fathom.errors import FathomError
from fathom.formats.gguf import read_header
from fathom.formats.tokenizer import load_tokenizer
from fathom.generation.options import GenerateOptions
from fathom.generation.recommended import described, recommended, with_recommended
from fathom.tokenizer.gguf_sampling import read_sampling
from tests.formats.test_carried import adapter, source

QWEN = {
    "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 1, "do_sample": True, "temperature": 0.6, "top_k": 20,
    "top_p": 0.95, "transformers_version": "4.51.0",
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as Qwen3 has it": (QWEN, {"temperature": 0.6, "top_k": 20, "top_p": 0.95}),
    "as Llama 2 has it": (
        {"do_sample": True, "max_length": 4096, "temperature": 0.6, "top_p": 0.9},
        {"temperature": 0.6, "top_p": 0.9},
    ),
    "as GPT-2 has it": ({"_from_model_config": True, "bos_token_id": 50256, "eos_token_id": 50256}, {}),
    "a penalty": ({"do_sample": True, "repetition_penalty": 1.05}, {"repetition_penalty": 1.05}),
    "length": ({"max_new_tokens": 2048}, {"max_new_tokens": 2048}),
    "greedy": ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0}),
    "greedy with a penalty": (
        {"do_sample": False, "repetition_penalty": 1.1},
        {"temperature": 0.0, "repetition_penalty": 1.1},
    ),
    "off": ({"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "min_p": 0.0, "num_beams": 1}, {}),
    "no limit, as vLLM writes it": ({"top_k": -1, "temperature": 0.5}, {"temperature": 0.5}),
    "stop strings": ({"stop_strings": "User:"}, {"stop": ("User:",)}),
    "null": ({"temperature": None, "top_p": None, "bad_words_ids": None}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_entries_become_options(name: str) -> None:
    settings, fields = CASES[name]
    assert recommended(settings) == (fields, [])
    assert with_recommended({}, settings) == GenerateOptions(**fields)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"num_beams": 4}, "num_beams 4"),
        ({"typical_p": 0.9, "no_repeat_ngram_size": 3}, "typical_p 0.9, no_repeat_ngram_size 3"),
        ({"temperature": "hot"}, "temperature 'hot'"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"suppress_tokens": [1, 2]}, "suppress_tokens [1, 2]"),
        ({"a_new_sampler": 0.3}, "a_new_sampler 0.3"),
        ({"stop_strings": [7]}, "stop_strings [7]"),
    ],
)
def test_what_is_not_followed_is_named(settings: dict[str, Any], line: str) -> None:
    with pytest.warns(UserWarning, match="generation settings that are not followed: ") as caught:
        options = with_recommended({}, settings)
    assert str(caught[0].message).endswith(line) and options == GenerateOptions()


def test_what_is_given_wins() -> None:
    assert with_recommended({"temperature": 0}, QWEN) == GenerateOptions(temperature=0, top_k=20, top_p=0.95)
    assert with_recommended({"top_k": None, "top_p": "none"}, QWEN) == GenerateOptions(temperature=0.6)
    chosen = with_recommended({"samplers": "temperature,top_p"}, QWEN)  # one that is left out is not applied
    assert chosen.steps() == (("temperature", 0.6), ("top_p", 0.95))
    assert described({"top_k": 5}, QWEN) == "temperature 0.6, top_p 0.95" and described({}, {}) == ""
    with pytest.raises(FathomError, match="top_p is 3"):
        with_recommended({"top_p": 3}, QWEN)


@pytest.mark.parametrize("name", [name for name, (settings, _) in CASES.items() if settings.get("do_sample") is True])
def test_transformers_reads_the_same(tmp_path: Path, name: str) -> None:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    settings, _ = CASES[name]
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    theirs, ours = library.GenerationConfig.from_pretrained(tmp_path), with_recommended({}, settings)
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    for name, neutral in off.items():
        wanted, found = getattr(theirs, name), getattr(ours, name)
        assert (neutral if wanted is None else wanted) == (neutral if found is None else found) or name not in settings


def with_settings(folder: Path, **settings: Any) -> Path:
    source(folder, "llama")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **settings}))
    return folder


def test_every_way_to_generate_uses_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = with_settings(tmp_path / "model", do_sample=False, max_new_tokens=5, num_beams=3)
    network, tokenizer = fathom.load(model, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        greedy = [fathom.generate(network, tokenizer, "abc", seed=seed)[0].tokens for seed in range(2)]
        assert greedy[0] == greedy[1] == fathom.generate(model, "abc")[0].tokens
        assert fathom.chat(model).options.temperature == fathom.chat(network, tokenizer).options.temperature == 0
        options = GenerateOptions(max_new_tokens=3)  # are taken as they are
        assert fathom.chat(network, tokenizer, options=options).options.temperature == 1
    with pytest.warns(UserWarning, match="num_beams 3"):
        assert main(["generate", str(model), "-p", "abc", "--device", "cpu", "--json"]) == 0
    said = capfd.readouterr()
    assert tuple(json.loads(said.out)["completions"][0]["tokens"]) == greedy[0]
    assert "; the model's own max_new_tokens 5, temperature 0" in said.err
    with pytest.warns(UserWarning, match="num_beams 3"):
        assert main(["generate", str(model), "-n", "2", "-t", "0.5", "--device", "cpu"]) == 0
    assert "the model's own" not in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_help_shows_them(tmp_path: Path, verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    model = with_settings(tmp_path / "model", temperature=0.6, top_k=20)
    assert main([verb, str(model), "--help"]) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "[default: 0.6, the model's own]" in text and "[default: 20, the model's own]" in text
    assert "[default: 256]" in text


def test_they_travel_with_the_model(tmp_path: Path) -> None:
    base = source(tmp_path / "base", "llama")
    own = load_tokenizer(base).special.generation
    assert own["temperature"] == 0.6 and "eos_token_id" not in own
    fathom.merge(base, adapter(tmp_path / "adapter", base), tmp_path / "merged", device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its end of text is a letter
        fathom.export(base, tmp_path / "it.gguf", "gguf")
    assert load_tokenizer(tmp_path / "merged").special.generation == own
    sampled = {name: value for name, value in own.items() if name not in ("do_sample", "max_new_tokens")}
    found = read_sampling(read_header(tmp_path / "it.gguf").metadata)
    assert recommended(found) == (recommended(sampled)[0], [])
    assert found == {**sampled, "penalty_last_n": -1}
