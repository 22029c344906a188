"""InternLM2, which transformers does not know: a LLaMA of transformers under InternLM2 names gives equal logits."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fathom
from tests.families.test_variants import logits
from tests.formats.hf import LLAMA, make

NAMES = {
    "embed_tokens": "tok_embeddings", "input_layernorm": "attention_norm", "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2", "lm_head": "output",
}  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
def test_a_llama_under_other_names(tmp_path: Path, bias: bool) -> None:
    theirs = make(LLAMA | {"attention_bias": bias})
    state, fused = theirs.state_dict(), {}
    for name, tensor in state.items():
        if "q_proj" in name:
            q, k, v = (state[name.replace("q_proj", f"{x}_proj")].unflatten(0, (2, -1, 4)) for x in "qkv")
            fused[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat((q, k, v), 1).flatten(0, 2)
        elif "k_proj" not in name and "v_proj" not in name:
            for old, new in NAMES.items():
                name = name.replace(old, new)
            fused[name] = tensor.contiguous()
    save_file(fused, tmp_path / "model.safetensors")
    scaling = {"type": "dynamic", "factor": 2.0}
    values = LLAMA | {"model_type": "internlm2", "bias": bias, "rope_scaling": scaling, "auto_map": {"AutoModel": "x"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    ours, _ = fathom.load(tmp_path, device="cpu")
    assert (logits(ours) - logits(theirs)).abs().max() <= 1e-5
