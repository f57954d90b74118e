# sequence_scorer_lines with larger batches.
from config.sequence_scorer_lines import *

wandb_run_name = 'sequence_scorer_lines_critic'
batch_size = 64
gradient_accumulation_steps = 2
