"""Keys of the core line's newest files that ask for something this project does not have."""

# what is switched on by a value other than False, 0, None or nothing: there it is refused, otherwise ignored
NOT_SUPPORTED: dict[str, str] = {
    "use_guidance": "plan encoder, which guides the model by a summary of the whole text",
    "add_critic_head": "critic, a second head that is trained to find wrong tokens",
    "add_sampler_head": "sampler head, a second head that is trained to fill gaps one after the other",
    "share_main_matrices": "sharing of weights by several layers",
    "use_grpo": "reinforcement learning by group-relative rewards",
    "use_lora_attn": "training of adapters of low rank in attention layers",
    "use_lora_mlp": "training of adapters of low rank in feed-forward layers",
}

# what says more about one of these, and does nothing without it
DETAILS: dict[str, str] = {
    "plan_tokens": "use_guidance",
    "plan_encoder_depth_factor": "use_guidance",
    "cond_dropout_prob": "use_guidance",
    "start_critic_iteration": "add_critic_head",
    "end_critic_iteration": "add_critic_head",
    "critic_alpha": "add_critic_head",
    "critic_target_scope": "add_critic_head",
    "start_sampler_iteration": "add_sampler_head",
    "sampler_min_neighbors_ratio": "add_sampler_head",
    "lora_rank": "use_lora_attn",
    "lora_alpha": "use_lora_attn",
    "lora_dropout": "use_lora_attn",
}
