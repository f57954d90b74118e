# Fills gaps in Python source: on a CPU, in less than two minutes.
#   python data/python_stdlib/prepare.py && python train.py config/recipe_unmasking.py
# `python -m tools.recipes` trains this and the other recipes, and compares each with what takes no training.
training_type = 'unmasking'
dataset = 'python_stdlib'
out_dir = 'out-recipe-unmasking'
device = 'cpu'
compile = False # compiling would take longer than it saves here

n_layer = 2
n_head = 4
n_embd = 128
block_size = 64
position_encoding = 'rotary'

# few gaps anywhere, and more of them in clusters
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

# a gap costs at least so many nats less than by the text's unigrams, and by bigrams that are told the left neighbour
margin_unigram = 1.1
margin_bigram = 0.45
