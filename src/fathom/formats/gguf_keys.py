"""Metadata of a GGUF file that no family reads: what changes nothing is passed over, everything else is refused.

A family honours the keys that its reader looks at. For the others under the architecture's name (llama.cpp,
llama-arch.cpp) a table says which values leave the model as it is; a key that is not in it is refused by name.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from fathom.errors import FathomError, near
from fathom.json_file import short
from fathom.model.config import ResolvedConfig

# any     changes nothing: a description, a width that the tensors have too, a number of a norm or YaRN that is not here
# zero    a feature that 0, false or an empty list leaves off; none, one, true: that this value leaves off
# same    has to be what follows from the config
# window  of the layers with a window; changes nothing where no window is shorter than the context
TABLE = """
any  vocab_size context_length feed_forward_length expert_feed_forward_length expert_shared_feed_forward_length
any  tensor_data_layout attention.layer_norm_epsilon attention.layer_norm_rms_epsilon rope.scaling.finetuned
any  rope.scaling.original_context_length rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow
same attention.head_count_kv attention.key_length attention.value_length attention.scale embedding_length_out
same rope.dimension_count
window attention.sliding_window attention.sliding_window_pattern attention.key_length_swa attention.value_length_swa
window rope.dimension_count_swa rope.freq_base_swa
true attention.causal
none rope.scaling.type
one  attention.output_scale attention.value_scale embedding_scale logit_scale residual_scale rope.scale_linear
one  rope.scaling.attn_factor rope.scaling.factor rope.scaling.yarn_attn_factor rope.scaling.yarn_ext_factor
zero activation.situ_beta activation.situ_linear_beta activation_sparsity_scale adapters.count adapters.lora_rank
zero adapters.router_gain adapters.token_ids_activate adapters.token_ids_substitute altup.active_idx altup.num_inputs
zero attention.clamp_kqv attention.compress_ratios attention.compress_rope_freq_base attention.decay_lora_rank
zero attention.gate_lora_rank attention.group_norm_epsilon attention.group_norm_groups attention.iclr_lora_rank
zero attention.indexer.block_size attention.indexer.head_count attention.indexer.key_length attention.indexer.kpool
zero attention.indexer.kpool_select_tail attention.indexer.local_blocks attention.indexer.top_k attention.indexer.types
zero attention.key_length_mla attention.key_length_mla_swa attention.kv_lora_rank attention.kv_lora_rank_swa
zero attention.max_alibi_bias attention.output_group_count attention.output_lora_rank attention.q_lora_rank
zero attention.recurrent_layers attention.relative_buckets_count attention.rope_pattern attention.shared_kv_layers
zero attention.temperature_length attention.temperature_scale attention.value_length_mla attention.value_length_mla_swa
zero attention.value_residual_mix_lora_rank attn_logit_softcapping attn_res.block_size block_size
zero classifier.output_labels classifier.pooling_type conv_group_size conv_kernel_size convnext.block_count
zero convnext.embedding_length decoder_block_count decoder_start_token_id deepstack_mapping dense_2_feat_in
zero dense_2_feat_out dense_3_feat_in dense_3_feat_out embedding_length_per_layer_input
zero expert_chunk_feed_forward_length expert_count expert_gating_func expert_group_count expert_group_scale
zero expert_group_used_count expert_latent_length expert_shared_count expert_used_count expert_weights_norm
zero expert_weights_scale experts_per_group features_length final_logit_softcapping full_attention_interval
zero has_confidence_head hash_layer_count hidden_activation hrm.h_cycles hrm.l_cycles hrm.layers_per_stack hrm.prefix_lm
zero hyper_connection.count hyper_connection.epsilon hyper_connection.low_rank hyper_connection.magnitude
zero hyper_connection.sinkhorn_iterations interleave_moe_layer_step kda.gate_lower_bound kda.head_dim kda.safe_gate
zero leading_dense_block_count moe_every_n_layers moe_latent_size n_deepstack_layers nextn_predict_layers
zero norm_before_fc norm_before_residual num_loops ple.conv_kernel ple.eos_token_id ple.head_offsets
zero ple.head_vocab_sizes ple.heads_per_ngram ple.image_token_id ple.layer_multipliers ple.layers ple.ngram_size
zero pooling_type posnet.block_count posnet.embedding_length rescale_every_n_layers rope.dimension_sections
zero rope.scaling.alpha rope.scaling.yarn_log_multiplier router_logit_softcapping sample_from_anchor selector_rank
zero selector_top_k
zero shortconv.l_cache skip_loop_final_norm ssm.conv_kernel ssm.dt_b_c_rms ssm.group_count ssm.inner_size
zero ssm.state_size ssm.time_step_rank swiglu_clamp_exp swiglu_clamp_shexp swin_norm target_hidden_size target_layers
zero time_decay_extra_dim time_mix_extra_dim token_shift_count use_parallel_residual wkv.head_size
"""
RULES = {key: rule for rule, *keys in map(str.split, TABLE.strip().splitlines()) for key in keys}
VALUES = {"zero": 0, "one": 1, "true": True, "none": "none"}
OTHER_PARTS = r"(vision|audio|mm|clip)\..*"  # encoders of pictures and sound, whose tensors are refused
ROTATIONS = "rope."  # says nothing in a model that has none


class Followed(dict[str, Any]):
    """Metadata, and which of its keys were asked for."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def refuse_unread(metadata: Followed, z: ResolvedConfig, where: str) -> None:
    """FathomError naming the first key of the model that its family did not ask for, and that may change what the model
    computes."""
    prefix, unread = f"{metadata['general.architecture']}.", sorted(metadata.keys() - metadata.asked)
    narrow = np.asarray(metadata.get(f"{prefix}attention.sliding_window", 0))
    seen = bool(np.all((narrow == 0) | (narrow >= z.context_length))) if narrow.dtype.kind in "iuf" else False
    same = followed(z)
    for key in (name.removeprefix(prefix) for name in unread if name.startswith(prefix)):
        value, rule = metadata[prefix + key], RULES.get(key)
        if rule == "any" or re.fullmatch(OTHER_PARTS, key) or (key.startswith(ROTATIONS) and z.position != "rope"):
            continue
        if rule is None:
            raise FathomError(
                f"{where}: {prefix}{key} is a key that is not known{near(key, RULES)}; it may change what the model"
                " computes"
            )
        if rule == "window" and seen:
            continue
        expected = same.get(key) if rule == "same" else VALUES.get(rule, 0)
        if not equal(value, expected):
            raise FathomError(
                f"{where}: {prefix}{key} is {short(value)}, which changes what the model computes and is not supported"
                f" in {prefix[:-1]} models; expected {expected} or none"
            )


def followed(z: ResolvedConfig) -> dict[str, Any]:
    """The keys that say again what other keys have said, and what they then are."""
    return {
        "attention.head_count_kv": z.n_kv_head,
        "attention.key_length": z.head_dim,
        "attention.value_length": z.head_dim,
        "attention.scale": z.head_dim**-0.5 if z.scale.attn is None else z.scale.attn,
        "embedding_length_out": z.d_model,
        "rope.dimension_count": z.rope.rotated or z.head_dim,
    }


def equal(value: Any, expected: Any) -> bool:
    """Whether a value, or each of a list, is the expected one; an empty list and an empty text are 0."""
    x = np.asarray(value)
    if x.dtype.kind not in "biuf":
        return x.size == 0 or (expected == 0 and value == "") or (isinstance(expected, str) and value == expected)
    return not isinstance(expected, str) and bool(np.allclose(x.astype(float), float(expected), rtol=1e-5, atol=0))
