"""Text generation: one token after another.

generate     stream and generate: the loop
options      GenerateOptions: everything that can be chosen, validated before anything runs; without torch
recommended  what the files of a model recommend, as options
context      the window of tokens the model sees: with the KV cache, without it, past the context's end
sampling     from logits to a token: temperature, top-k, top-p, min-p, penalties, biases, draw
engine       continuous batching: many continuations, each as if it were alone
slots        one of them: what was asked for, and how far it is
prefixes     which pages of the cache it has, those of a beginning that was read before among them
choosing     the next tokens of many, each with samplers, generator and constraint of its own
constraint   masks of the tokens that a grammar or a JSON schema allows next
speculative  speculative decoding: prompt lookup, a draft model
text         from tokens to text: pieces, stop strings, completions, timing
chat         a conversation: messages, what fits, the next answer
"""
