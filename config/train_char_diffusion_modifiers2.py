# train_char_diffusion_modifiers without the entropy modifier.
from config.train_char_diffusion_modifiers import *

wandb_run_name = 'bert-char-no-entropy-modifier'
entropy_modifier_enabled = False
