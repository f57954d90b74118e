# All stages at once, loss weights by masked ratio, entropy penalty from iteration 2500 on.
from config.base_train_run import *
from config.shkspr_char_diff.stages import MODERATE_FIRST

init_from = 'scratch'
wandb_log = False
wandb_project = 'experiments_diffusion'
wandb_run_name = 'shkspr_char_diff_moderate_first'

unmasking_stages = MODERATE_FIRST
validation_stages = MODERATE_FIRST
use_all_stages_for_training = True

weight_loss_by_mask_ratio = True
enable_entropy_penalty = True
max_entropy_penalty = 3
entropy_penalty_start_iter = 2500

batch_size = 16
gradient_accumulation_steps = 2
max_iters = 5000
learning_rate = 3e-4
decay_lr = True
warmup_iters = 600
lr_decay_iters = 5000
min_lr = 3e-5
weight_decay = 1e-3
dropout = 0.01
grad_clip = 1.0
