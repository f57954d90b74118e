# The newest char_diffusion: complete lines, larger batches, fewer iterations, no loss modifiers.
from config.train_char_diffusion_modifiers import *

wandb_run_name = 'vanila_no_modifiers'
always_save_checkpoint = True
compile = True
enable_line_aligned_sequences = True

batch_size = 128
gradient_accumulation_steps = 2
max_iters = 6000
lr_decay_iters = 6000

loss_modifiers_enabled = False
entropy_modifier_enabled = False
