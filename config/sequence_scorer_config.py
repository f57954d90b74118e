# A template for a scorer: set dataset, init_from_checkpoint, unmasking_model_checkpoint, and their architecture.
from config.base_core_line import *

training_type = 'sequence_scoring'
out_dir = 'out-sequence-scorer'
attention_type = 'bidirectional'
init_from_checkpoint = None
unmasking_model_checkpoint = 'out-char-diffusion'
cls_token_id = None

# first train the head only, then all parameters
freeze_transformer = True
unfreeze_at_iteration = 3000

loss_modifiers_enabled = True
entropy_modifier_enabled = False # these three do not apply to scores
target_smoothing_enabled = False
mask_ratio_weight_enabled = False

batch_size = 32
block_size = 256
max_iters = 15000
learning_rate = 1e-4
warmup_iters = 500
eval_interval = 250
