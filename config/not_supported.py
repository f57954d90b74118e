"""Options of the core line's newest config files that coreGPT does not support."""

# an error if the value is true, otherwise ignored
NOT_SUPPORTED: dict[str, str] = {
    "use_guidance": "plan encoder (guides the model by a summary of the text)",
    "add_critic_head": "critic (a second head that finds wrong tokens)",
    "add_sampler_head": "sampler head (a second head that fills masked positions one by one)",
    "share_main_matrices": "weight sharing between layers",
    "use_grpo": "reinforcement learning with group-relative rewards (GRPO)",
}

# settings of these options, ignored: the option they belong to
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
}
