# Fine-tunes the largest GPT-2 on Shakespeare (data/shakespeare/prepare.py); gpt2 or gpt2-medium fit smaller GPUs.
import time

init_from = 'gpt2-xl'
dataset = 'shakespeare'
out_dir = 'out-shakespeare'

# 32 x 1024 tokens per iteration; one epoch takes about nine iterations
batch_size = 1
gradient_accumulation_steps = 32
max_iters = 20
learning_rate = 3e-5
decay_lr = False

eval_iters = 40
eval_interval = 5
always_save_checkpoint = False # keep the best
wandb_log = False
wandb_project = 'shakespeare'
wandb_run_name = 'ft-' + str(time.time())
