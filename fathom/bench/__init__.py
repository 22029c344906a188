"""How fast this machine runs, trains and starts a model, beside what the machine allows.

options    what is measured, as one value
bench      one measurement from its options to its result
shapes     models of known shapes with random weights
works      decoding and prefill
probes     the machine's limits: memory bandwidth and matrix products
result     figures, each beside its limit
"""
