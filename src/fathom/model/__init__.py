"""The model: one Transformer of chosen parts.

transformer  the whole model on a page: embed, blocks, unembed
attention    attend (the equation) and attend_fused (one kernel), held equal by tests
position     none, learned, rotary, a penalty on distance: how a token knows its position
norm         none, LayerNorm, RMSNorm, written out and fused
mlp          none, GELU, squared ReLU, SwiGLU
ends         embed and unembed, with their constants
cache        KVCache: keys and values of the past, owned by the caller
config       ModelConfig: every choice as one value
presets      bigram, GPT-2, LLaMA 2 as values
init         weights at the start, by role
tap          the one line by which rotated q and k can be seen
"""
