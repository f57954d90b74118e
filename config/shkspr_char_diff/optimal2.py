# optimal with larger batches and more dropout.
from config.shkspr_char_diff.optimal import *

wandb_run_name = 'shkspr_char_refactor_test'
gradient_accumulation_steps = 16
weight_decay = 1e-2
dropout = 0.2
