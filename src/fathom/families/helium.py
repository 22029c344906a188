"""Helium (Kyutai 2025): a LLaMA whose files rotate channels 2i and 2i + 1 as a pair. Written as a LLaMA."""

from dataclasses import replace

from fathom.families import ernie4_5, llama
from fathom.families.values import key

hf = llama.FAMILY.columns["hf"]
KEYS = {
    **hf.keys,
    "n_kv_head": key("num_key_value_heads"),  # required: its default is 20, LLaMA's is n_head
    "head_dim": key("head_dim"),
    "norm_eps": key("rms_norm_eps=1e-8"),
    "rope_theta": key("rope_theta=100000.0"),
}
FAMILY = replace(
    llama.FAMILY,
    name="helium",
    title="Helium",
    columns={"hf": replace(hf, ids=("helium",), tensors=ernie4_5.TENSORS, keys=KEYS)},
    classes=("HeliumConfig", "HeliumForCausalLM"),
    written_as="llama",
)
