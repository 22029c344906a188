"""Families: what the models that people publish are called, and how every file format describes them.

gpt2      GPT-2
llama     LLaMA 1 to 3.2
mistral   Mistral without its window

family    a family as one value: choices of ModelConfig, and a column for each format
plain     whether a model computes what its config says, so that a file can describe it
names     the cells of a table of tensor names: a name and what turns the stored tensor into ours
values    a configuration read key by key, and the cells of a table of keys
rope      rotary positions and their scaling, as config.json and GGUF files write them
registry  all of them, found by what a file or a config says
"""
