"""Families: what the models that people publish are called, and how every file format describes them.

gpt2      GPT-2
gpt_bigcode  StarCoder: one head of keys and values
llama     LLaMA 1 to 3.2, and its variants:
qwen2     biases on q, k and v
qwen3     queries and keys normalised
arcee     squared ReLU without a gate
mistral   Mistral without its window
phi3      q, k, v in one matrix, gate and up in another
ernie4_5  ERNIE 4.5: other pairs of channels are rotated
helium    the same
seed_oss  Seed-OSS: each bias declared

family    a family as one value: choices of ModelConfig, and a column for each format
shapes    names and shapes of the weights of a config
plain     whether a model computes what its config says, so that a file can describe it
names     the cells of a table of tensor names: a name and what turns the stored tensor into ours
values    a configuration read key by key, and the cells of a table of keys
rope      rotary positions and their scaling, as config.json and GGUF files write them
registry  all of them, found by what a file or a config says
"""
