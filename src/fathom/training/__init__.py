"""Training: batch -> loss -> backward -> clip -> step -> report -> maybe save.

train        a run from a recipe, or from where one stopped: its whole life
finetune     how fine-tuning begins: an adapter on an existing model, or all of its weights
run          the folder of a run: its settings, its data, its checkpoints
prepare      text of any size as tokens on disk, for any number of runs
data         preparing the data of a run: text as tokens, records as examples
replay       one step of a run again: its batch, its losses, its gradients
record       what a run records during training: metrics, its page, its plot, samples, its speed
page         the page of a run: what is trained, its loss, what it writes, what next
words        a model's config in words
commands     the commands with which a run continues
runs         the runs below a folder, from their small files
trend        what the losses mean: divergence, overfitting, the best checkpoint
loop         the training loop, on anything that has a model, an optimizer and batches
distributed  one model on several devices: DDP, where each holds all of it, or FSDP2, where each holds a part
sharding     a model divided by FSDP2: gathered block by block, saved and loaded whole
sharded_muon  Muon on a model that is divided by FSDP2
world        the processes that train one model together, and what they agree on
watch        how they notice that one of them is lost, and what they tell each other
voice        which of them says why a run ends
session      adapters -> dropout -> recompute -> compile -> parallelize -> optimizers: a model that is ready to learn
batches      micro-batches on the device, the next prepared while this one is computed
loss         next-token loss in pieces; exact gradient accumulation
dropout      masks that follow from the row and the step, however a batch is divided
experts      the load-balancing loss of experts, and how many tokens each runs
optimizer    which parameter goes to which optimizer, at which learning rate
optimizers   AdamW, AdamW in 8 bits, Muon: one file each
precision    number format and compilation, chosen for the machine
options      TrainOptions and FinetuneOptions: every choice as one value
tuning       defaults of fine-tuning that follow from the model and the method
travels      the formats that a model can be exported to, with its tokenizer
presets      recipes as values: presets, YAML and overrides on top of each other
preflight    pre-flight summary and warnings
checkpoints  saving and restoring checkpoints
events       events of a run, and metrics.jsonl
trackers     the same numbers to TensorBoard, Weights & Biases, trackio or a CSV
result       how a run ended: figures, history, a picture of its loss
shown        events shown by a listener, in a notebook or nowhere
signals      turn signals into a stop flag
"""
