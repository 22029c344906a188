"""Adapters: a frozen model, changed by a few small matrices beside its own.

lora      the idea, y = W x + scale b a x, and everything that is done with it: add, remove, enable, merge
options   LoraOptions: rank, alpha, targets as one value
targets   which layers a name or pattern means, ours or those of Hugging Face
variants  DoRA, PiSSA, and LoRA of an embedding
"""
