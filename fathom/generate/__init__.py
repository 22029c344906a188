"""Writing text with a model: one token after another.

generate     stream and generate: the loop
speculative  several tokens for one pass: a draft is read whole and judged
text       what comes out: pieces, completions, what was measured
chat         a conversation: what was said, what fits, the next answer
context      which tokens the model reads for the next one: with the cache, without it, past the context's end
sampling     from logits to a token: temperature, top-k, top-p, min-p, repetition penalty, draw
options      everything that can be chosen, checked before anything runs; without torch
"""

import sys

from fathom import Room

sys.modules[__name__].__class__ = Room  # `fathom.generate(...)`
