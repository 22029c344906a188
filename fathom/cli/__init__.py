"""The command line: the only room that prints and exits.

main      the table of verbs, one-line errors, exit codes
watch     training and other long work, shown as it happens
options   options every verb has, and options made from the fields of a dataclass
choices   how a model speaks, as options of generate and chat
train, finetune, presets, generate, chat, show_batch, verify, eval, info, export, merge, svd, extract, ladder, bench
          one file per verb, imported when called
"""
