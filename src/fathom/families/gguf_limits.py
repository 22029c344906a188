"""What llama.cpp's architectures cannot run though our families have it, and what they compute otherwise.

An architecture's list of tensors (src/models in llama.cpp) decides: a tensor beyond it, or of another shape, keeps the
whole file from opening there.
"""

from fathom.families.gguf_columns import refusal, shown
from fathom.model.config import ResolvedConfig

SQUARE = (  # d_model = n_head * head_dim
    "chatglm", "command-r", "exaone4", "gpt2", "gptneox", "mpt", "nemotron", "olmo", "olmo2", "phi2", "phi3", "qwen2",
    "qwen2moe", "stablelm", "starcoder2",
)  # fmt: skip
UNTIED = ("gpt-oss", "gptneox", "olmo2", "olmoe", "phi2", "qwen2moe", "stablelm")
BIASED = {
    "arcee": ("qkv",),
    "olmoe": (),
    "qwen3": ("qkv",),
    "qwen3moe": (),
    "smollm3": ("qkv",),
}  # parts that may have biases, where fewer than ours
STRETCHED = ("arcee", "exaone4", "granite", "llama")  # read LLaMA 3.1's scaling, which is a tensor
WINDOWLESS = ("mistral", "ministral")  # families that are `llama` in GGUF, which has no key for a window
RMS = ("rms", "rms_1p")  # norms without biases


def require_place(name: str, z: ResolvedConfig) -> None:
    """FathomError where a family with windows has no architecture for them."""
    if name in WINDOWLESS and z.windowed:
        raise refusal("llama", f"layers={z.layers.pattern}:{z.layers.window}", "layers without a window")


def require_runnable(name: str, z: ResolvedConfig) -> None:
    """FathomError unless llama.cpp's architecture of this name opens a file with a model of these sizes and parts."""
    if name in SQUARE and z.d_model != z.n_head * z.head_dim:
        raise refusal(name, f"head_dim={z.head_dim}", f"d_model / n_head = {z.d_model / z.n_head:g}")
    if name in UNTIED and z.tie_embeddings:
        raise refusal(name, "tie_embeddings=True", "False")
    known = BIASED.get(name, z.bias) + (("norm",) if z.norm in RMS else ())
    if others := tuple(part for part in z.bias if part not in known):
        raise refusal(name, f"bias={shown(others)}", f"biases of {shown(BIASED[name])}")
    scaling = z.rope.scaling
    if scaling is not None and not scaling.truncate and name != "gpt-oss":
        raise refusal(name, "rope.scaling.truncate=False", "True")
    if scaling is not None and scaling.kind == "llama3" and name not in STRETCHED:
        raise refusal(name, "rope.scaling=llama3", "linear and yarn")


def differs(name: str, z: ResolvedConfig) -> str:
    """What llama.cpp computes otherwise than this model, in words; empty where it computes the same."""
    if z.mlp == "gelu_exact":
        return "llama.cpp computes GELU by its tanh form; here it is exact, as in transformers"
    if z.rope.scaling is not None and not z.rope.scaling.truncate:
        return "llama.cpp begins and ends the ramp of YaRN at whole channels; here it is as the model was trained"
    if name == "starcoder2":
        return "GGUF cannot say the window of 4096 tokens that StarCoder2's published models have in transformers"
    if z.layers.window is not None and (name == "phi3" or (name == "exaone4" and z.n_layer != 64)):
        return f"llama.cpp passes over the window of {z.layers.window} tokens, which is honoured here"
    return ""
