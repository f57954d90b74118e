# optimal2 without loss modifiers.
from config.shkspr_char_diff.optimal2 import *

wandb_run_name = 'shkspr_char_diff_moderate_first'
weight_loss_by_mask_ratio = False
enable_entropy_penalty = False
