# Evaluates the loss of OpenAI's gpt2-xl on a prepared data set, without training.
init_from = 'gpt2-xl'
eval_only = True
eval_iters = 500 # many batches, for a low variance
batch_size = 8
wandb_log = False
