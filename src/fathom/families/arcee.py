"""Arcee's AFM (Arcee AI 2025): a LLaMA whose MLP has no gate but a squared ReLU."""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.values import key
from fathom.model.config import ResolvedConfig


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["ArceeForCausalLM"], "model_type": "arcee", "hidden_act": "relu2"}
    return {**llama.write_hf(z), **names}


hf, gguf = llama.FAMILY.columns["hf"], llama.FAMILY.columns["gguf"]
KEYS = {**hf.keys, "norm_eps": key("rms_norm_eps=1e-5")}
FAMILY = replace(
    llama.FAMILY,
    name="arcee",
    title="Arcee",
    choices={**llama.FAMILY.choices, "mlp": "relu2", "qk_norm": "off"},
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("arcee",), keys=KEYS, allowed={**llama.ALLOWED, "hidden_act": ("relu2",)}, write=write_hf
        ),
        "gguf": replace(gguf, ids=("arcee",)),
    },
    classes=("ArceeConfig", "ArceeForCausalLM"),
)
