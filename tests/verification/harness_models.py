"""Models that both Fathom and transformers open, and tasks of local files, for tests against lm-eval."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

import fathom

STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
QUESTIONS = [
    ("Lily went to the", [" park", " moon", " big red house", " shop"], 0),
    ("The dog said", [" hello", " woof", " nothing at all that day"], 1),
    ("", ["Once upon a time", "One day", "zq"], 0),
    ("One day, a boy", [" named Tim", " ran", " was sad and cried"], 0),
    (STORY * 40 + "She was", [" happy", " very sad because it rained", " 7"], 0),  # longer than the context
    ("Tom likes ", ["apples", "pears"], 1),  # the space belongs to what follows
]


def stories(shared: Path, folder: Path) -> Path:
    """stories260K as a folder of Hugging Face."""
    fathom.export(shared / "stories260K" / "stories260K.bin", folder, "hf")
    return folder


def qwen(shared: Path, folder: Path) -> Path:
    """A random Qwen3, written by transformers, with the real tokenizer and chat template."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / "qwen3")
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=96, tie_word_embeddings=True, initializer_range=0.4,
    )  # fmt: skip
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_tasks(folder: Path) -> Path:
    """Multiple choice, rolling perplexity and answers, as YAML with local files."""
    folder.mkdir()
    lines = [{"text": text, "choices": choices, "gold": gold} for text, choices, gold in QUESTIONS]
    (folder / "choices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [{"text": STORY * count} for count in (1, 2, 30)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
    common = {"dataset_path": "json", "test_split": "test"}
    write_task(
        folder / "choices.yaml",
        **common,
        task="local_choices",
        dataset_kwargs={"data_files": {"test": str(folder / "choices.jsonl")}},
        output_type="multiple_choice",
        doc_to_text="{{text}}",
        doc_to_target="gold",
        doc_to_choice="choices",
        target_delimiter="",
        fewshot_split="test",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )
    write_task(
        folder / "texts.yaml",
        **common,
        task="local_texts",
        dataset_kwargs={"data_files": {"test": str(folder / "texts.jsonl")}},
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    )
    write_task(
        folder / "answers.yaml",
        **common,
        task="local_answers",
        dataset_kwargs={"data_files": {"test": str(folder / "choices.jsonl")}},
        output_type="generate_until",
        doc_to_text="{{text}}",
        doc_to_target="{{choices[gold]}}",
        generation_kwargs={"until": [".", "\n"], "max_gen_toks": 20},
        metric_list=[{"metric": "exact_match"}],
    )
    return folder


def write_task(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(values, indent=1))  # JSON is YAML
