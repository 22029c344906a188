"""How fast this machine runs, trains and starts a model, beside what the machine allows.

options    what is measured, as one value
bench      one measurement from its options to its result
shapes     models of known shapes with random weights
works      decoding and prefill
learning   steps of training and of fine-tuning
startup    from a file to the first token
probes     the machine's limits: memory bandwidth and matrix products
counts     the bytes and FLOPs that a work cannot do without
result     figures, each beside its limit
report     all of it as rows of text
"""
