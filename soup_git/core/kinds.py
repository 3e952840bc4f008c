"""PEFT's kinds of adapters: how the tensors of each make an update, and which keys its config has.

A row for each `peft.PeftType` (PEFT 0.21). A kind that has no way from its tensors to an update of the
base by itself is compared tensor by tensor. `tests/storage/test_kinds.py` holds the table against PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

KEYS = frozenset({
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version",
    "revision", "task_type",
})  # fmt: skip
"""Keys of every kind's config."""
How = Literal["product", "svd", "hadamard", "kronecker", "bank"]


@dataclass(frozen=True)
class Kind:
    """One method of PEFT."""

    keys: str
    """Of its config, beside `KEYS`."""
    meaning: str = ""
    """Those of them, beside the rank, that decide what its tensors do to the base."""
    update: How | None = None
    """How a module's tensors make its update ΔW: s·B·A, s·B·diag(E)·A, a Hadamard or Kronecker product, or
    vectors of a bank; None where they make none without the base, the input, or a random matrix."""
    is_combined: bool = False
    """Whether a merge combines two of them."""


_LORA_KEYS = (
    "alora_invocation_tokens alpha_pattern arrow_config bias corda_config ensure_weight_tying "
    "eva_config exclude_modules fan_in_fan_out init_lora_weights kasa_config "
    "layer_replication layers_pattern layers_to_transform loftq_config lora_alpha lora_bias "
    "lora_dropout lora_ga_config megatron_config megatron_core modules_to_save "
    "monteclora_config qalora_group_size r rank_pattern runtime_config target_modules "
    "target_parameters trainable_token_indices use_bdlora use_dora use_qalora use_rslora "
    "velora_config"
)

KINDS: dict[str, Kind] = {
    "LORA": Kind(
        _LORA_KEYS,
        update="product",
        is_combined=True,
    ),
    "ADALORA": Kind(
        _LORA_KEYS + " beta1 beta2 deltaT init_r orth_reg_weight target_r tfinal tinit total_step",
        meaning="init_r lora_alpha",
        update="svd",
    ),
    "ADAMSS": Kind(
        "asa_importance_beta asa_schedule_exponent asa_target_subspaces asa_uncertainty_beta "
        "final_warmup init_warmup init_weights layers_pattern layers_to_transform "
        "mask_interval modules_to_save num_subspaces r random_seed subspace_rank "
        "svd_threshold target_modules use_asa use_dynamic_rank",
        meaning="num_subspaces random_seed subspace_rank",
    ),
    "ADAPTION_PROMPT": Kind(
        "adapter_layers adapter_len target_modules",
        meaning="adapter_layers adapter_len",
    ),
    "BEFT": Kind(
        "init_weights modules_to_save target_modules",
    ),
    "BOFT": Kind(
        "bias boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor "
        "exclude_modules fan_in_fan_out init_weights layers_pattern layers_to_transform "
        "modules_to_save target_modules",
        meaning="boft_block_num boft_block_size boft_n_butterfly_factor",
    ),
    "C3A": Kind(
        "bias block_size block_size_pattern init_weights layers_pattern layers_to_transform "
        "modules_to_save target_modules",
        meaning="block_size block_size_pattern",
    ),
    "CARTRIDGE": Kind(
        "modules_to_save num_attention_heads num_frozen_tokens num_layers "
        "num_transformer_submodules num_virtual_tokens token_dim",
        meaning="num_frozen_tokens num_virtual_tokens",
    ),
    "CPT": Kind(
        "cpt_mask cpt_token_ids cpt_tokens_type_mask modules_to_save num_attention_heads "
        "num_layers num_transformer_submodules num_virtual_tokens opt_loss_decay_factor "
        "opt_projection_epsilon opt_projection_format_epsilon opt_weighted_loss_type "
        "token_dim tokenizer_name_or_path",
    ),
    "DEFT": Kind(
        "alpha bias decomposition_method deft_dropout exclude_modules fan_in_fan_out "
        "init_scale init_weights layers_pattern layers_to_transform modules_to_save para r "
        "target_modules",
        meaning="alpha decomposition_method para",
    ),
    "DELORA": Kind(
        "bias delora_lambda exclude_modules init_weights lambda_pattern layers_pattern "
        "layers_to_transform module_dropout modules_to_save r rank_pattern target_modules",
    ),
    "FOURIERFT": Kind(
        "bias exclude_modules fan_in_fan_out init_weights layers_pattern layers_to_transform "
        "modules_to_save n_frequency n_frequency_pattern random_loc_seed scaling "
        "target_modules",
        meaning="n_frequency n_frequency_pattern random_loc_seed scaling",
    ),
    "FROD": Kind(
        "bias fan_in_fan_out frod_dropout init_weights layers_pattern layers_to_transform "
        "modules_to_save progressbar projection_prng_key regularization_alpha "
        "runtime_offload_base_weight save_projection sparse_rate target_modules",
        meaning="projection_prng_key sparse_rate",
    ),
    "GLORA": Kind(
        "bias config_A_B config_C config_D_E init_weights modules_to_save r target_modules",
        meaning="config_A_B config_C config_D_E",
    ),
    "GRALORA": Kind(
        "alpha bias fan_in_fan_out gralora_dropout gralora_k hybrid_r init_weights "
        "layers_pattern layers_to_transform modules_to_save r target_modules",
        meaning="alpha gralora_k hybrid_r",
    ),
    "HIRA": Kind(
        "exclude_modules fan_in_fan_out hira_dropout init_weights layers_pattern "
        "layers_to_transform modules_to_save r rank_pattern target_modules",
    ),
    "HRA": Kind(
        "apply_GS bias exclude_modules init_weights layers_pattern layers_to_transform "
        "modules_to_save r target_modules",
        meaning="apply_GS",
    ),
    "IA3": Kind(
        "exclude_modules fan_in_fan_out feedforward_modules init_ia3_weights modules_to_save "
        "target_modules",
        meaning="feedforward_modules",
    ),
    "LILY": Kind(
        "exclude_modules init_weights layers_pattern layers_to_transform modules_to_save "
        "num_B r scaling stride_A target_modules",
        meaning="num_B scaling stride_A",
    ),
    "LN_TUNING": Kind(
        "exclude_modules modules_to_save target_modules",
    ),
    "LOHA": Kind(
        "alpha alpha_pattern exclude_modules init_weights layers_pattern layers_to_transform "
        "module_dropout modules_to_save r rank_dropout rank_pattern target_modules "
        "use_effective_conv2d",
        meaning="alpha alpha_pattern rank_pattern",
        update="hadamard",
    ),
    "LOKR": Kind(
        "alpha alpha_pattern decompose_both decompose_factor exclude_modules init_weights "
        "layers_pattern layers_to_transform module_dropout modules_to_save r rank_dropout "
        "rank_dropout_scale rank_pattern target_modules use_effective_conv2d",
        meaning="alpha alpha_pattern rank_pattern",
        update="kronecker",
    ),
    "MISS": Kind(
        "bias exclude_modules init_weights layers_pattern layers_to_transform mini_r "
        "miss_dropout modules_to_save r target_modules",
        meaning="mini_r",
    ),
    "OFT": Kind(
        "bias block_share coft eps exclude_modules fan_in_fan_out init_weights layers_pattern "
        "layers_to_transform module_dropout modules_to_save num_cayley_neumann_terms "
        "oft_block_size r target_modules use_cayley_neumann",
        meaning="block_share coft eps num_cayley_neumann_terms oft_block_size use_cayley_neumann",
    ),
    "SHIRA": Kind(
        "fan_in_fan_out init_weights mask_type modules_to_save r random_seed target_modules",
        meaning="mask_type random_seed",
    ),
    "PROMPT_TUNING": Kind(
        "modules_to_save num_attention_heads num_layers num_transformer_submodules "
        "num_virtual_tokens prompt_tuning_init prompt_tuning_init_text token_dim "
        "tokenizer_kwargs tokenizer_name_or_path",
    ),
    "MULTITASK_PROMPT_TUNING": Kind(
        "modules_to_save num_attention_heads num_layers num_ranks num_tasks "
        "num_transformer_submodules num_virtual_tokens prompt_tuning_init "
        "prompt_tuning_init_state_dict_path prompt_tuning_init_task prompt_tuning_init_text "
        "token_dim tokenizer_kwargs tokenizer_name_or_path",
    ),
    "OSF": Kind(
        "effective_rank init_weights modules_to_save rank_pattern target_modules target_svd_config",
        meaning="effective_rank",
    ),
    "P_TUNING": Kind(
        "encoder_dropout encoder_hidden_size encoder_num_layers "
        "encoder_reparameterization_type modules_to_save num_attention_heads num_layers "
        "num_transformer_submodules num_virtual_tokens token_dim",
    ),
    "PEANUT": Kind(
        "act_fn depth exclude_modules init_weights layers_pattern layers_to_transform "
        "modules_to_save r scaling target_modules",
        meaning="act_fn depth scaling",
    ),
    "POLY": Kind(
        "exclude_modules init_weights modules_to_save n_skills n_splits n_tasks poly_type r "
        "target_modules",
        meaning="n_skills n_splits n_tasks poly_type",
    ),
    "PREFIX_TUNING": Kind(
        "encoder_hidden_size init_weights modules_to_save num_attention_heads num_layers "
        "num_transformer_submodules num_virtual_tokens prefix_projection token_dim",
    ),
    "PSOFT": Kind(
        "ab_svd_init cayley_neumann_eps exclude_modules fan_in_fan_out init_weights "
        "layers_pattern layers_to_transform modules_to_save num_cayley_neumann_terms "
        "psoft_alpha psoft_dropout psoft_mag_a psoft_mag_b psoft_orth psoft_svd "
        "psoft_svd_lowrank_niter r random_seed target_modules use_cayley_neumann",
        meaning="cayley_neumann_eps num_cayley_neumann_terms psoft_alpha psoft_mag_a "
        "psoft_mag_b psoft_orth use_cayley_neumann",
    ),
    "PVERA": Kind(
        "bias d_initial fan_in_fan_out generator_seed init_weights layers_pattern "
        "layers_to_transform modules_to_save projection_prng_key pvera_dropout r "
        "sample_at_inference save_projection target_modules",
        meaning="projection_prng_key",
    ),
    "RANDLORA": Kind(
        "bias fan_in_fan_out init_weights layers_pattern layers_to_transform modules_to_save "
        "projection_prng_key r randlora_alpha randlora_dropout save_projection sparse "
        "target_modules very_sparse",
        meaning="projection_prng_key randlora_alpha sparse very_sparse",
    ),
    "ROAD": Kind(
        "group_size init_weights modules_to_save target_modules variant",
        meaning="group_size variant",
    ),
    "SHADOW": Kind(
        "auxiliary_loss_weight exclude_modules init_weights layers_pattern "
        "layers_to_transform modules_to_save r shadow_alpha shadow_dropout shadow_hidden_size "
        "shadow_intermediate_size shadow_model shadow_num_attention_heads "
        "shadow_num_hidden_layers share_embeddings target_modules update_hidden_size",
        meaning="shadow_alpha",
    ),
    "SUPERTUNING": Kind(
        "init_weights lora_alpha lora_dropout modules_to_save r save_precomputed_indices "
        "select_top sparsity target_modules",
        meaning="lora_alpha sparsity",
    ),
    "TINYLORA": Kind(
        "bias fan_in_fan_out init_v_bound init_weights layers_pattern layers_to_transform "
        "modules_to_save projection_seed r save_projection target_modules tinylora_dropout u "
        "weight_tying",
        meaning="projection_seed u weight_tying",
    ),
    "TRAINABLE_TOKENS": Kind(
        "init_weights target_modules token_indices",
        meaning="token_indices",
    ),
    "UNILORA": Kind(
        "bias fan_in_fan_out init_theta_d_bound init_weights layers_pattern "
        "layers_to_transform modules_to_save proj_seed r save_indices target_modules "
        "theta_d_length unilora_dropout",
        meaning="proj_seed theta_d_length",
    ),
    "VBLORA": Kind(
        "bias exclude_modules fan_in_fan_out init_logits_std init_vector_bank_bound "
        "layers_pattern layers_to_transform modules_to_save num_vectors r "
        "save_only_topk_weights target_modules topk vblora_dropout vector_length",
        meaning="topk",
        update="bank",
    ),
    "VERA": Kind(
        "bias d_initial fan_in_fan_out init_weights layers_pattern layers_to_transform "
        "modules_to_save projection_prng_key r save_projection target_modules vera_dropout",
        meaning="projection_prng_key",
    ),
    "WAVEFT": Kind(
        "bias exclude_modules fan_in_fan_out init_weights layers_pattern layers_to_transform "
        "modules_to_save n_frequency n_frequency_pattern proportional_parameters "
        "random_loc_seed scaling target_modules use_idwt wavelet_family",
        meaning="n_frequency n_frequency_pattern random_loc_seed scaling use_idwt wavelet_family",
    ),
    "XLORA": Kind(
        "adapters enable_softmax enable_softmax_topk global_scaling_weight hidden_size "
        "layerwise_scalings scaling_pass_value softmax_temperature top_k_lora "
        "use_trainable_adapters xlora_depth xlora_dropout_p xlora_size",
        meaning="global_scaling_weight softmax_temperature top_k_lora",
    ),
}

# LoRA's variants whose factors are no plain s·B·A, as its config names them, and why.
NO_PRODUCT = {
    "use_bdlora": "its factors are block-diagonal",
    "kasa_config": "a diagonal stands between its factors, and it changed the base",
    "use_qalora": "its factors see groups of inputs",
    "arrow_config": "a router weighs its factors",
    "monteclora_config": "its factors are samples",
}
SUMMED = {"use_qalora"}
"""Of these the variants whose products still add up as s·B·A do: a merge combines them."""


def unknown_keys(kind: str, config: Mapping[str, Any]) -> list[str]:
    """Keys of a config that are set to something, and that the kind did not have when this was written.

    A kind that is not known here has only the keys that all have.
    """
    known = KEYS | set(KINDS[kind].keys.split() if kind in KINDS else ())
    return sorted(key for key, value in config.items() if value and key not in known)
