"""Formats: models in files, ours and those of others.

native       our own: config.yaml, tokenizer.json, model.safetensors
config_file  config.yaml as plain values
checkpoint   folders that are there whole or not at all
load         a model and its tokenizer from wherever they lie
tensors      a file of named tensors
names        the Rosetta table: what every format calls the parts of one model
convert      all tensors of a model from one format to another
"""
