"""Native kernels in C++, compiled for this processor at first use; without a compiler everything runs on torch.

build.py       find the compiler and the instruction set, compile a C++ file into the user's cache and load it
stopwatch.py   time without compiling
interface.py   the C interface: enumerations, structures and the signature of every function
codes.py       whole numbers of 4 to 6 bits in bytes
panels.py      weights in panels of 16 rows, and their product with vectors (panels.h, panels.cpp)
kernels.py     attention (attention.h, attention.cpp), NF4 to floats (nf4.cpp), fused passes of training (fused.cpp)

step.h         the structures of a model, as Python fills them, and their checks
step.cpp       all blocks of a model in one call, for backend/step.py
paged.h        attention over keys and values in pages
isa.h          sixteen lanes in AVX-512, AVX2, NEON and plain C++: all that the kernels know of a processor
exponential.h  e^x in a form that vectorises
parts.h        norms, activations and rotation of one vector, for step.cpp
activations.h  GELU, SiLU, ReLU, their gradients, and tanh
"""
