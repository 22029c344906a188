"""Proof that a model is right: compared with other ways to compute it, with other libraries and with other files.

verify       all comparisons that were asked for, as one certificate
references   who it is compared with: naive, cache, transformers, another file
layout       the rope layout, by weights and by what the model makes of text
prediction   fathom.evaluate: a model on a text, as it is and packed, as one table
options      EvalOptions, TaskOptions
tasks        fathom.evaluate_tasks: scores on the tasks of lm-eval
harness      the model as lm-eval asks it
evaluate     windows of a text, and their scores: loss, bits per byte, top-1
trained_on   what a run was trained on: the part of its data that it has never seen
quantised    what packing its weights costs: bits, errors, and what becomes of its predictions
"""
