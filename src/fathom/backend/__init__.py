"""The same model, faster: parts exchanged from outside, and tests that compare them with the plain ones.

inference      a model prepared for inference: fast linear layers, and all blocks in one step
linear         on a CPU: the linear layer whose weights lie in panels
step           on a CPU: all blocks in one native call
adapted        on a CPU: adapters of layers, as that call adds them
memory         on a CPU: where a cache keeps what that call reads
one_piece      a cache in one piece, for one text after another
pages          a cache in pages, which rows of any length share
cuda_graph     on a GPU: a step as a CUDA graph
matvec         on a GPU: linear layers for few rows
matvec_triton  their kernels
training       bf16 on a CPU in fused passes, and recomputation of blocks
"""
