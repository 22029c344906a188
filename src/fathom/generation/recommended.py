"""What the files of a model recommend for generation, as options: the entries of generation_config.json.

They are the defaults of `generate`, `stream` and `chat`, as in transformers and vLLM; every option that is given wins.
Values alone count, also where `do_sample` is not there, as in vLLM; `do_sample: false` is greedy. Does not import
torch.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.generation.options import NEUTRAL, ORDER, GenerateOptions
from fathom.json_file import short

FOLLOWED = (*ORDER, "max_new_tokens")
OFF: dict[str, Any] = {  # values with which an entry that is not followed changes nothing
    "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "typical_p": 1, "epsilon_cutoff": 0,
    "eta_cutoff": 0, "diversity_penalty": 0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "guidance_scale": 1, "penalty_alpha": 0,
    "renormalize_logits": False, "remove_invalid_values": False, "token_healing": False,
    "xtc_probability": 0, "mirostat": 0, "penalty_last_n": -1, "trust_remote_code": False,
}  # fmt: skip
SILENT = {  # entries that change no text here: ids (read with the tokenizer), memory, what is returned, beams' details
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "do_sample",
    "use_cache", "cache_implementation", "cache_config", "max_length", "max_window_size", "chat_format",
    "return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "length_penalty", "early_stopping", "xtc_threshold", "mirostat_tau", "mirostat_eta",
    "prefill_chunk_size", "disable_compile", "compile_config", "low_memory", "assistant_early_exit",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size",
    "is_assistant",
}  # fmt: skip


def recommended(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(fields of GenerateOptions, the entries that cannot be followed, as text)."""
    fields: dict[str, Any] = {}
    others = [f"{name} {short(value, 40)}" for name, value in settings.items() if not _silent(name, value)]
    for name in FOLLOWED:
        value = settings.get(name)
        if value is None or value == NEUTRAL.get(name, "") or (name == "top_k" and value in (0, -1)):
            continue
        try:
            build(GenerateOptions, {name: value}, "generation")
        except FathomError:
            others.append(f"{name} {short(value, 40)}")
        else:
            fields[name] = value
    if settings.get("do_sample") is False:
        fields = {name: value for name, value in fields.items() if name in ("repetition_penalty", "max_new_tokens")}
        fields["temperature"] = 0.0
    stop = settings.get("stop_strings")
    if stop in (None, [], ""):
        return fields, others
    texts = [stop] if isinstance(stop, str) else stop
    if isinstance(texts, list) and all(isinstance(text, str) and text for text in texts):
        return fields | {"stop": tuple(texts)}, others
    return fields, [*others, f"stop_strings {short(stop, 40)}"]


def _silent(name: str, value: Any) -> bool:
    known = name in FOLLOWED or name in SILENT or name == "stop_strings" or name.startswith("_")
    return known or value in (None, [], {}) or (name in OFF and value == OFF[name])


def with_recommended(given: Mapping[str, Any], settings: Mapping[str, Any]) -> GenerateOptions:
    """The options of a call: the given fields, else what the model recommends. A warning names what is not followed."""
    fields, others = recommended(settings)
    if others:
        warnings.warn(f"the model's generation settings that are not followed: {', '.join(others)}", stacklevel=2)
    if "samplers" in given:
        order = build(GenerateOptions, {"samplers": given["samplers"]}, "generate").samplers
        fields = {name: value for name, value in fields.items() if name not in ORDER or name in order}
    return build(GenerateOptions, {**plain(GenerateOptions()), **fields, **given}, "generate")


def described(given: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What a call takes from the model's settings, such as `temperature 0.6, top_p 0.95`; empty: nothing."""
    fields, _ = recommended(settings)
    return ", ".join(f"{name} {_word(value)}" for name, value in fields.items() if name not in given)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int) else repr(list(value))
