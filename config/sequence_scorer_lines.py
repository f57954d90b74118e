# sequence_scorer_complex with large batches, rows of whole lines, and texts in which whole lines were exchanged.
from config.sequence_scorer_complex import *
from data.char_diffusion.config.span_and_lines import *

wandb_project = 'char-diffusion'
wandb_run_name = 'sequence_scorer_lines'
enable_line_aligned_sequences = True
score_transform = True

batch_size = 128
gradient_accumulation_steps = 8
