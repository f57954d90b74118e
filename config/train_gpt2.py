# GPT-2 (124M) on OpenWebText; reaches a loss of about 2.85 after some days on eight A100s:
#   torchrun --standalone --nproc_per_node=8 train.py config/train_gpt2.py
# About half a million tokens per iteration: 12 sequences x 1024 tokens x 40 micro-batches over all GPUs.
block_size = 1024
batch_size = 12
gradient_accumulation_steps = 5 * 8
weight_decay = 1e-1

# 300 billion tokens in total
max_iters = 600000
lr_decay_iters = 600000

eval_iters = 200
eval_interval = 1000
log_interval = 10
wandb_log = True
wandb_project = 'owt'
wandb_run_name='gpt2-124M'
