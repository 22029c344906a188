"""A model that transformers wrote, with its tokenizer and chat template, as a user takes it through the verbs."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.cli.main import main
from tests.families.test_variants import GEMMA, SOFT
from tests.formats.hf import make

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role)"
    " + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 16,
}  # fmt: skip
Shape = tuple[dict[str, Any], list[str], str | None]  # config.json, special tokens, chat template
SHAPES: dict[str, Shape] = {
    "Qwen3": (
        {"model_type": "qwen3", "tie_word_embeddings": True, "rope_theta": 1e6},
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        CHATML,
    ),
    "Gemma 2": (
        {"model_type": "gemma2", "sliding_window": 24, "bos_token_id": 0, "eos_token_id": 2, **GEMMA, **SOFT}
        | {"query_pre_attn_scalar": 16},
        ["<bos>", "<start_of_turn>", "<end_of_turn>"],
        TURNS,
    ),
    "Mistral": (
        {"model_type": "mistral", "sliding_window": 24, "bos_token_id": 0, "eos_token_id": 1},
        ["<s>", "</s>"],
        INST,
    ),
    "Pythia": (
        {"model_type": "gpt_neox", "rotary_pct": 0.25, "hidden_act": "gelu", "bos_token_id": 0, "eos_token_id": 0},
        ["<|endoftext|>"],
        None,
    ),
}
TEXT = "A text of some words, and of others; all of them are short. " * 40
WIDTH = 80


def write(folder: Path, shape: Shape) -> None:
    """What a repository on the hub holds."""
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    change, special, template = shape
    sizes = {key: value for key, value in SIZES.items() if change["model_type"] != "gpt_neox" or key != "head_dim"}
    torch.manual_seed(0)
    make(sizes | {"pad_token_id": None} | change).to(torch.bfloat16).save_pretrained(folder)  # type: ignore[operator]
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    names = {"bos_token": special[0], "eos_token": special[-1]}
    tokenizer = library.PreTrainedTokenizerFast(tokenizer_object=fast, **names)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


class Walk:
    """Calls in one folder, each as it is typed there."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", str(WIDTH))

    def __call__(self, call: str, typed: str = "") -> str:
        """What the call prints on stdout. It must succeed."""
        self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        code = main(call.split())
        out, err = self.capfd.readouterr()
        assert code == 0, f"fathom {call}\n{err}"
        tables = [line for line in out.splitlines() if "──" in line]
        assert all(len(line) <= WIDTH for line in tables), f"fathom {call}\n{out}"
        return out


@pytest.mark.parametrize("name", SHAPES)
def test_every_verb(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "m", SHAPES[name])
    turns = [{"role": "user", "content": "Which words?"}, {"role": "assistant", "content": "Some words."}]
    (tmp_path / "qa.jsonl").write_text("\n".join([json.dumps({"messages": turns})] * 8))
    (tmp_path / "text.txt").write_text(TEXT)
    fathom_ = Walk(tmp_path, capfd, monkeypatch)
    few = "--max-iters 2 --batch-size 2 --block-size 64 --train.sample-tokens 2 --device cpu"

    fathom_("info m --as-config")
    assert fathom_("generate m -p words -n 4 -t 0").startswith("words")
    fathom_("generate m -p words -n 4 --quantize int8")
    fathom_("chat m -n 4 -t 0", "Which words?\n/quit\n")
    fathom_("eval m --data text.txt --windows 2 --quantize int4")
    fathom_("svd m")
    fathom_(f"finetune m --data qa.jsonl --add-token <extra> --rank 2 -o lora {few}")
    fathom_(f"finetune m --data text.txt --method qlora --rank 2 -o qlora {few}")
    fathom_("chat lora -n 4 -t 0", "Which words?\n/quit\n")
    fathom_("svd m --adapter qlora/adapter")
    fathom_("merge m lora/adapter -o merged")
    fathom_("export merged --format hf -o hf")
    assert "verified" in fathom_("verify hf --against cache,transformers")
    if name != "Mistral":  # no GGUF file has a window of all layers
        fathom_("export merged --format gguf -o m.gguf")
        assert "verified" in fathom_("verify m.gguf --against transformers")

    model, tokenizer = fathom.load(tmp_path / "hf", device="cpu")
    assert tokenizer is not None and tokenizer.special.names["<extra>"] == tokenizer.vocab_size - 1
    ids = torch.tensor([tokenizer.encode("some words")])
    with fathom.look(model, "blocks.*.attn.pattern") as seen:
        model(ids)
    assert len(seen) == 2 and torch.allclose(seen["blocks.1.attn.pattern"].float().sum(-1), torch.ones(()), atol=2e-2)
