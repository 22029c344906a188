"""Training: batch -> loss -> backward -> clip -> step -> report -> maybe save.

train        a run folder from a recipe, or on from where a run stopped
loop         the loop itself, on anything that has a model, an optimizer and batches
run          the folder of a run: what it was told, its text as tokens, its checkpoints
presets      a recipe as values: presets, YAML and overrides on top of each other
options      TrainOptions: every choice of training as one value
preflight       what is said before step 1, and what looks wrong
loss         next-token loss in chunks; exact gradient accumulation
optimizer    which parameter goes to which optimizer, and what is decayed
adamw8bit    AdamW that keeps its moments in 8 bits
muon         Muon: orthogonalised momentum for matrices
finetune     a model that exists, trained further: an adapter on it, or all of it
finetune_run      the folder of such a run: its base, its data, its best adapter
precision    number format and compilation, chosen for the machine
checkpoints      a checkpoint of a run, and back
signals      Ctrl-C and SIGTERM end a run with a good checkpoint
events       what training has to say, as values
"""

import sys

from fathom import Room

sys.modules[__name__].__class__ = Room  # `fathom.train(...)`
