"""Training: batch -> loss -> backward -> clip -> step -> report -> maybe save.

train        a run folder from a recipe, or on from where a run stopped
loop         the loop itself, on anything that has a model, an optimizer and batches
run          the folder of a run: what it was told, its text as tokens, its checkpoints
recipes      a recipe as values: presets, YAML and overrides on top of each other
presets      the recipes that have names
options      TrainOptions: every choice of training as one value
before       what is said before step 1, and what looks wrong
loss         next-token loss in chunks; exact gradient accumulation
optimizer    which parameter goes to which optimizer, and what is decayed
adamw8bit    AdamW that keeps its moments in 8 bits
muon         Muon: orthogonalised momentum for matrices
schedule     the learning rate over time
finetune     a model that exists, trained further: an adapter on it, or all of it
finetune_options  FinetuneOptions: what fine-tuning has to choose besides
finetune_data     records or text, made ready once
finetune_run      the folder of such a run: its base, its data, its best adapter
finetune_before   what is said before step 1: the loss beside the base's own
recompute    blocks that forget what they computed until the gradient needs it
attend       attention in bf16 on a CPU, by matrix products
lean         norms and MLPs in bf16 on a CPU, in one pass each
precision    number format and compilation, chosen for the machine
survive      a checkpoint of a run, and back
state        optimizer and random states without pickle
signals      Ctrl-C and SIGTERM end a run with a good checkpoint
metrics      what was measured, as lines and as a plot
events       what training has to say, as values
"""

import sys

from fathom import Room

sys.modules[__name__].__class__ = Room  # `fathom.train(...)`
