"""The same model, faster, for inference: leaves and whole steps exchanged from outside, held equal to the plain ones.

inference.py         a model made ready: every linear layer in panels, all blocks in one native call
training  Norms and MLPs of a frozen model in bf16, in one pass forward and one backward, keeping only what en
linear.py          the linear layer whose weights lie in panels
step.py            the model as native code reads it, and the call
cuda_graph.py           on a GPU: one decode step as a graph
matvec.py          on a GPU: matrix times few vectors
matvec_triton.py   its kernel
"""
