# train_char_diffusion_judge_weight with larger batches; the scorer's weights grow from iteration 2000 to 5000.
from config.train_char_diffusion_judge_weight import *

wandb_run_name = 'bert-char-padded-judge-off'
batch_size = 64
gradient_accumulation_steps = 2
judge_weight_modifier_enabled = True
judge_start_iter = 2000
judge_max_iter = 5000
