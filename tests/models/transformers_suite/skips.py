"""Every test of transformers that the families skip, and why.

`FamilyTests.run` fails a test that skips unlisted, and one that is listed but runs. Only what a test "needs" may be
there on one machine and missing on the next: such a test may run.
"""

from itertools import product

# Of sdpa against eager attention: precision, padding, mask, kernels.
_KINDS = product(("fp16", "fp32", "bf16"), ("left", "right"), ("", "_no_attn_mask"), ("_sdpa_kernels", ""))
_SDPA = [
    f"test_eager_matches_sdpa_inference_{number:02}_{precision}_pad_{side}{mask}{kernels}"
    for number, (precision, side, mask, kernels) in enumerate(_KINDS)
]

SKIPS: dict[str, str] = {
    # What a machine may lack
    **dict.fromkeys(
        [
            "test_can_load_with_device_context_manager",
            "test_can_load_with_global_device_set",
            "test_cpu_offload",
            "test_disk_offload_bin",
            "test_disk_offload_safetensors",
            "test_flex_attention_with_grads",
            "test_model_parallelism",
            "test_sdpa_can_compile_dynamic",
            "test_sdpa_can_dispatch_on_flash",
            "test_torch_compile_for_training",
        ],
        "needs an accelerator, or several, and RUN_SLOW; test_generation.py compiles on the CPU",
    ),
    **dict.fromkeys(
        [
            "test_flash_attn_2_can_compile_with_attention_mask_None_without_graph_break",
            "test_flash_attn_2_can_dispatch_composite_models",
            "test_flash_attn_2_fp32_ln",
            "test_flash_attn_2_from_config",
            "test_flash_attn_2_inference_equivalence",
            "test_flash_attn_2_inference_equivalence_right_padding",
            "test_flash_attn_3_can_dispatch_composite_models",
            "test_flash_attn_3_from_config",
            "test_flash_attn_3_inference_equivalence",
            "test_flash_attn_3_inference_equivalence_right_padding",
            "test_flash_attn_4_can_dispatch_composite_models",
            "test_flash_attn_4_from_config",
            "test_flash_attn_4_inference_equivalence",
            "test_flash_attn_4_inference_equivalence_right_padding",
            "test_flash_attn_kernels_inference_equivalence",
            "test_flash_attn_kernels_mps_inference_equivalence",
            "test_kernels_can_load_without_crashing",
        ],
        "needs an accelerator and the flash-attn or kernels package",
    ),
    **dict.fromkeys(
        [
            "test_resize_embeddings_untied_with_deepspeed",
            "test_resize_embeddings_untied_with_deepspeed_multi_gpu",
            "test_resize_tokens_embeddings_with_deepspeed",
            "test_resize_tokens_embeddings_with_deepspeed_multi_gpu",
        ],
        "needs an accelerator and the deepspeed package",
    ),
    "test_tp_generation_quantized": "needs the torchao package",
    # What the architecture does not have
    **dict.fromkeys(
        [
            "test_model_rope_scaling_frequencies",
            "test_model_rope_scaling_from_config_0_linear",
            "test_model_rope_scaling_from_config_1_dynamic",
            "test_model_rope_scaling_from_config_2_yarn",
            "test_model_rope_with_partial_rotation",
            "test_vision_axial_rope",
        ],
        "positions are sinusoidal or learned, not rotary",
    ),
    **dict.fromkeys(
        [
            "test_eager_matches_batched_and_grouped_inference_0_fp16",
            "test_eager_matches_batched_and_grouped_inference_1_fp32",
            "test_eager_matches_batched_and_grouped_inference_2_bf16",
            "test_fsdp2_expert_parallel_2d_vs_ddp",
            "test_fsdp2_expert_parallel_bf16_grads_0_experts_sharded",
            "test_fsdp2_expert_parallel_bf16_grads_1_experts_not_sharded",
            "test_hsdp_grad_accumulation_vs_single_device_2_expert_parallel",
            "test_moe_models_record_router_logits",
            "test_moe_parallel_plans_shard_experts",
            "test_output_router_logits_from_config",
        ],
        "no mixture of experts",
    ),
    **dict.fromkeys(
        [
            "test_attn_implementation_composite_models",
            "test_can_set_attention_dynamically_composite_model",
            "test_internal_model_config_and_subconfig_are_same",
            "test_sdpa_can_dispatch_composite_models",
        ],
        "no config inside a config",
    ),
    **dict.fromkeys(
        ["test_can_load_from_already_mapped_keys", "test_reverse_loading_mapping"],
        "weights have one name, from file to model",
    ),
    **dict.fromkeys(["test_keep_in_fp32_modules", "test_keep_in_fp32_modules_exist"], "no weight insists on float32"),
    "test_resize_position_vector_embeddings": "the table of positions cannot be resized (nor can BERT's or BART's)",
    "test_sliding_window_mask": "attention is not limited to a window",
    # What one family does not have
    **dict.fromkeys(
        [
            "Decoder.test_encoder_decoder_loss_no_double_shift",
            "Encoder.test_encoder_decoder_loss_no_double_shift",
        ],
        "no sequence-to-sequence head",
    ),
    **dict.fromkeys(
        [f"{family}.test_causal_lm_loss_honors_shift_labels" for family in ("Encoder", "Seq2Seq", "Recurrent")],
        "no head that shifts its labels",
    ),
    "Encoder.test_tp_generation": "an encoder does not generate",
    "Seq2Seq.test_can_capture_specific_layers_hidden_states": "`hidden_states` are those of two stacks",
    **dict.fromkeys(
        [
            f"Recurrent.{name}"
            for name in (
                "test_attention_outputs",
                "test_can_set_attention_dynamically",
                "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions",
                "test_sdpa_can_dispatch_non_composite_models",
                *_SDPA,
            )
        ],
        "no self-attention, and one implementation of attention to the source: test_recurrent.py has its outputs",
    ),
    **dict.fromkeys(
        [
            f"Recurrent.{name}"
            for name in (
                "test_tied_head_has_a_tp_plan_entry",
                "test_tp_backward",
                "test_tp_forward_0",
                "test_tp_forward_1",
                "test_tp_generation",
                "test_tp_plan_matches_params",
            )
        ],
        "no plan for tensor parallelism: the gates of a cell are one matrix, and each needs all of the state",
    ),
    **dict.fromkeys(
        ["Recurrent.test_can_capture_specific_layers_hidden_states", "Recurrent.test_capture_outputs_decorator"],
        "hidden states are recorded by the stacks themselves, for layers see packed tokens",
    ),
    "Recurrent.test_enable_input_require_grads_with_gradient_checkpointing": "no gradient checkpointing",
}
