# Fills masked characters in Python source; less than two minutes on a CPU.
#   python data/python_stdlib/prepare.py && python train.py config/recipe_unmasking.py
# `python -m tools.recipes` trains all recipes and compares each with simple baselines.
training_type = 'unmasking'
dataset = 'python_stdlib'
out_dir = 'out-recipe-unmasking'
device = 'cpu'
compile = False # compiling takes longer than it saves in a short run

n_layer = 2
n_head = 4
n_embd = 128
block_size = 64
position_encoding = 'rotary'

# few masks at random positions, and more masks in clusters
unmasking_stages = [
    {'type': 'random', 'max_masked_ratio': 0.3, 'val_loss_stale_count': 2},
    {'type': 'sticky', 'target_masked_ratio': 0.3, 'p1_probability': 0.15, 'p2_probability': 0.3,
     'val_loss_stale_count': 2},
]
use_all_stages_for_training = True

batch_size = 16
gradient_accumulation_steps = 1
max_iters = 1000
learning_rate = 3e-3
warmup_iters = 100
lr_decay_iters = max_iters
min_lr = learning_rate / 10
beta2 = 0.99

eval_interval = 250
eval_iters = 20
log_interval = 50

# for tools.recipes: minimum gain in nats per masked position over a unigram model, and over a bigram model that gets
# the left neighbour
margin_unigram = 1.1
margin_bigram = 0.45
