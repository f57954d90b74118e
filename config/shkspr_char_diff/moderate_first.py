# Adds stages when the validation loss stops improving, from moderate masks to nearly everything masked.
from config.base_train_run import *
from config.shkspr_char_diff.stages import MODERATE_FIRST

init_from = 'scratch'
out_dir = 'out_exp'
wandb_log = True
wandb_project = 'experiments_diffusion'
wandb_run_name = 'shkspr_char_diff_moderate_first'

unmasking_stages = MODERATE_FIRST
validation_stages = MODERATE_FIRST

batch_size = 16
max_iters = 50000
learning_rate = 5e-4
decay_lr = False
warmup_iters = 1000
lr_decay_iters = 50000
min_lr = 1e-4
weight_decay = 1e-3
dropout = 0.01
grad_clip = 1.0
