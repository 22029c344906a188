"""Write a model with random weights as a GGUF file, its matrices stored as bf16, q8_0 or q4_0.

Speed depends on shapes alone, so matrices of one shape share their values: each shape is drawn and packed once. As in
the files of llama-quantize, the matrix that gives the logits is Q6_K in a q4_0 file, or q8_0 where a row is not a
multiple of 256 (llama_tensor_get_type).

usage: python random_gguf.py CONFIG.json TYPE OUT.gguf [TOKENIZER.model]

CONFIG.json: as transformers reads it, of a LLaMA, a Qwen3, a Gemma 2 or a GPT-NeoX. TOKENIZER.model: SentencePiece's of
a LLaMA; without it the file has no vocabulary, and no server can read a prompt.
"""

import json
import sys
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3", "gemma2": "gemma2", "gpt_neox": "gptneox"}


def sizes(config: dict) -> tuple[int, int, int]:
    """Heads, heads of keys, and the width of a head."""
    heads = config["num_attention_heads"]
    return heads, config.get("num_key_value_heads", heads), config.get("head_dim", config["hidden_size"] // heads)


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, by its name in GGUF."""
    d_model, d_ff, kind = config["hidden_size"], config["intermediate_size"], config["model_type"]
    heads, kv_heads, head_dim = sizes(config)
    queries, keys = heads * head_dim, kv_heads * head_dim
    block = {
        "attn_norm": (d_model,), "attn_q": (queries, d_model), "attn_k": (keys, d_model), "attn_v": (keys, d_model),
        "attn_output": (d_model, queries), "ffn_norm": (d_model,), "ffn_gate": (d_ff, d_model),
        "ffn_up": (d_ff, d_model), "ffn_down": (d_model, d_ff),
    }  # fmt: skip
    if kind == "qwen3":
        block |= {"attn_q_norm": (head_dim,), "attn_k_norm": (head_dim,)}
    if kind == "gemma2":
        block |= {"post_attention_norm": (d_model,), "post_ffw_norm": (d_model,)}
    if kind == "gpt_neox":
        block = {name: shape for name, shape in block.items() if name not in ("attn_q", "attn_k", "attn_v", "ffn_gate")}
        block["attn_qkv"] = (queries + 2 * keys, d_model)
    blocks = range(config["num_hidden_layers"])
    tensors = {f"blk.{i}.{name}": shape for i in blocks for name, shape in block.items()}
    ends = {"token_embd": (config["vocab_size"], d_model)}
    if not config["tie_word_embeddings"]:
        ends["output"] = ends["token_embd"]
    weights = {**ends, "output_norm": (d_model,), **tensors}
    biases = {f"{name}.bias": shape[:1] for name, shape in weights.items() if kind == "gpt_neox" and name not in ends}
    return {f"{name}.weight": shape for name, shape in weights.items()} | biases


def add_keys(writer: gguf.GGUFWriter, config: dict) -> None:
    heads, kv_heads, head_dim = sizes(config)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 1)))
    writer.add_vocab_size(config["vocab_size"])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "layer_norm_eps" in config:
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_parallel_residual(config["use_parallel_residual"])
    if config["model_type"] == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        writer.add_sliding_window(config["sliding_window"])


def random_q6_k(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Bytes of a Q6_K matrix, which gguf cannot pack: for every 256 numbers 192 bytes of 6-bit codes, 16 scales in 8
    bits and one in fp16."""
    blocks = shape[0] * shape[1] // 256
    codes = random.integers(0, 256, (blocks, 192), np.uint8)
    scales = np.full((blocks, 16), 16, np.uint8)
    scale = np.full((blocks, 1), 0.02 / (16 * 18.5), np.float16).view(np.uint8)  # 18.5: the deviation of the codes
    return np.concatenate([codes, scales, scale], 1).reshape(shape[0], -1)


def add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    """The pieces of SentencePiece's model, as llama.cpp's own converter writes them."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(str(path))
    kinds = {model.unk_id(): 2, model.bos_id(): 3, model.eos_id(): 3}
    ids = range(model.vocab_size())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([model.id_to_piece(id) for id in ids])
    writer.add_token_scores([model.get_score(id) for id in ids])
    writer.add_token_types([6 if model.is_byte(id) else kinds.get(id, 1) for id in ids])
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())


def write(config: dict, kind: Type, path: Path, tokenizer: Path | None = None) -> None:
    random = np.random.default_rng(0)

    @cache
    def values(shape: tuple[int, ...], kind: Type) -> np.ndarray:
        """A vector of ones in fp32, or a packed matrix of random numbers."""
        if kind == Type.F32:
            return np.ones(shape, np.float32)
        if kind == Type.Q6_K:
            return random_q6_k(random, shape)
        return gguf.quants.quantize(random.standard_normal(shape, np.float32) * 0.02, kind)

    def kind_of(name: str, shape: tuple[int, ...]) -> Type:
        if len(shape) == 1:
            return Type.F32
        logits = "token_embd.weight" if config["tie_word_embeddings"] else "output.weight"
        if kind != Type.Q4_0 or name != logits:
            return kind
        return Type.Q6_K if shape[1] % 256 == 0 else Type.Q8_0

    writer = gguf.GGUFWriter(path, ARCHITECTURES[config["model_type"]])
    add_keys(writer, config)
    add_tokenizer(writer, tokenizer) if tokenizer else writer.add_tokenizer_model("no_vocab")
    for name, shape in shapes(config).items():
        chosen = kind_of(name, shape)
        writer.add_tensor(name, values(shape, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    source, kind, out, *tokenizer = sys.argv[1:]
    write(json.loads(Path(source).read_text()), Type[kind.upper()], Path(out), *map(Path, tokenizer))
