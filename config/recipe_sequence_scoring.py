# Says how large a share of a text the model of recipe_unmasking has written: on a CPU, in less than two minutes.
#   python train.py config/recipe_unmasking.py && python train.py config/recipe_sequence_scoring.py
training_type = 'sequence_scoring'
dataset = 'python_stdlib'
out_dir = 'out-recipe-sequence-scoring'
unmasking_model_checkpoint = 'out-recipe-unmasking' # fills the gaps
init_from_checkpoint = 'out-recipe-unmasking' # the same model to begin with, but for the head
device = 'cpu'
compile = False

n_layer = 2
n_head = 4
n_embd = 128
block_size = 64
position_encoding = 'rotary'

# shares between nothing and nearly everything
unmasking_stages = [
    {'type': 'random', 'max_masked_ratio': 0.9, 'val_loss_stale_count': 2},
    {'type': 'sticky', 'target_masked_ratio': 0.6, 'p1_probability': 0.1, 'p2_probability': 0.5,
     'val_loss_stale_count': 2},
]
use_all_stages_for_training = True
fill = 'argmax'

batch_size = 16
gradient_accumulation_steps = 1
max_iters = 500
learning_rate = 1.5e-3
warmup_iters = 50
lr_decay_iters = max_iters
min_lr = learning_rate / 10
beta2 = 0.99

eval_interval = 250
eval_iters = 20
log_interval = 50

# the squared error is at least so much smaller, as a part of the one of always giving the mean, and the correlation
# with the true share so high
margin_mse_ratio = 0.5
margin_pearson = 0.7
