"""From a base to a chat model elsewhere: tokens added, tuned on calls of tools, merged, exported, run."""

import json
from pathlib import Path

import pytest
import torch

import fathom
from fathom.cli.main import main
from fathom.formats.tokenizer import load_tokenizer
from fathom.tokenizer.message import Message
from fathom.tokenizer.template import Extras, render
from tests.tokenizer.shapes import TOOL

TALK = [
    {"from": "human", "value": "Rain in Oslo?"},
    {"from": "function_call", "value": '{"name": "forecast", "arguments": {"city": "Oslo"}}'},
    {"from": "observation", "value": '{"rain": true}'},
    {"from": "gpt", "value": "It rains."},
]
ASKED = [{"role": "user", "content": "Rain in Oslo?"}]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """A folder with base, data, run, merged and model.gguf."""
    folder = tmp_path_factory.mktemp("chain")
    fathom.export(shared_data / "stories260K", folder / "base", format="hf")
    records = [{"tools": json.dumps([TOOL]), "conversations": TALK}, {"conversations": [TALK[0], TALK[3]]}] * 4
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    options = {"add_token": ("<|im_start|>", "<|im_end|>"), "rank": 2, "chat_template": "chatml"}
    train = {"max_iters": 2, "batch_size": 2, "learning_rate": 0.01, "sample_tokens": 1}
    fathom.finetune(folder / "base", folder / "data.jsonl", folder / "run", options=options, train=train)
    fathom.merge(folder / "base", folder / "run", folder / "merged")
    fathom.export(folder / "run", folder / "model.gguf", format="gguf", quantize="f32")
    return folder


def test_the_end_of_a_turn_is_known_wherever_the_model_goes(chain: Path) -> None:
    for place in ("run", "merged", "model.gguf"):
        _, tokenizer = fathom.load(chain / place, device="cpu")
        assert tokenizer is not None and {513, 2} == tokenizer.special.end_ids, place
    assert load_tokenizer(chain / "run").special.end_ids == {513, 2}
    assert isinstance(fathom.chat(chain / "run", max_new_tokens=2).ask("Hi"), str)
    for folder in (chain / "merged", chain / "run" / "adapter"):
        assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 513]


def test_the_batch_of_a_run_is_shown(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-batch", str(chain / "run"), "--data", str(chain / "data.jsonl"), "--count", "9"]) == 0
    shown = capsys.readouterr().out
    assert "«<|t|oo|l" in shown and "«I|t| r|a|in|s|.|<|im_end|>»" in shown


@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_transformers_and_llama_cpp_give_the_same_ids(chain: Path, tools: list[dict[str, object]] | None) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")
    model, tokenizer = fathom.load(chain / "run", device="cpu")
    assert tokenizer is not None
    ids = render(tokenizer, [Message("user", ASKED[0]["content"])], True, extras=Extras(tools)).ids
    theirs = transformers.AutoTokenizer.from_pretrained(chain / "merged")
    ask = {"tools": tools, "add_generation_prompt": True}
    assert theirs.apply_chat_template(ASKED, return_dict=False, **ask) == ids
    hf = transformers.AutoModelForCausalLM.from_pretrained(chain / "merged")
    short = ids[:400]  # leaves room in the context
    with torch.no_grad():
        assert torch.allclose(hf(torch.tensor([short])).logits, model(torch.tensor([short])), atol=1e-3)
    written = hf.generate(torch.tensor([short]), max_new_tokens=8, do_sample=False)[0].tolist()[len(short) :]
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama.cpp")
    llama = llama_cpp.Llama(str(chain / "model.gguf"), n_ctx=512, verbose=False)
    text = theirs.apply_chat_template(ASKED, tokenize=False, **ask)
    assert llama.tokenize(text.encode(), add_bos=False, special=True) == ids
    assert [id for id, _ in zip(llama.generate(short, temp=0.0), written)] == written
    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
    assert all(llama_cpp.llama_vocab_is_eog(vocabulary, id) for id in (2, 513))
