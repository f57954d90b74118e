# Finds characters of Python source that were replaced at random; less than two minutes on a CPU.
#   python data/python_stdlib/prepare.py && python train.py config/recipe_token_classification.py
training_type = 'token_classification'
dataset = 'python_stdlib'
out_dir = 'out-recipe-token-classification'
device = 'cpu'
compile = False

n_layer = 2
n_head = 4
n_embd = 128
block_size = 64
position_encoding = 'rotary'

# at most one character in five is replaced
num_token_classes = 2
class_weights = 'none' # predict the rare class rarely
guaranteed_unmasked_max = 0.95
guaranteed_unmasked_min = 0.8
random_mask_warmup = 200

batch_size = 16
gradient_accumulation_steps = 1
max_iters = 600
learning_rate = 2e-3
warmup_iters = 100
lr_decay_iters = max_iters
min_lr = learning_rate / 10
beta2 = 0.99

eval_interval = 200
eval_iters = 20
log_interval = 50

# for tools.recipes: minimum gain in F1 (mean of both classes) over calling every character original
margin_f1 = 0.35
