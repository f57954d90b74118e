# optimal with three times as many iterations, larger batches and a higher learning rate.
from config.shkspr_char_diff.optimal import *

gradient_accumulation_steps = 16
max_iters = 15000
learning_rate = 5e-4
warmup_iters = 1000
lr_decay_iters = 15000
min_lr = 1e-4
