# A character-level model of Python source code for any laptop: no GPU, no download, about two minutes on two cores.
#   python train.py config/quickstart.py
#   python sample.py --out_dir=out-quickstart --device=cpu
dataset = 'python_stdlib'
out_dir = 'out-quickstart'
device = 'cpu'
compile = False # compiling takes longer than it saves in a short run

n_layer = 4
n_head = 4
n_embd = 128
block_size = 128
dropout = 0.0

batch_size = 8
gradient_accumulation_steps = 1
max_iters = 1800

learning_rate = 3e-3
min_lr = learning_rate / 10
warmup_iters = 50
lr_decay_iters = max_iters
beta2 = 0.99

eval_interval = 300
eval_iters = 20
log_interval = 20
