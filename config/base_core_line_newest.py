# The core line's defaults from October 2025 on: it fills gaps, with both sides in view and rotary positions.
#   python train.py config/base_core_line_newest.py mine.py
from config.base_core_line import *

training_type = 'unmasking'
attention_type = 'bidirectional'
position_encoding = 'rotary'
enable_line_aligned_sequences = True
score_transform = True # small shares are told better apart
batch_size = 1
