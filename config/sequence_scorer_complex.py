# A scorer of tiny Shakespeare; the model of train_char_diffusion initializes it and fills masked positions.
from config.base_core_line import *
from data.char_diffusion.config.complex import *

training_type = 'sequence_scoring'
out_dir = 'out-sequence-scorer'
dataset = 'sequence_scorer'
wandb_log = True
unmasking_model_checkpoint = 'out-char-diffusion' # prepare_streaming.py reads it too
init_from_checkpoint = 'out-char-diffusion'

eval_interval = 250
eval_iters = 10
log_interval = 10

n_layer = 6
n_head = 6
n_embd = 384
block_size = 1024
dropout = 0.1
attention_type = 'bidirectional'
position_encoding = 'rotary'
dtype = 'float16'
cls_token_id = 66 # after 65 characters and the mask token

# first train the head only, then all parameters
freeze_transformer = True
unfreeze_at_iteration = 500

batch_size = 4
gradient_accumulation_steps = 2
max_iters = 10000
learning_rate = 1e-5
warmup_iters = 500
lr_decay_iters = 10000
min_lr = 1e-5
beta2 = 0.99

# increase the loss of scores that vary little or correlate weakly with the targets
loss_modifiers_enabled = True
sequence_variance_enabled = True
sequence_variance_scale = 5.0
sequence_variance_alpha = 1.5
sequence_variance_eps = 1e-8
sequence_correlation_enabled = True
sequence_correlation_alpha = 4.0
sequence_correlation_eps = 1e-8

# the queue of batch files
batches_per_file = 100
max_backlog_files = 20
sleep_seconds = 1.0
