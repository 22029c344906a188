"""Writing text with a model: one token after another.

generate     stream and generate: the loop
row          one text being written: what may be shown of it, and why it ends
choose       the next token of each row: read, sample, draw
speculative  several tokens for one pass: a draft is read whole and judged
propose      where drafts come from: repeats in the text, a smaller model
pieces       what comes out: pieces, completions, what was measured
chat         a conversation: what was said, what fits, the next answer
tell         a stream shown to a reader, rows in order
context      which tokens the model reads for the next one: with the cache, without it, past the context's end
sampling     from logits to a token: temperature, top-k, top-p, min-p, repetition penalty, draw
stops        from tokens to text: no broken characters, no leaked stop strings
options      everything that can be chosen, checked before anything runs; without torch
"""

import sys

from fathom import Room

sys.modules[__name__].__class__ = Room  # `fathom.generate(...)`
