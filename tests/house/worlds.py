"""Models of distinct sizes, so that no wrong shape can pass for a right one, and that together use the whole room."""

from dataclasses import dataclass, field
from typing import Any

import torch

from fathom.anatomy.swap import swap
from fathom.model.attention import attend, attend_fused
from fathom.model.cache import KVCache
from fathom.model.config import Experts, Layers, ModelConfig, Rotary, Scale
from fathom.model.transformer import Transformer

SIZES = {"b": 8, "t": 5, "s": 5, "d": 10, "h": 6, "g": 2, "c": 14, "r": 12, "f": 23, "V": 31, "e": 11, "used": 3}


@dataclass
class World:
    """One model, and the passes that are made through it: without a cache, or twice with one."""

    choices: dict[str, Any]
    cached: bool = False
    explicit: bool = False
    sizes: dict[str, int] = field(default_factory=lambda: dict(SIZES))  # of the pass that is running

    def __post_init__(self) -> None:
        if "rope" not in self.choices:  # all channels are rotated
            self.sizes["r"] = self.sizes["c"]

    def model(self) -> Transformer:
        z = self.sizes
        config = ModelConfig(
            vocab_size=z["V"], context_length=40, d_model=z["d"], n_layer=2, n_head=z["h"], n_kv_head=z["g"],
            head_dim=z["c"], d_ff=z["f"], **self.choices,
        )  # fmt: skip
        model = Transformer(config)
        swap(model, attend=attend if self.explicit else attend_fused)
        return model

    def passes(self, model: Transformer) -> None:
        if not self.cached:
            model(torch.zeros(self.sizes["b"], self.sizes["t"], dtype=torch.long))
            return
        cache = KVCache(model.config, self.sizes["b"], 20)
        for t in (4, 5):  # the second pass has a past: s and t differ
            self.sizes |= {"t": t, "s": cache.length + t}
            model(torch.zeros(self.sizes["b"], t, dtype=torch.long), cache)


WORLDS = [
    World({"position": "learned", "norm": "layer", "mlp": "gelu", "bias": True}, explicit=True),
    World({"position": "rope", "norm": "rms", "mlp": "swiglu", "qk_norm": "on"}, cached=True),
    World({"position": "learned", "norm": "none", "mlp": "relu2", "residual": "off"}, cached=True, explicit=True),
    World({"position": "none", "norm": "rms", "mlp": "none"}, cached=True),
    World(
        {
            "position": "rope",
            "norm": "rms",
            "mlp": "geglu",
            "residual": "sandwich",
            "qk_norm": "whole",
            "layers": Layers("ln", 3),
            "rope": Rotary(rotated=12, local_theta=50.0),
            "scale": Scale(embed=2.0, attn=0.3, residual=0.5, logits=0.5, attn_cap=20.0, logit_cap=30.0),
        }
    ),
    World(
        {"position": "alibi", "norm": "layer", "mlp": "gelu", "residual": "parallel", "bias": ("mlp", "unembed")},
        cached=True,
    ),
    World({"position": "rope", "norm": "rms_1p", "mlp": "gelu", "residual": "parallel_norms", "qk_norm": "layer"}),
    World({"position": "learned", "norm": "layer_1p", "mlp": "gelu", "residual": "post"}),
    World({"position": "learned", "norm": "layer_plain", "mlp": "gelu"}),
    World({"position": "rope", "norm": "rms_plain", "qk_norm": "rotated", "scale": Scale(embed_norm=True)}),
    *(World({"position": "none", "norm": "rms", "mlp": Experts(11, 3, shared=shared)}) for shared in (0, 3)),
    World({"position": "none", "norm": "rms", "mlp": Experts(11, 3, False, shared=3, gated=False, weigh="sigmoid")}),
    World({"position": "none", "norm": "rms", "mlp": Experts(11, 3, weigh="mixer", near=0.1)}),
    World({"position": "none", "norm": "rms", "mlp": Experts(11, 3, limit=2.0), "bias": ("qkv", "mlp", "sink")}),
    *(World({"position": "none", "norm": "rms", "mlp": mlp}) for mlp in ("gelu_exact", "relu", "geglu", "xielu")),
]
