# optimal4 on smaller batches, with smoothed targets and a learning rate for refining what is already good.
from config.shkspr_char_diff.optimal4 import *

uncertainty_factor = 0.1
unfreeze_at_iteration = 300 # of no consequence here: nothing is frozen

batch_size = 16
gradient_accumulation_steps = 16
learning_rate = 2e-5
lr_decay_iters = 15000
min_lr = 2e-6
