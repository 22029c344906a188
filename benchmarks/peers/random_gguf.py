"""Write a LLaMA with random weights as a GGUF file, its matrices stored as bf16, q8_0 or q4_0.

Speed depends on shapes alone, so matrices of one shape share their values: each shape is drawn and packed once.

usage: python random_gguf.py CONFIG.json TYPE OUT.gguf      CONFIG.json: as transformers reads it
"""

import json
import sys
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, by its name in GGUF."""
    d_model, d_ff = config["hidden_size"], config["intermediate_size"]
    queries, keys = (config["head_dim"] * config[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
    block = {
        "attn_norm": (d_model,), "attn_q": (queries, d_model), "attn_k": (keys, d_model), "attn_v": (keys, d_model),
        "attn_output": (d_model, queries), "ffn_norm": (d_model,), "ffn_gate": (d_ff, d_model),
        "ffn_up": (d_ff, d_model), "ffn_down": (d_model, d_ff),
    }  # fmt: skip
    blocks = range(config["num_hidden_layers"])
    tensors = {f"blk.{i}.{name}.weight": shape for i in blocks for name, shape in block.items()}
    ends = dict.fromkeys(("token_embd.weight", "output.weight"), (config["vocab_size"], d_model))
    return {**ends, "output_norm.weight": (d_model,), **tensors}


def write(config: dict, kind: Type, path: Path) -> None:
    random = np.random.default_rng(0)

    @cache
    def values(shape: tuple[int, ...]) -> np.ndarray:
        """A vector of ones in fp32, or a packed matrix of normal numbers."""
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        return gguf.quants.quantize(random.standard_normal(shape, np.float32) * 0.02, kind)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, shape in shapes(config).items():
        writer.add_tensor(name, values(shape), raw_dtype=Type.F32 if len(shape) == 1 else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    source, kind, out = sys.argv[1:]
    write(json.loads(Path(source).read_text()), Type[kind.upper()], Path(out))
