# The core line's defaults on 12 September 2025 (its commit 021539c): 40 micro-batches per update, as in nanoGPT.
#   python train.py config/base_core_line_oldest.py mine.py
from config.base_core_line import *

gradient_accumulation_steps = 40
wandb_log_interval = 0 # evaluations only
