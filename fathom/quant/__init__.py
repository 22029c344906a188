"""Weights in 8 or 4 bits: each group of them shares a scale, and each is a small whole number or the place in a table.

scheme  what every number format can do: pack a matrix into small tensors, and give it back
groups  groups of 32 numbers along a row that share a scale of 16 bits
int8    a weight is scale * q, q from -127 to 127: 8.5 bits (GGUF's Q8_0)
int4    a weight is scale * q, q from -8 to 7: 4.5 bits (GGUF's Q4_0)
nf4     a weight is scale * one of the 16 quantiles of a normal distribution: 4.127 bits (QLoRA)
schemes the formats by name
linear  QuantLinear: a linear layer with packed weights, unpacked for each product
swap    the linear layers of a model found, and packed ones put in their place
error   what packing costs: bits per parameter and the error of each matrix
"""
