"""Models that are only run: opened by their path, prepared for inference, or taken as they are.

ready     a model and its tokenizer, ready to run, and how it runs in one line
generate  fathom.generate and fathom.stream
chat      fathom.chat
remote    the same with a model that a server answers for
demo      fathom.demo: a model that comes with the package
"""
