"""Models of other families: architectures refused by their own names, and for the rest what is nearest and differs."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fathom.families.family import Family
from fathom.families.names import split

MLA = "its attention is MLA (keys and values from a shared low-rank vector), which is not supported"
MAMBA = "its layers are Mamba state spaces, which are not supported"
DELTA = "most of its layers are gated DeltaNet, a linear attention, which is not supported"
REASONS = {  # pattern of model_type -> why
    r"deepseek_v[23].*|minicpm3|kimi_k2.*|glm4_moe_lite|glm_moe_dsa": MLA,
    r"qwen3_next.*|qwen3_5.*|kimi_linear|olmo_hybrid": DELTA,
    r"lfm2.*": "some of its layers are short convolutions, which are not supported",
    r"falcon_h1|jamba|bamba|zamba2?|nemotron_h.*|granitemoehybrid|.*mamba2?": MAMBA,
    r"llama4.*": "its layers have chunked attention and scaled, unrotated queries, which are not supported",
    r"bitnet": "its matrices are ternary and its activations are quantised (BitNet), which is not supported",
    r"t5.*|mt5|bart|mbart|whisper": "it has an encoder, and models here are decoders alone",
    r"bert|roberta|distilbert|deberta.*|modernbert|electra|xlm-roberta": "it sees both sides; models here are decoders",
    r"rwkv.*": "it has no attention but a recurrence, which is not supported",
}
OTHER_ARCHITECTURES = {  # the same for general.architecture of a GGUF file
    r"deepseek2.*|deepseek32|deepseek4|minicpm3|plm|glm-dsa|kimi-k3|mistral4": MLA,
    r"qwen3next|qwen35(moe)?|kimi-linear|glm5-next": DELTA,
    r"mamba2?|jamba|falcon-h1|nemotron_h(_moe)?|granitehybrid|plamo[23]": MAMBA,
    r"lfm2(moe)?": REASONS[r"lfm2.*"],
    r"llama4": REASONS[r"llama4.*"],
    r"a?rwkv[67].*": REASONS[r"rwkv.*"],
    r"t5(encoder)?": REASONS[r"t5.*|mt5|bart|mbart|whisper"],
    r".*bert.*|gemma-embedding|llama-embed": "it sees both sides or makes no text; models here are decoders",
    r"gemma3n|gemma4.*": "its layers share keys and values and have embeddings of their own, which is not supported",
    r"dream|llada.*|rnd1": "it fills in text by diffusion, and models here write from left to right",
    r"clip|wavtokenizer-dec|cogvlm|chameleon|pockettts|qwen3tts": "it is for pictures or sound; models here write text",
    r"eagle3|dflash": "it drafts tokens for another model, and is none of its own",
}
HARMLESS = (  # keys that say nothing about what the model computes
    r"architectures|model_type|transformers_version|torch_dtype|dtype|use_cache|auto_map|_.*|.*dropout.*|.*_pdrop"
    r"|.*token_id|.*token_index|initializer_.*|init_.*|output_.*|return_dict|tie_word_embeddings|pretraining_tp"
    r"|rope_.*|max_window_layers|torchscript|use_bfloat16|problem_type|id2label|label2id|tokenizer_class|task_.*"
    r"|chunk_size_feed_forward|is_decoder|is_encoder_decoder|gradient_checkpointing|summary_.*|name_or_path"
)
SHOWN = 6  # keys in one error


def why_not(entries: Mapping[str, Any], families: Mapping[str, Family]) -> str:
    """Why the model of a config.json does not open, for an error that has named its model_type; or an empty text."""
    name = entries.get("model_type")
    if not isinstance(name, str):
        return ""
    reason = next((reason for pattern, reason in REASONS.items() if re.fullmatch(pattern, name)), None)
    if reason is not None:
        return reason
    known = {model: family for family in families.values() for model in ids(family)}
    shared = {model: len(keys_of(family) & entries.keys()) for model, family in known.items()}
    if not known or not max(shared.values()):
        return ""
    alike = difflib.get_close_matches(name, known, 1, 0.6)
    nearest = known[alike[0] if alike else max(shared, key=lambda model: shared[model])]
    foreign = sorted(key for key in entries.keys() - keys_of(nearest) if not re.fullmatch(HARMLESS, key))
    more = f" and {len(foreign) - SHOWN} more" * (len(foreign) > SHOWN)
    differs = f"has no {', '.join(foreign[:SHOWN])}{more}" if foreign else "has all of its keys, but may compute more"
    return f"the nearest family is {nearest.title}, whose config {differs}"


def why_not_gguf(name: object, tensors: Iterable[str], families: Mapping[str, Family]) -> str:
    """Why the model of a GGUF file does not open; or an empty text where nothing is known like it.

    The nearest architecture shares most names of tensors; of several, the one of similar name or else llama is named.
    """
    if not isinstance(name, str):
        return ""
    patterns = {**OTHER_ARCHITECTURES, **REASONS}
    if (reason := next((why for pattern, why in patterns.items() if re.fullmatch(pattern, name)), None)) is not None:
        return reason
    own = {split(tensor)[0] for tensor in tensors}
    best = ((0.0, 0.0, False), "", set[str]())
    for family in families.values():
        column = family.columns.get("gguf")
        for id in column.ids if column else ():
            theirs = {place.name for place in column.tensors.values()} if column else set()
            alike = difflib.SequenceMatcher(None, name, id).ratio()
            near = (round(len(own & theirs) / len(own | theirs), 2), alike if alike > 0.6 else 0.0, id == "llama")
            best = max(best, (near, id, theirs), key=lambda row: row[0])
    (share, *_), nearest, theirs = best
    if not share:
        return ""
    foreign, missing = sorted(own - theirs), sorted(theirs - own - {"output"})
    differs = [f"{word} {', '.join(some[:SHOWN])}" for word, some in (("more", foreign), ("no", missing)) if some]
    said = f"has {' and '.join(differs)}" if differs else "has the same tensors, but may compute something else"
    return f"the nearest architecture that is supported is {nearest}; this one {said}"


def ids(family: Family) -> tuple[str, ...]:
    return family.columns["hf"].ids if "hf" in family.columns else ()


def keys_of(family: Family) -> set[str]:
    """The keys that a family reads or knows the values of."""
    column = family.columns["hf"]
    named = {name for key in column.keys.values() for name in key.names}
    return named | set(column.allowed) | set(column.honoured)
