"""Text generation: one token after another.

generate     stream and generate: each row a request to an engine
options      GenerateOptions: everything that can be chosen, validated before anything runs; without torch
recommended  what the files of a model recommend, as options
engine       the loop, one token of every row after another: who joins, what is read, accepted, ended
slots        one row: what was asked for, and how far it is
readers      what reads the rows and remembers them: one text in one piece, nothing at all
paged        the same for many texts: pages, those of a beginning that was read before among them
context      what the model sees of a text, also past the context's end; the cache of one text
sampling     from logits to a token: temperature, top-k, top-p, min-p, penalties, biases, draw
choosing     the next tokens of many, each with samplers, generator and constraint of its own
constraint   masks of the tokens that a grammar or a JSON schema allows next
speculative  speculative decoding: prompt lookup, a draft model
text         from tokens to text: pieces, stop strings, completions, timing
chat         a conversation: messages, what fits, the next answer
"""
