"""Pretraining runs whose device hours were published."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    model: str
    device: str
    n: int  # devices that are planned
    tokens: str
    batch: int  # tokens of a step
    hours: float  # of all devices
    source: str


LLAMA_1 = "Touvron et al. 2023, LLaMA, table 15"
LLAMA_2 = "Touvron et al. 2023, Llama 2, table 2"
LLAMA_3 = "model card of Llama 3"
RUNS = [
    Published("llama-7b", "A100-80GB", 256, "1T", 2**22, 82_432, LLAMA_1),
    Published("llama-13b", "A100-80GB", 256, "1T", 2**24, 135_168, LLAMA_1),
    Published("llama-33b", "A100-80GB", 2048, "1.4T", 2**24, 530_432, LLAMA_1),
    Published("llama-65b", "A100-80GB", 2048, "1.4T", 2**22, 1_022_362, LLAMA_1),
    Published("llama-2-7b", "A100-80GB", 256, "2T", 2**22, 184_320, LLAMA_2),
    Published("llama-2-13b", "A100-80GB", 256, "2T", 2**22, 368_640, LLAMA_2),
    Published("llama-2-70b", "A100-80GB", 1024, "2T", 2**22, 1_720_320, LLAMA_2),
    Published("tinyllama-1.1b", "A100-40GB", 16, "300B", 2**21, 3_456, "Zhang et al. 2024, TinyLlama, section 2.3"),
    Published("gpt2", "A100-80GB", 8, "10B", 2**19, 12, "llm.c, discussion 481: 90 minutes on 8"),
    Published("llama-3-8b", "H100-80GB", 256, "15T", 2**24, 1_300_000, LLAMA_3),
    Published("llama-3-70b", "H100-80GB", 1024, "15T", 2**24, 6_400_000, LLAMA_3),
    Published("llama-3.1-405b", "H100-80GB", 2048, "15.6T", 2**24, 30_840_000, "model card of Llama 3.1"),
]
FACTOR = 2.1  # what the furthest is off: Llama 3 8B
