# train_char_diffusion_judge_weight with judge weights on; their exponent grows from iteration 2000 to 5000.
from config.train_char_diffusion_judge_weight import *

wandb_run_name = 'bert-char-judge-weight-epoch-3b'
judge_weight_modifier_enabled = True
judge_start_iter = 2000
judge_max_iter = 5000
