"""Families: what the models that people publish are called, and how every file format describes them.

gpt2      GPT-2
gpt_bigcode  StarCoder: one head of keys and values
llama     LLaMA 1 to 3.2, and its variants:
qwen2     biases on q, k and v
qwen3     queries and keys normalised
apertus   xIELU, normed heads
arcee     squared ReLU without a gate
mistral   Mistral, with a window or without
ministral  some layers with a window
ministral3  stretched by YaRN, held to its original context
internlm2  InternLM2: q, k and v of heads that share a key in one matrix
phi3      q, k, v in one matrix, gate and up in another
ernie4_5  ERNIE 4.5: other pairs of channels are rotated
helium    the same
hunyuan_v1_dense  Hunyuan's dense models: queries and keys normalised after rotation
seed_oss  Seed-OSS: each bias declared
smollm3   every fourth layer without rotation
internlm3  InternLM3
granite   constants for embeddings, scores, layers and logits
gemma     GEGLU, and norms that multiply by 1 + weight
gemma2    norms before and after, soft caps
gemma3    a rotation of its own in layers with a window
olmo      LayerNorm without weights
olmo2     norms after attention and MLP
olmo3     most layers with a window
exaone4   normed heads, norms after
glm       half of each head rotated, in pairs
glm4      the same with two norms more
cohere    Command-R: attention beside the MLP
cohere2   the same with windows
stablelm  LayerNorm, a quarter of each head rotated
nemotron  squared ReLU, LayerNorm that multiplies by 1 + weight
starcoder2  GPT-2's parts with rotation and a window

Mixtures of experts:
mixtral   a Mistral with experts
qwen2_moe  a Qwen2 with experts, and one that every token runs
qwen3_moe  a Qwen3 with experts
olmoe     OLMoE: norms of whole queries and keys
granitemoe  a Granite with experts, which are one tensor
glm4_moe  GLM-4.5: experts chosen by sigmoids, behind dense layers
gpt_oss   gpt-oss: sinks in the softmax, clamped experts
phimoe    Phi-3.5-MoE: SparseMixer

Attention beside the MLP, or GPT-2's relatives:
phi       Phi-1.5 and Phi-2
gpt_neox  GPT-NeoX, Pythia
gptj      GPT-J
gpt_neo   GPT-Neo, TinyStories
falcon    Falcon 7B and 11B
falcon_40b  two norms, and groups of heads
opt       OPT
mpt       MPT: a penalty on distance
nanochat  nanochat: norms without weights, also of embeddings
bloom     BLOOM: the same, and normalised embeddings

experts   names and keys that families of experts share
family    a family as one value: choices of ModelConfig, and a column for each format
gguf_columns  GGUF columns: the names and keys that architectures share
gguf_experts  the same of mixtures of experts
gguf_limits  what llama.cpp's architectures cannot run
shapes    names and shapes of the weights of a config
plain     whether a model computes what its config says, so that a file can describe it
names     the cells of a table of tensor names: a name and what turns the stored tensor into ours
values    a configuration read key by key, and the cells of a table of keys
sliding   which layers have a window, as config.json says it
unsupported  why a model of another family does not open
rope      rotary positions and their scaling, as config.json and GGUF files write them
registry  all of them, found by what a file or a config says
"""
