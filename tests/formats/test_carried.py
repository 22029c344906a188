"""What a folder says besides the model is kept by export and merge: transformers makes the same tokenizer of both."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.adapters import lora, peft
from fathom.adapters.export import export
from fathom.adapters.merge import merge
from fathom.adapters.options import LoraOptions
from fathom.formats.load import load
from fathom.formats.tokenizer import load_tokenizer
from fathom.tokenizer.bpe import BPETokenizer
from fathom.tokenizer.load import to_folder
from tests.formats.hf import GPT2, LLAMA, make
from tests.training.tuning import tuned

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
GENERATION = {
    "bos_token_id": 0, "eos_token_id": [2, 3], "pad_token_id": 1, "do_sample": True, "temperature": 0.6, "top_k": 20,
    "top_p": 0.95, "repetition_penalty": 1.1, "max_new_tokens": 99,
}  # fmt: skip
SETTINGS = {
    "pad_token": "a", "padding_side": "left", "truncation_side": "left", "model_max_length": 123, "eos_token": "c",
    "split_special_tokens": False, "a_note": {"of": ["its", "authors"]},
}  # fmt: skip
QWEN2 = LLAMA | {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 256, "max_window_layers": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": LLAMA | {"pad_token_id": 1, "a_note": "of its authors", "use_cache": False, "initializer_range": 0.5},
    "llama, tied": LLAMA | {"tie_word_embeddings": True},
    "llama, rope": LLAMA | {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "qwen2": QWEN2,
    "gpt2": GPT2 | {"a_note": 1, "task_specific_params": {"text-generation": {"do_sample": True}}},
}


def source(folder: Path, shape: str, generation: bool = True) -> Path:
    """A model as transformers saves it, with a tokenizer whose settings have every value that is not the default."""
    tokenizer = BPETokenizer.train(["abc bcd cde def efg fgh " * 20], 280)
    model = make(SHAPES[shape] | {"vocab_size": 280})
    model.save_pretrained(folder)  # type: ignore[operator]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {k: v for k, v in SHAPES[shape].items() if k == "a_note"}))
    files = to_folder(tokenizer)
    settings = json.loads(files["tokenizer_config.json"]) | SETTINGS
    files["tokenizer_config.json"] = json.dumps(settings).encode()
    files["chat_template.jinja"] = TEMPLATE.encode()
    files["additional_chat_templates/rag.jinja"] = b"{{ messages | length }} documents"
    files["special_tokens_map.json"] = json.dumps({"pad_token": "a", "eos_token": "c"}).encode()
    if generation:
        files["generation_config.json"] = json.dumps(GENERATION).encode()
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def adapter(folder: Path, base: Path) -> Path:
    model, _ = load(base, "fp32", "cpu")
    lora.add(model, LoraOptions(rank=2))
    with torch.no_grad():
        for parameter in lora.parameters(model):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    peft.save(model, folder, base=base)
    return folder


def tokenizer_facts(folder: Path) -> dict[str, Any]:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    settings = {key: x for key, x in tokenizer.init_kwargs.items() if key not in ("name_or_path", "tokenizer_file")}
    return {
        "class": type(tokenizer).__name__, "settings": {key: str(x) for key, x in settings.items()},
        "special": tokenizer.special_tokens_map, "template": tokenizer.chat_template,
        "side": (tokenizer.padding_side, tokenizer.truncation_side), "length": tokenizer.model_max_length,
        "pad": tokenizer.pad_token_id, "ids": tokenizer("abc bcd c a efg")["input_ids"],
    }  # fmt: skip


def generation_facts(folder: Path) -> dict[str, Any]:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    return dict(library.GenerationConfig.from_pretrained(folder).to_diff_dict())


@pytest.mark.parametrize("how", ["export", "merge"])
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_reads_the_same_settings(tmp_path: Path, shape: str, how: str) -> None:
    base, out = source(tmp_path / "base", shape), tmp_path / "out"
    if how == "export":
        export(base, out, "hf")
    else:
        merge(base, adapter(tmp_path / "adapter", base), out, device="cpu")
    assert tokenizer_facts(out) == tokenizer_facts(base)
    assert generation_facts(out) == generation_facts(base)
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, base))
    names = ("a_note", "use_cache", "initializer_range", "task_specific_params", "pad_token_id", "eos_token_id")
    assert {name: ours.get(name) for name in names} == {name: theirs.get(name) for name in names}
    assert (out / "additional_chat_templates" / "rag.jinja").is_file()


def fully_tuned(folder: Path, base: Path) -> Path:
    """A run that trained all of a model, for a step."""
    return tuned(folder, "run", model=base, method="full", max_iters=1).folder


def test_what_is_trained_further_keeps_the_settings_of_its_base(tmp_path: Path) -> None:
    base, out = source(tmp_path / "base", "llama"), tmp_path / "out"
    run = fully_tuned(tmp_path, base)
    export(run, out, "hf")
    assert tokenizer_facts(out) == tokenizer_facts(base)
    assert generation_facts(out) == generation_facts(base)
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, base))
    assert [ours[name] for name in ("a_note", "pad_token_id")] == [theirs[name] for name in ("a_note", "pad_token_id")]
    assert (out / "additional_chat_templates" / "rag.jinja").is_file()
    twice = tuned(tmp_path, "twice", model=run, method="full", max_iters=1).folder
    export(twice, tmp_path / "again", "hf")
    assert tokenizer_facts(tmp_path / "again") == tokenizer_facts(base)


def test_a_base_that_is_gone_leaves_what_the_tokenizer_knows(tmp_path: Path) -> None:
    base = source(tmp_path / "base", "llama")
    run = fully_tuned(tmp_path, base)
    base.rename(tmp_path / "moved")
    with pytest.warns(UserWarning, match="settings of the base, such as its pad token, are not kept: "):
        export(run, tmp_path / "out", "hf")
    facts = tokenizer_facts(tmp_path / "out")
    assert facts["special"]["pad_token"] == "a" and facts["side"][0] == "left" and facts["template"]
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["temperature"] == 0.6


def test_without_a_file_of_generation_settings_the_ids_of_the_config_hold(tmp_path: Path) -> None:
    base = source(tmp_path / "base", "llama", generation=False)
    (base / "generation_config.json").unlink(missing_ok=True)
    export(base, tmp_path / "out", "hf")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["pad_token_id"] == 1


def test_another_tokenizer_keeps_its_own_files(tmp_path: Path) -> None:
    base = source(tmp_path / "base", "llama")
    export(base, tmp_path / "out", "hf", tokenizer=BPETokenizer.train(["xyz yzx zxy " * 20], 270))
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["a_note"] == SETTINGS["a_note"]
    assert "eos_token" not in settings or settings["eos_token"] != "c"
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["temperature"] == 0.6


def test_names_of_code_are_not_kept(tmp_path: Path) -> None:
    base = source(tmp_path / "base", "llama")
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps(values | {"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}))
    export(base, tmp_path / "out", "hf")
    assert not [file for file in (tmp_path / "out").glob("*.json") if "auto_map" in file.read_text()]


def test_a_sentencepiece_model_gets_a_tokenizer_json_and_keeps_its_added_tokens(
    tmp_path: Path, shared_data: Path
) -> None:
    """Of a tokenizer.model alone transformers makes other ids of two spaces than the SentencePiece library does."""
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    base, out = tmp_path / "base", tmp_path / "out"
    make(LLAMA | {"vocab_size": 32002}).save_pretrained(base)  # type: ignore[operator]
    (base / "tokenizer.model").write_bytes((shared_data / "llama2_tokenizer.model").read_bytes())
    (base / "added_tokens.json").write_text(json.dumps({"<|im_start|>": 32000, "<|im_end|>": 32001}))
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|im_end|>"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    assert export(base, out, "hf").tokenizer is True
    assert {"tokenizer.json", "tokenizer.model", "added_tokens.json"} <= {path.name for path in out.iterdir()}
    theirs, ours = library.AutoTokenizer.from_pretrained(out), load_tokenizer(base)
    assert theirs("Hello  there", add_special_tokens=False)["input_ids"] == ours.encode("Hello  there")
    assert theirs.convert_tokens_to_ids("<|im_end|>") == ours.eos == 32001
