"""The shapes of chat templates in use, each a file in `shapes` (the formats are theirs, most words ours), and talks.

Each is compared with transformers on all of them: with tools, reasoning, content in parts, and null beside calls.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fathom.tokenizer.bpe import BPETokenizer
from fathom.tokenizer.protocol import Special
from tests.tokenizer.templates import PUBLISHED, library_tokenizer

FOLDER = Path(__file__).parent / "shapes"
FILES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
SHAPES = PUBLISHED | FILES
MARKS = re.compile(
    r"<\|[\w]+\|>|<｜[^｜]+｜>|</?s>|<(?:start|end)_of_\w+>|\[/?[A-Z_]{3,}\]|\[\|\w+\|\]|\[gMASK\]|<sop>"
    r"|<SPECIAL_\d+>|<seed:\w+>"
)
ENDS = {  # what ends a turn; elsewhere it is eos
    **dict.fromkeys(("llama 3", "llama 3.1", "llama31"), "<|eot_id|>"),
    **dict.fromkeys(("chatml", "thinking", "qwen25", "qwen3", "qwen3_coder", "hermes", "smollm3"), "<|im_end|>"),
    **dict.fromkeys(("internlm", "kimi_k2", "phi4", "phi4_reasoning", "qwen3_2507"), "<|im_end|>"),
    **dict.fromkeys(("gemma2", "gemma3"), "<end_of_turn>"),
    **dict.fromkeys(("phi3", "phi4_mini"), "<|end|>"),
    "command_r": "<|END_OF_TURN_TOKEN|>",
    "apertus": "<|assistant_end|>",
    "command_a": "<|END_RESPONSE|>",
    "deepseek_r1": "<｜end▁of▁sentence｜>",
    "deepseek_v31": "<｜end▁of▁sentence｜>",
    "exaone4": "[|endofturn|]",
    "granite3": "<|end_of_text|>",
    "granite33": "<|end_of_text|>",
    "nemotron_nano": "<SPECIAL_12>",
    "seed_oss": "<seed:eos>",
    "openchat": "<|end_of_turn|>",
    "gpt_oss": "<|return|>",
    "glm4": "<|user|>",
    "glm45": "<|user|>",
}

CALL = {
    "id": "abcdef123",
    "type": "function",
    "function": {"name": "forecast", "arguments": {"city": "Köln", "days": [1, 2], "exact": True}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "forecast",
        "description": 'The weather\'s "forecast" <now>.',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where — a name.", "enum": ["Köln", "Bonn"]},
                "days": {"type": "array", "items": {"type": "integer"}, "description": "Which"},
                "exact": {"type": ["boolean", "string"], "description": "& how", "default": False},
                "more": {"type": "object", "properties": {"unit": {"type": "string"}}},
            },
            "required": ["city"],
        },
    },
}
NOW = {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}
TOOLS = [TOOL, {"type": "function", "function": NOW}]
SYSTEM = {"role": "system", "content": "Be brief. "}
ASK, SAY = {"role": "user", "content": " Hello world?\n"}, {"role": "assistant", "content": "Hello user."}
THOUGHT = {"role": "assistant", "content": "<think>\nHm, 日本.\n</think>\n\nHello!"}
REASONED = {"role": "assistant", "content": "So.", "reasoning": "Hm.\n"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"rain": true}', "tool_call_id": "abcdef123", "name": "forecast"}
PARTS = [{"type": "text", "text": "Hello"}, {"type": "text", "text": " world "}]
TALKS: dict[str, list[dict[str, Any]]] = {
    "several turns": [ASK, SAY, {"role": "user", "content": "x = 1, 2"}],
    "system prompt": [SYSTEM, ASK, SAY],
    "system prompt alone": [SYSTEM],
    "call of a tool": [ASK, CALLING, RESULT, {"role": "assistant", "content": "It rains."}],
    "reasoning": [ASK, THOUGHT, ASK, REASONED],
    "parts": [{"role": "user", "content": PARTS}, SAY],
}


@dataclass(frozen=True)
class Extra:
    """What a template is given beside the messages."""

    tools: list[dict[str, Any]] | None = None
    thinking: bool | None = None


EXTRAS = (Extra(), Extra(TOOLS), Extra(None, True), Extra(TOOLS, False))


@cache
def marks_of(template: str) -> tuple[str, ...]:
    """The special tokens that a template spells."""
    return tuple(dict.fromkeys(MARKS.findall(template)))


@cache
def tokenizer_of(template: str, end: str | None = None, bos: str = "<s>", eos: str = "</s>") -> BPETokenizer:
    """A small tokenizer in which all that a template spells is special. `end`: ends a turn beside eos."""
    hf = library_tokenizer()
    hf.add_special_tokens([*marks_of(template)])
    names = {token.content: id for id, token in hf.get_added_tokens_decoder().items()}
    ends = () if end is None else (names[end],)
    return BPETokenizer(hf, Special(names[bos], names[eos], ends, names, template, (names[bos],)))


@cache
def reference_of(template: str, bos: str = "<s>", eos: str = "</s>") -> Any:
    """The same of transformers."""
    import transformers

    hf = library_tokenizer()
    hf.add_special_tokens([*marks_of(template)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=hf, bos_token=bos, eos_token=eos, chat_template=template
    )
