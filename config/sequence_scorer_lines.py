# sequence_scorer_complex without freezing, with sequences of complete lines and with line masks.
from config.sequence_scorer_complex import *
from data.char_diffusion.config.span_and_lines import *

wandb_project = 'char-diffusion'
wandb_run_name = 'sequence_scorer_lines_epoch_1'
enable_line_aligned_sequences = True
score_transform = True
freeze_transformer = False
unfreeze_at_iteration = 0

batch_size = 4
gradient_accumulation_steps = 32
