"""Adapters: a frozen model, changed by a few small matrices beside its own.

layer     the idea, y = W x + scale b a x: one layer and its adapters
lora      what is done with adapters on a model: add, remove, enable, merge
options   LoraOptions: rank, alpha, targets as one value
targets   which layers a name or pattern means, ours or those of Hugging Face
variants  DoRA, PiSSA, and LoRA of an embedding
many      several adapters in one model: switched, blended, or another one for each row of a batch
load      fathom.load: a model with adapters on it
run       a run of fine-tuning as a model: its base with its best adapter
identity  C11: what holds for every adapter, as a function that says how far it is off
merge     base and adapter as one model of its own, written and compared

peft          adapters in the folders of the peft library, read and written
peft_config   adapter_config.json
peft_tensors  adapter_model.safetensors
fused         an adapter of q, k and v as one of GPT-2's c_attn, and back
base          the fingerprint by which an adapter knows its base again

svd       any matrix as a sum of rank-1 matrices; of a product from its factors; of a large one by sampling
spectrum  what singular values say: ranks that hold energy, and what chance would give
subspaces principal angles between two changes, and directions that a change brought
"""
