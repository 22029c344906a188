"""Looking inside: whatever is shown is a tensor the running model really computed.

look        record named activations while a model runs, without changing a bit of its logits
edit        change named activations while a model runs: zero, scale, replace
names       which names a config has, their shapes and bytes, before anything runs
hooks       where each name is computed in a running model
derived     what follows from recorded tensors: scores, pattern, what heads and layers write
head_stats  what each head does, in numbers and thumbnails: sink, previous token, induction, entropy, size of its output
microscope  one layer's attention step by step, as it is or with a step left out on purpose
lens        what the model would say if the stream were read at each layer
attribute   what every head, MLP and bias adds to a logit
ablate      parts of a model taken away, one or many, and what that changes
patch       what is computed for one prompt put into the pass of another
identities  statements that hold for every recording, as functions that return how far they are off
rope_view   what rotation does to a query and a key, scores over distance, and the layouts that break them
cache_view  generation with a cache and without one, step by step, and caches that are wrong on purpose
group_view  heads that share keys and values, and what sharing saves
quant_view  what packing does to weights: blocks, levels, errors, outliers, the loss with one layer packed
"""
