# train_char_diffusion_no_modifiers where a scorer weighs the texts, more and more from iteration 2000 to 5000.
from config.train_char_diffusion_no_modifiers import *

wandb_run_name = 'judge_weight2'
loss_modifiers_enabled = True
target_smoothing_enabled = False
mask_ratio_weight_enabled = False
judge_weight_modifier_enabled = True
judge_weight_checkpoint = 'out-sequence-scorer' # folder of a run of sequence_scorer_complex
judge_weight_exponent = 2.0
judge_start_iter = 2000
judge_max_iter = 5000
judge_weight_min_factor = 0.0333
judge_weight_max_factor = 30.0
