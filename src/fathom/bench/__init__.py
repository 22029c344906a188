"""Benchmarks: how fast this machine runs, trains and loads a model, as a fraction of its limits.

options    BenchOptions: what is measured
bench      one measurement, from its options to its result
shapes     models of known shapes with random weights
works      decoding, prefill, training, fine-tuning, start-up
probes     the machine's limits: memory bandwidth and matrix products
result     figures, each with its limit, as values and as text
"""
