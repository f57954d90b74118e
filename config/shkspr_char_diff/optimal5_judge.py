# optimal5 from scratch, with span stages, and with a judge that weights the texts.
from config.shkspr_char_diff.optimal5 import *
from config.shkspr_char_diff.stages import *

wandb_run_name = 'shkspr_char_judge'
unmasking_stages = [
    STICKY_40, CLUSTERS_60, RANDOM_50, SPANS_20, APART_60, CLUSTERS_60, RANDOM_20, SPANS_50, CLUSTERS_55, CLUSTERS_90,
]
enable_judge_model = True
judge_model_checkpoint = 'out/2000_5_scorer.pt'
unfreeze_at_iteration = 80

learning_rate = 1e-3
min_lr = 1e-4
