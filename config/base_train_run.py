# The train_run line's defaults. Its config files depend on them; put this file before such a file:
#   python train.py config/base_train_run.py mine.py
training_type = 'unmasking'
init_from = 'resume' # files that start a new run set scratch
out_dir = 'out'
dataset = 'shakespeare_char'
use_paragraph_boundaries = False
wandb_log = True
wandb_project = 'diffusion'
wandb_run_name = '13k_UN_noise_0.2'
wandb_log_interval = 1 # every logged step

eval_interval = 200
eval_iters = 20
eval_only = False
always_save_checkpoint = True
log_interval = 20

n_layer = 6
n_head = 6
n_embd = 384
block_size = 1024
dropout = 0.01
bias = False
attention_type = 'bidirectional'
position_encoding = 'rotary' # use_rope = True
num_token_classes = 2

# the file itself must set its stages
unmasking_stages = []
validation_stages = []
use_all_stages_for_training = False

# the loss: every text has the same weight, whatever its number of masked positions
loss_mean = 'sequences'
weight_loss_by_mask_ratio = False
uncertainty_factor = 0.0
enable_entropy_penalty = False
max_entropy_penalty = 0.5
entropy_penalty_start_iter = 6000
enable_judge_model = False
judge_model_checkpoint = ''
unmasking_model_checkpoint = ''

# transfer: a scorer's transformer is frozen until unfreeze_at_iteration, unless that is None; other models never are
init_from_checkpoint = ''
freeze_transformer = None
unfreeze_at_iteration = 80
unfreeze_lr_multiplier = 1.0

batch_size = 16
gradient_accumulation_steps = 1
max_iters = 50000
learning_rate = 1e-3
decay_lr = True
warmup_iters = 2000
lr_decay_iters = 41000
min_lr = 1e-4
beta1 = 0.9
beta2 = 0.99
weight_decay = 1e-3
grad_clip = 1.0

backend = 'nccl'
device = 'cuda'
dtype = 'float16'
compile = False
