# train_char_diffusion with three loss modifiers: entropy, masked ratio, target smoothing.
from config.train_char_diffusion import *

wandb_log = True
gradient_accumulation_steps = 1

loss_modifiers_enabled = True
entropy_modifier_enabled = True
entropy_modifier_weight = 0.3
entropy_modifier_threshold = 0.1
entropy_modifier_eps = 1e-8
entropy_modifier_verbose = True
target_smoothing_enabled = True
target_smoothing_factor = 0.1
target_smoothing_special_tokens = '65' # the mask token of tiny Shakespeare
target_smoothing_exclude_padding = True
target_smoothing_padding_token = -100
mask_ratio_weight_enabled = True
mask_ratio_weight_power = 0.5
mask_ratio_weight_min = 0.1
mask_ratio_weight_max = 10.0
mask_ratio_weight_eps = 1e-8
