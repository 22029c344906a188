"""The glass: what a loaded model computes for one prompt, as panels of numbers, each with its source and its checks.

panel       what a panel is made of: series, checks, lines of source; and its bytes
subject     a model opened to be looked at: its card and its map
passes      one prompt through one model, and everything recorded of it
panels      the table of panels, and the call that fills one
next_token  P1: what comes next, and what a sampler makes of it
microscope  P2: one head's attention step by step, with switches that break it
steps       P2's steps in words: what each shows
heads       P3: all heads as thumbnails, what each does in numbers, one of them in full
lens        P4: the stream, and what would be said at each layer
attribution P5: what every part adds to a logit
ablation    P6: parts taken away, or given what they compute for another prompt
patching    P6's second prompt, whose activations are put into this one's pass
positions   P7: how a token knows its place
rotation    rotated positions: one query and one key as points on circles
rope_layout which layout of rotated channels the weights speak for
distance    scores and attention of a layer by how far apart tokens are
generation  P8: a text grows token by token, with a cache and without one
groups      P9: heads that share keys and values
runs        P10: runs as their folders tell of them while they train
cards       P10: the ladder as cards
lora        P11: what changed the weights, and what is left of it at a lower rank
changes     what changed the weights of a pass, kept with it
packing     P12: weights in 8 or 4 bits: a block there and back, a matrix, and the loss
cost        P13: parameters, memory for each use, products, and how near this machine's limits the model runs
guesses     answers to guess among, and which of them the numbers of a panel give
texts       what the page says of each panel, and its tour: the texts of prose/
limits      what this machine can do at best, measured once and kept
snippet     lines of Python that panels share
show        the page in a notebook
pictures    PNGs of the panels, by a browser that is there
document    one HTML file that holds the page and its data
bundle      the page's script, style and formulas, as they were built
"""
