# train_char_diffusion_judge_weight2 with larger batches.
from config.train_char_diffusion_judge_weight2 import *

wandb_run_name = 'bert-char-padded-judge-off'
batch_size = 64
gradient_accumulation_steps = 2
