# moderate_first with few masks at the start, a higher learning rate and fewer iterations.
from config.shkspr_char_diff.moderate_first import *
from config.shkspr_char_diff.stages import *

wandb_run_name = 'shkspr_char_diff_easy_first'
unmasking_stages = [
    RANDOM_20, STICKY_40, APART_20, APART_40, STICKY_40, APART_60,
    CLUSTERS_55, STICKY_70, STICKY_80, CLUSTERS_80, CLUSTERS_90,
]
learning_rate = 1e-3
max_iters = 5000
