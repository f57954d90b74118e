# The core line's defaults from October 2025 on: unmasking with bidirectional attention and rotary positions.
#   python train.py config/base_core_line_newest.py mine.py
from config.base_core_line import *

training_type = 'unmasking'
attention_type = 'bidirectional'
position_encoding = 'rotary'
enable_line_aligned_sequences = True
score_transform = True # separates small masked ratios better
batch_size = 1
