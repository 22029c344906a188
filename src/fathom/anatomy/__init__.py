"""A model from outside: its parts, its names and shapes, what it costs.

swap       one way to exchange parts of a model for others, and back
state      whether a model still is what it was
skeleton   a model without contents, for weights that are read
cost       parameters, FLOPs and bytes as arithmetic on the config
amounts    memory by use and kind, and products, with the arithmetic of each
training   a training step: what a device holds, and what devices send each other
words      a config in few words: what does not follow from the rest
"""
