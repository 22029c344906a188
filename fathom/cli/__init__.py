"""The command line: the only room that prints and exits.

main      the table of verbs, one-line errors, exit codes
options   options every verb has, and options made from the fields of a dataclass
train, generate, chat, show_batch, evaluate, info, export, svd, ladder, bench
          the verbs, imported when called
"""
