"""Phi-3, Phi-3.5, Phi-4 and their minis (Abdin et al. 2024), as far as all channels are rotated and no window matters:
a LLaMA whose q, k and v are one matrix, and gate and up another. Written as a LLaMA."""

from dataclasses import replace

from fathom.families import llama, mistral
from fathom.families.names import place
from fathom.families.values import key

hf = mistral.FAMILY.columns["hf"]  # the window as there; its default is none
QKV = {f"blocks.N.attn.{x}": place(f"model.layers.N.self_attn.qkv_proj[{i}/3]") for i, x in enumerate("qkv", 1)}
UP = {f"blocks.N.mlp.{x}": place(f"model.layers.N.mlp.gate_up_proj[{i}/2]") for i, x in enumerate(("gate", "up"), 1)}
FAMILY = replace(
    llama.FAMILY,
    name="phi3",
    title="Phi-3",
    columns={
        "hf": replace(
            hf,
            ids=("phi3",),
            tensors={**hf.tensors, **QKV, **UP},
            keys={**llama.FAMILY.columns["hf"].keys, "norm_eps": key("rms_norm_eps=1e-5")},
            read=mistral.reader(default=None),
        )
    },
    classes=("Phi3Config", "Phi3ForCausalLM"),
    written_as="llama",
)
