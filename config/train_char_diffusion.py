# Unmasking of tiny Shakespeare with all stages of data/char_diffusion/config/complex.py.
#   python data/char_diffusion/prepare_streaming.py config/train_char_diffusion.py   (in another terminal)
from config.base_core_line import *
from data.char_diffusion.config.complex import *

training_type = 'unmasking'
out_dir = 'out-char-diffusion'
dataset = 'char_diffusion'
wandb_log = False
wandb_project = 'char-diffusion'
wandb_run_name = 'bert-char'

eval_interval = 250
eval_iters = 50
always_save_checkpoint = False # save only improvements
log_interval = 10

n_layer = 6
n_head = 6
n_embd = 384
block_size = 1024
dropout = 0.1
attention_type = 'bidirectional'
position_encoding = 'rotary'
dtype = 'float16'
mask_probability = 0.15 # without stages

batch_size = 32
gradient_accumulation_steps = 4
max_iters = 10000
learning_rate = 5e-4
warmup_iters = 500
lr_decay_iters = 10000
min_lr = 5e-5
beta2 = 0.99

# the queue of batch files
batches_per_file = 100
max_backlog_files = 3
sleep_seconds = 1.0
data_stream_verbose = True
ignore_index = -100
