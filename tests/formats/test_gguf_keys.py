"""Keys of a GGUF file that its family does not read: each that llama.cpp knows is honoured, harmless or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fathom.errors import FathomError
from fathom.formats.gguf_keys import RULES
from tests.formats.test_gguf_model import LLAMA, rewritten, written

READ = {"attention.head_count", "block_count", "embedding_length", "rope.freq_base"}  # by every family


def test_every_key_of_the_library_has_a_rule() -> None:
    library = pytest.importorskip("gguf", reason="needs the extra `peers`")
    groups = (group for group in vars(library.Keys).values() if isinstance(group, type))
    keys = {key for group in groups for key in vars(group).values() if isinstance(key, str)}
    ours = {key.removeprefix("{arch}.") for key in keys if key.startswith("{arch}.")}
    assert {key for key in ours - RULES.keys() - READ if not key.startswith("{dense}")} == set()


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping is 50.0, which changes .* expected 0 or none"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"logit_scale": 0.25}, "logit_scale is 0.25.* expected 1 or none"),
        ({"embedding_scale": 12.0}, "embedding_scale is 12.0"),
        ({"attention__scale": 0.5}, "attention.scale is 0.5"),
        ({"attention__max_alibi_bias": 8.0}, "attention.max_alibi_bias is 8.0"),
        ({"attention__sliding_window": 32}, "attention.sliding_window is 32"),
        ({"attention__sliding_window": "wide"}, "attention.sliding_window is 'wide'"),
        ({"attention__kv_lora_rank": 512}, "attention.kv_lora_rank is 512"),
        ({"rope__dimension_sections": np.array([16, 24], np.int32)}, "rope.dimension_sections is"),
        ({"attention__sliding_windw": 32}, "is a key that is not known; did you mean attention.sliding_window"),
        ({"swish_beta": 0.0}, "swish_beta is a key that is not known"),
        ({"general__type": "adapter"}, "general.type is 'adapter'; expected 'model'"),
    ],
)
def test_a_key_that_changes_the_model_is_refused(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    written(tmp_path, LLAMA)
    with pytest.raises(FathomError, match=says):
        rewritten(tmp_path / "x.gguf", {}, **changed)


def test_keys_that_change_nothing_are_passed_over(tmp_path: Path) -> None:
    written(tmp_path, LLAMA)
    harmless = {
        "attention__sliding_window": 64, "attention__sliding_window_pattern": np.array([True, False]),
        "expert_used_count": 0, "logit_scale": 1.0, "attention__scale": 8**-0.5, "vision__block_count": 27,
        "attn_logit_softcapping": 0.0, "rope__dimension_sections": np.array([], np.int32), "general__imatrix": "x",
        "attention__layer_norm_epsilon": 1e-5,
    }  # fmt: skip
    assert rewritten(tmp_path / "x.gguf", {}, **harmless).config.resolved() == LLAMA.resolved()
