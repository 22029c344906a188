"""Training: batch -> loss -> backward -> clip -> step -> report -> maybe save.

train        a run directory from a recipe: data, tokenizer, model, loop, checkpoints, plot
loop         the loop itself, on anything that has a model, an optimizer and batches
recipes      presets of training as values; YAML and overrides on top of them
options      TrainOptions: every choice of training as one value
loss         next-token loss in chunks; exact gradient accumulation
optimizer    which parameter goes to which optimizer, and what is decayed
muon         Muon: orthogonalised momentum for matrices
schedule     the learning rate over time
precision    number format and compilation, chosen for the machine
checkpoint   atomic checkpoints with a manifest; state: everything that must resume bitwise
signals      Ctrl-C and SIGTERM end a run with a good checkpoint
events       what the loop has to say, as values
"""

import sys

from fathom import Room

sys.modules[__name__].__class__ = Room  # `fathom.train(...)`
