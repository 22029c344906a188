"""Adapters: a frozen model, changed by a few small matrices beside its own.

layer     the equation, y = W x + scale b a x: one layer and its adapters
lora      the adapters of a model: add, remove, enable, blend, one per row, merge
whole     weights that an adapter holds whole, and vocabularies of another size
rows      rows of the embeddings that are trained, for tokens that were added
options   LoraOptions: rank, alpha, targets as one value
targets   which layers a name or pattern means, ours or those of Hugging Face
load      fathom.load: a model with adapters on it
export    fathom.export: a run with its base, an adapter alone as llama.cpp reads it
info      fathom.info: a run with its base
merge     base and adapter as one model, written and compared

peft          adapters in the folders of the peft library, read and written
peft_config   adapter_config.json
peft_targets  which modules it means
peft_tensors  adapter_model.safetensors
peft_experts  experts of a layer, which are one parameter there
peft_whole    weights in it that are the model's own, such as embeddings that have grown

svd       any matrix as a sum of rank-1 matrices; of a product from its factors; of a large one by sampling
"""
