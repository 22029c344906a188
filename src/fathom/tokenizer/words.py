"""How byte-level BPEs split a text into words, by the names that `tokenizer.ggml.pre` has for it.

Each name stands for patterns that split one after another (llama.cpp, src/llama-vocab.cpp); where llama.cpp spells a
pattern out for want of Unicode classes, here is the one that the model's authors published.
"""

from collections.abc import Mapping, Sequence
from typing import Any

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
SINGLE_DIGITS = r"\p{N}"
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
TEKKEN_PATTERN = rf"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*|\p{{N}}{REST}"
GPT4O_PATTERN = rf"{BEFORE}{UPPER}*{LOWER}+{ENDING}|{BEFORE}{UPPER}+{LOWER}*{ENDING}|\p{{N}}{{1,3}}{REST}"
QWEN35_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_PATTERN = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "gpt-2": (GPT2_PATTERN,),
    "llama-bpe": (LLAMA3_PATTERN,),
    "dbrx": (LLAMA3_PATTERN,),
    "qwen2": (QWEN2_PATTERN,),
    "qwen35": (QWEN35_PATTERN,),
    "smollm": (SINGLE_DIGITS, GPT2_PATTERN),
    "tekken": (TEKKEN_PATTERN,),
    "gpt-4o": (GPT4O_PATTERN,),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", SINGLE_DIGITS),
    "deepseek-v3": (r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", DEEPSEEK_PATTERN),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]"),
    "default": (PUNCTUATION, GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"),
}
SAME = {  # other names for them
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b",
    "gpt-2": "phi-2 mpt olmo jais",
    "dbrx": "smaug-bpe chatglm-bpe glm4",
    "qwen2": "deepseek-r1-qwen stablelm2 hunyuan megrez",
    "gpt-4o": "llama4",
}
ALIASES = {other: name for name, others in SAME.items() for other in others.split()}
WHOLE_WORDS = ("llama-bpe", "tekken")  # a word that is a token becomes it, also where no merges lead there; bos first
WITH_SPACES = {
    GPT2_PATTERN,
    DEEPSEEK_PATTERN,
    *(PATTERNS[name][0] for name in ("llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o")),
}
INSIDE_WORDS = {pattern for patterns in PATTERNS.values() for pattern in patterns}  # these join no two words either


def words_begin_at_spaces(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these steps of a pre_tokenizer begin a word at every space that follows something else.

    One of WITH_SPACES has to: it matches every space, within a run of spaces or at the start of a word. The others may
    only split words further.
    """
    found = False
    for step in steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                if pattern not in INSIDE_WORDS:
                    return False
                found = found or pattern in WITH_SPACES
            case {"type": "ByteLevel", "use_regex": regex}:
                found = found or regex
            case {"type": "Digits"} | {"type": "Punctuation", "behavior": "Isolated" | "Contiguous"}:
                pass
            case _:
                return False
    return found
