# A template for a token classifier: set dataset, init_from_checkpoint, and the architecture of that checkpoint.
from config.base_core_line import *

training_type = 'token_classification'
out_dir = 'out-token-classifier'
attention_type = 'bidirectional'
num_token_classes = 2
init_from_checkpoint = None

# first train the head only, then all parameters
freeze_transformer = True
unfreeze_at_iteration = 5000

loss_modifiers_enabled = True
entropy_modifier_enabled = True
target_smoothing_enabled = True
mask_ratio_weight_enabled = False

batch_size = 16
block_size = 512
max_iters = 20000
learning_rate = 5e-5
warmup_iters = 1000
eval_interval = 500
