# Eight stages at once, very large batches, no gradient clipping.
from config.shkspr_char_diff.optimal import *
from config.shkspr_char_diff.stages import *

wandb_log = True
unmasking_stages = [STICKY_40, CLUSTERS_60, RANDOM_50, APART_60, CLUSTERS_60, RANDOM_20, CLUSTERS_55, CLUSTERS_90]
enable_entropy_penalty = False

batch_size = 192
gradient_accumulation_steps = 12
max_iters = 8000
learning_rate = 1e-3
warmup_iters = 2000
lr_decay_iters = 8000
weight_decay = 2e-2
dropout = 0.2
grad_clip = 0.0
