# optimal4 with smaller batches, label smoothing and a low learning rate for fine-tuning.
from config.shkspr_char_diff.optimal4 import *

uncertainty_factor = 0.1
unfreeze_at_iteration = 300 # no effect here: nothing is frozen

batch_size = 16
gradient_accumulation_steps = 16
learning_rate = 2e-5
lr_decay_iters = 15000
min_lr = 2e-6
