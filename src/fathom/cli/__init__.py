"""The command line: the only package that prints and exits.

main      the table of verbs, one-line errors, exit codes
options   options of every verb, options from the fields of a dataclass, options of generation
train, generate, chat, tokenize, show_batch, evaluate, info, export, svd, ladder, bench
          the verbs, imported when called
"""
