# The core line's defaults, for its config files of September 2025. Put it before such a file:
#   python train.py config/base_core_line.py mine.py
# Files up to 12 September had 40 micro-batches per update: use base_core_line_oldest.py for them. Later files do not
# set attention_type and position_encoding: use base_core_line_newest.py for them.
training_type = 'language_model'
init_from = 'scratch'
out_dir = 'out'
dataset = 'openwebtext'
wandb_log = False
wandb_project = 'owt'
wandb_run_name = 'run'
wandb_log_interval = 1 # every logged step

eval_interval = 2000
eval_iters = 200
eval_only = False
always_save_checkpoint = True
log_interval = 1

n_layer = 12
n_head = 12
n_embd = 768
block_size = 1024
dropout = 0.0
bias = False
attention_type = 'auto' # causal for language models, bidirectional for classifiers and scorers
position_encoding = 'absolute'
num_token_classes = 2
cls_token_id = None

# without stages 15 % of all positions are masked; a scorer's are filled by sampling from the 50 most likely tokens
mask_probability = 0.15
enable_line_aligned_sequences = False
fill = 'sample'
fill_temperature = 1.0
fill_top_k = 50
score_transform = False

# modifiers: one switch for all, and one for each
loss_modifiers_enabled = False
target_smoothing_enabled = False
target_smoothing_factor = 0.1
target_smoothing_special_tokens = []
target_smoothing_exclude_padding = True
target_smoothing_padding_token = -100
entropy_modifier_enabled = False
entropy_modifier_weight = 1.0
entropy_modifier_threshold = 0.0
entropy_modifier_eps = 1e-8
mask_ratio_weight_enabled = False
mask_ratio_weight_power = 0.5
mask_ratio_weight_min = 0.1
mask_ratio_weight_max = 10.0
mask_ratio_weight_eps = 1e-8
seq_scorer_log_abs_rel_err = True

# transfer
init_from_checkpoint = None
freeze_transformer = False
unfreeze_at_iteration = None
unfreeze_lr_multiplier = 0.1

batch_size = 12
gradient_accumulation_steps = 1
max_iters = 600000
learning_rate = 6e-4
decay_lr = True
warmup_iters = 2000
lr_decay_iters = 600000
min_lr = 6e-5
beta1 = 0.9
beta2 = 0.95
weight_decay = 1e-1
grad_clip = 1.0

backend = 'nccl'
device = 'cuda'
dtype = 'auto'
compile = True
