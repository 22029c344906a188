"""Weights in 8 or 4 bits: groups of them share a scale, and each is a small whole number or the index of a value.

scheme   the interface of a number format: pack a matrix into small tensors, and unpack it
integer  int8 and int4: whole numbers, one scale in 16 bits for 32 of them
k_quants the formats of GGUF's Q4_K, Q5_K and Q6_K, taken over from files
nf4      a weight is scale * one of the 16 quantiles of a normal distribution: 4.127 bits (QLoRA)
schemes  the formats by name
linear   QuantLinear: a linear layer with packed weights, unpacked for each product
model    quantise a model: swap the linear layers of its blocks, and what that costs
"""
