# The core line's train_shakespeare_char: a longer context than nanoGPT's preset of that name.
from config.base_core_line import *

training_type = 'language_model'
attention_type = 'causal'
position_encoding = 'absolute'
out_dir = 'out-shakespeare-char'
dataset = 'shakespeare_char'
wandb_log = False
wandb_project = 'shakespeare-char'
wandb_run_name = 'mini-gpt'

eval_interval = 250
eval_iters = 200
always_save_checkpoint = False # it overfits: save only improvements
log_interval = 10

n_layer = 6
n_head = 6
n_embd = 384
block_size = 1024
dropout = 0.2

batch_size = 16
gradient_accumulation_steps = 4
max_iters = 5000
learning_rate = 1e-3
warmup_iters = 100
lr_decay_iters = 5000
min_lr = 1e-4
beta2 = 0.99
