# A character-level model of Shakespeare that trains in minutes on one GPU; it overfits, so only improvements are saved.
# On a laptop: --device=cpu --compile=False --eval_iters=20 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4
#              --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0
dataset = 'shakespeare_char'
out_dir = 'out-shakespeare-char'

n_layer = 6
n_head = 6
n_embd = 384
block_size = 256
dropout = 0.2

batch_size = 64
gradient_accumulation_steps = 1
max_iters = 5000

learning_rate = 1e-3
min_lr = 1e-4
warmup_iters = 100
lr_decay_iters = 5000
beta2 = 0.99 # higher because an iteration has few tokens

eval_interval = 250
eval_iters = 200
always_save_checkpoint = False
log_interval = 10
wandb_log = False
wandb_project = 'shakespeare-char'
wandb_run_name = 'mini-gpt'
