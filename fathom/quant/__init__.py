"""Weights in 8 or 4 bits: each group of them shares a scale, and each is a small whole number or the place in a table.

scheme  what every number format can do: pack a matrix into small tensors, and give it back
integer  groups of 32 numbers along a row that share a scale of 16 bits
nf4     a weight is scale * one of the 16 quantiles of a normal distribution: 4.127 bits (QLoRA)
schemes the formats by name
linear  QuantLinear: a linear layer with packed weights, unpacked for each product
model    the linear layers of a model found, and packed ones put in their place
"""
