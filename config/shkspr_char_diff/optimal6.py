# optimal4 with more iterations, smaller batches and label smoothing; all texts have the same weight.
from config.shkspr_char_diff.optimal4 import *

wandb_log = False
weight_loss_by_mask_ratio = False
uncertainty_factor = 0.1

batch_size = 16
gradient_accumulation_steps = 12
max_iters = 10000
