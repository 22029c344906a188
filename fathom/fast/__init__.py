"""The same model, faster, for inference: leaves and whole steps exchanged from outside, held equal to the plain ones.

quicken.py         a model made ready: every linear layer in panels, all blocks in one native call
linear.py          the linear layer whose weights lie in panels
attend.py          attention without a cache in native code
step.py            the model as native code reads it, and the call
graph.py           on a GPU: one decode step as a graph
matvec.py          on a GPU: matrix times few vectors
matvec_triton.py   its kernel
"""
