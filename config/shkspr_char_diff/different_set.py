# Continues the run in out_exp with four other stages.
from config.shkspr_char_diff.moderate_first import *
from config.shkspr_char_diff.stages import *

init_from = 'resume'
unmasking_stages = [
    CLUSTERS_60,
    STICKY_40,
    {'type': 'sticky', 'target_masked_ratio': 0.6, 'p1_probability': 0.2, 'p2_probability': 0.1, 'val_loss_stale_count': 8},
    {'type': 'random', 'max_masked_ratio': 0.7, 'val_loss_stale_count': 10},
]
batch_size = 64
gradient_accumulation_steps = 4
decay_lr = True
weight_decay = 1e-5
dropout = 0.0
