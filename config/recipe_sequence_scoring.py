# Estimates the ratio of tokens in a text that the model of recipe_unmasking filled; less than two minutes on a CPU.
#   python train.py config/recipe_unmasking.py && python train.py config/recipe_sequence_scoring.py
training_type = 'sequence_scoring'
dataset = 'python_stdlib'
out_dir = 'out-recipe-sequence-scoring'
unmasking_model_checkpoint = 'out-recipe-unmasking' # fills masked positions
init_from_checkpoint = 'out-recipe-unmasking' # the transformer starts with the same weights
device = 'cpu'
compile = False

n_layer = 2
n_head = 4
n_embd = 128
block_size = 64
position_encoding = 'rotary'

# masked ratios from 0 to 0.9
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

# for tools.recipes: minimum reduction of the squared error, as a ratio of that of a constant mean, and minimum
# correlation with the masked ratio
margin_mse_ratio = 0.5
margin_pearson = 0.7
