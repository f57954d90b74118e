# One evaluation of a checkpoint.
from config.base_train_run import *
from config.shkspr_char_diff.stages import MODERATE_FIRST

init_from = 'resume'
ckpt_filename = 'optimal_2400.pt' # in out_dir
eval_only = True
wandb_log = False
eval_interval = 200
eval_iters = 20
log_interval = 20

unmasking_stages = MODERATE_FIRST
validation_stages = MODERATE_FIRST
