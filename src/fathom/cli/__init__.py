"""The command line: the only package that prints and exits.

streams    the standard streams, closed ones and narrow encodings among them
main       the table of verbs, one-line errors, exit codes
command    a verb as click runs it: help in groups, effective defaults, wrong calls
options    options, written by hand or made from the fields of a dataclass
notes      the help of such a field: the comment beside it
generation options of generate and chat, and a model loaded as they ask
completion what Tab completes an argument to
launch     --nproc: the same command in several processes
help       fathom help, fathom --version
prepare, train, replay, plan, presets, runs, generate, chat, serve, look, tokenize, show_batch, evaluate, info, export,
          svd, ladder, bench
          the verbs, imported when called
"""
