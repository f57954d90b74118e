# easy_first in reverse: nearly everything is masked at the start.
from config.shkspr_char_diff.easy_first import *
from config.shkspr_char_diff.stages import *

wandb_run_name = 'shkspr_char_diff_super_hard_first'
unmasking_stages = [
    CLUSTERS_90, CLUSTERS_80, RANDOM_50, APART_60, CLUSTERS_60, RANDOM_20,
    APART_20, APART_40, STICKY_40, CLUSTERS_55, STICKY_70, STICKY_80,
]
