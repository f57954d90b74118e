# A scorer of short texts, without stages: a random ratio of each text is masked.
#   python data/sequence_scorer/prepare_streaming.py config/sequence_scorer_simple.py   (in another terminal)
from config.base_core_line import *

training_type = 'sequence_scoring'
out_dir = 'out-sequence-scorer'
dataset = 'sequence_scorer'
attention_type = 'bidirectional'
unmasking_model_checkpoint = 'out-char-diffusion' # prepare_streaming.py reads it too
mask_probability_range = (0.1, 0.7)

batch_size = 16
block_size = 256
max_iters = 8000
learning_rate = 1e-4
warmup_iters = 300
eval_interval = 200

# the queue of batch files
batches_per_file = 50
max_backlog_files = 3
sleep_seconds = 5.0
