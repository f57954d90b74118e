# sequence_scorer_lines with smaller batches, and nothing frozen.
from config.sequence_scorer_lines import *

wandb_run_name = 'sequence_scorer_lines_critic'
batch_size = 64
gradient_accumulation_steps = 2
freeze_transformer = False
unfreeze_at_iteration = 0
