"""One model as one file of Python that needs torch alone.

eject       `fathom.eject`: the file, its weights and the bytes of its tokens
written     classes and functions of a model in one file's order
fold        a function of the package without what this model never does
calls       what becomes of a call
unread      takes out what nothing reads
lines       statements as lines, with their comments
known       what an expression is, once the model is known
work        what the model needs of the package
standalone  the cache, reading weights and writing text, which are copied as they stand
"""
