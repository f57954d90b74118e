# Unmasking of text whose masks grow in rounds, each next to the masks of the previous round.
#   python data/char_diffusion_sticky_rounds/prepare_streaming.py config/train_char_diffusion_sticky_rounds.py
from config.train_char_diffusion_modifiers import *

out_dir = 'out-char-diffusion-sticky-rounds'
dataset = 'char_diffusion_sticky_rounds'
wandb_run_name = 'bert-char-sticky-rounds'

# rounds instead of stages
composition_config = None
use_all_stages_for_training = None
unmasking_stages = None
validation_stages = None
enable_line_aligned_sequences = True
sticky_p1_probability = 0.15
sticky_p2_probability = 0.5
max_rounds = 3

batch_size = 48
