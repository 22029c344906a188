"""Code for one processor, beside the code for all: compiled at its first use, never needed, held equal by tests.

build.py      compile a C++ file into the user's cache and load it; which instruction set; what is in use, in a line
arena.py      memory on large pages
panels.py     a matrix in panels of 16 rows and its product with few or many vectors (panels.h, panels.cpp)
step.cpp      all blocks for some tokens in one call (backend/step.py); attention.h: over the cache as it lies
attention.py  attention of a prompt over keys as they lie (attention.cpp)
isa.h         sixteen lanes in AVX-512, AVX2, NEON and plain C++: all that panels and attention know of a processor
exponential.h e^x that vectorises, for attention and activations
nf4.py        NF4 to floats in one pass (nf4.cpp)
passes.py     what lies between the matrix products of a training step in bf16 (passes.cpp)
"""
