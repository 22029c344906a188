"""adapter_config.json as the peft library writes it: rank, alpha and what else decides what the matrices mean.

Fields that ask for something that is not computed here are refused, also those that peft does not have yet.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fathom.adapters.options import lora_scale
from fathom.adapters.peft_targets import Targets, is_safe, names_in, read_targets
from fathom.errors import FathomError
from fathom.json_file import LARGEST, read_object, short
from fathom.json_file import field as json_field
from fathom.quant.schemes import KEEP, SCHEMES

CONFIG = "adapter_config.json"
OURS = "fathom_adapter.json"  # our own file beside it: peft refuses or warns of fields that it does not know
READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "target_modules"}
READ |= {"rank_pattern", "alpha_pattern", "bias", "lora_bias", "layers_to_transform", "layers_pattern"}
READ |= {
    "exclude_modules",
    "modules_to_save",
    "trainable_token_indices",
    "ensure_weight_tying",
    "fathom",
    "target_parameters",
}
IGNORED = {  # provenance, how training started, or what the tensors show themselves
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version",
    "fan_in_fan_out", "megatron_core", "eva_config", "qalora_group_size", "runtime_config",
}  # fmt: skip
STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica", "pissa")  # others change the base
BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """The checked fields of the file."""

    rank: int
    alpha: float
    rslora: bool
    dora: bool
    pissa: bool  # the base is meant to be without its principal components
    dropout: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: Targets  # which modules have an adapter
    parameters: tuple[str, ...] = ()  # which parameters have one, such as those of all experts
    whole: tuple[str, ...] = ()  # modules whose weights are in the file as they are
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # module -> its rows that are in the file
    bias: str = "none"  # whether the biases of the model are in the file: none, all, lora_only
    lora_bias: bool = False  # b has a bias of its own
    rule: str = "today"  # how the version of peft that wrote the file looks patterns up
    base: str  # the fingerprint of the base; "" where unknown
    quantize: str  # how the base was packed; "" where it was not

    def rank_of(self, module: str) -> int:
        return int(self.value_of(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        return lora_scale(self.rank_of(module), self.value_of(self.alphas, module, self.alpha), self.rslora)

    def value_of(self, patterns: Mapping[str, float], module: str, default: float) -> float:
        """The value of the first pattern that matches the end of a module's name, as peft looks it up. Before 0.15 a
        pattern matched after a dot alone, so one with ^ never did; before 0.14 one pattern served rank and alpha."""
        if self.rule == "today":
            return next((v for p, v in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), default)
        keys = patterns if self.rule == "0.14" else [*self.ranks, *self.alphas]
        return patterns.get(next((p for p in keys if re.match(rf".*\.{p}$", module)), module), default)

    def to_json(self) -> dict[str, Any]:
        """The fields of the file. PiSSA is written as plain LoRA, so `pissa` is False here."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            "bias": self.bias,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
            "use_dora": self.dora,
            "init_lora_weights": True,
            "target_modules": list(self.targets.names or ()),
            "target_parameters": list(self.parameters) or None,
            "modules_to_save": list(self.whole) or None,
            "rank_pattern": self.ranks,
            "alpha_pattern": self.alphas,
        } | ({"lora_bias": True} if self.lora_bias else {})

    def ours(self) -> dict[str, Any]:
        """The fields of our own file."""
        return {"base_sha256": self.base or None, "quantize": self.quantize or None}

    def holds_whole(self, tensor: str) -> bool:
        """Whether the file holds this tensor of Hugging Face as it is, because a module around it was saved."""
        parts = tensor.split(".")
        return any(".".join(parts[:end]).endswith(name) for end in range(1, len(parts)) for name in self.whole)


def rule_of(values: Mapping[str, Any]) -> str:
    """Which peft wrote the file, as far as patterns are concerned: every version writes all fields that it has."""
    if "layer_replication" not in values or "trainable_token_indices" in values:  # since 0.10, not all in other tools'
        return "today"
    return "0.14" if "exclude_modules" in values else "0.13"


def read_config(path: Path) -> PeftConfig:
    """FathomError where the file is damaged, or asks for what is not supported."""
    if not path.is_file():
        raise FathomError(f"{path.parent} holds no {CONFIG}; give the folder of an adapter")
    values, where = read_object(path), str(path)
    refuse_unsupported(values, where)
    check_patterns(values, where)
    ours = read_object(path.with_name(OURS)) if path.with_name(OURS).is_file() else values.get("fathom")
    ours = ours if isinstance(ours, dict) else {}
    ranks, alphas = values.get("rank_pattern") or {}, values.get("alpha_pattern") or {}
    config = PeftConfig(
        rank=json_field(values, "r", int, where),
        alpha=json_field(values, "lora_alpha", float, where),
        dropout=json_field(values, "lora_dropout", float, where, 0.0),
        rslora=json_field(values, "use_rslora", bool, where, False),
        dora=json_field(values, "use_dora", bool, where, False),
        rule=rule_of(values),
        base=json_field(ours, "base_sha256", str, where, ""),
        quantize=json_field(ours, "quantize", str, where, ""),
        pissa=values.get("init_lora_weights") == "pissa",
        ranks={pattern: json_field(ranks, pattern, int, f"{where}: rank_pattern") for pattern in ranks},
        alphas={pattern: json_field(alphas, pattern, float, f"{where}: alpha_pattern") for pattern in alphas},
        targets=read_targets(values, where),
        parameters=tuple(names_in(values, "target_parameters", where)),
        whole=tuple(names_in(values, "modules_to_save", where)),
        tokens=read_tokens(values, where),
        bias=str(values.get("bias") or "none"),
        lora_bias=json_field(values, "lora_bias", bool, where, False),
    )
    rank, alpha = min([config.rank, *config.ranks.values()]), min([config.alpha, *config.alphas.values()])
    if rank < 1 or alpha <= 0 or not 0 <= config.dropout < 1:
        raise FathomError(
            f"{where}: r is {rank}, lora_alpha {alpha}, lora_dropout {config.dropout}; expected from 1 on, above 0, and"
            " from 0 to below 1"
        )
    if config.quantize and config.quantize not in (known := (*SCHEMES, KEEP)):
        raise FathomError(f"{where}: quantize is {short(config.quantize)}; expected null or one of {', '.join(known)}")
    return config


def refuse_unsupported(values: Mapping[str, Any], where: str) -> None:
    """FathomError where a field asks for something that is not supported."""
    if values.get("peft_type") != "LORA":
        raise FathomError(f"{where}: peft_type is {short(values.get('peft_type'))}; expected LORA: other kinds of"
                          " adapters are not supported")  # fmt: skip
    if (bias := values.get("bias") or "none") not in BIASES:
        raise FathomError(f"{where}: bias is {short(bias)}; expected one of {', '.join(BIASES)}")
    start = values.get("init_lora_weights", True)
    if not isinstance(start, bool | str) or start not in STARTS:
        raise FathomError(
            f"{where}: init_lora_weights is {short(start)}, which changes the base; save it as plain LoRA with peft's"
            " path_initial_model_for_weight_conversion"
        )
    for name in sorted(values.keys() - READ - IGNORED):
        if values[name] not in (None, False, 0, "", [], {}):
            raise FathomError(f"{where}: {name:.80} is {short(values[name])}, which is not supported; expected none")


def check_patterns(values: Mapping[str, Any], where: str) -> None:
    """FathomError where names and patterns of modules are not what they must be."""
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = {} if values.get(name) is None else values[name]
        if not isinstance(patterns, dict) or len(patterns) > 10_000:
            raise FathomError(f"{where}: {name} is {short(patterns)}; expected patterns with values")
        for pattern in patterns:
            if not is_safe(pattern):
                raise FathomError(f"{where}: {name} has the pattern {short(pattern)}; expected names of layers")


def read_tokens(values: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Module -> ids of the tokens whose rows are in the file; a list alone means the embedding, called "" here."""
    given = values.get("trainable_token_indices")
    by_module = given if isinstance(given, dict) else {} if given is None else {"": given}
    for name, ids in by_module.items():
        if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < LARGEST for id in ids):
            raise FathomError(f"{where}: trainable_token_indices{f' of {name:.80}' * bool(name)} is {short(ids)};"
                              " expected token ids")  # fmt: skip
    return {name: tuple(ids) for name, ids in by_module.items()}
