# moderate_first with 64 times as many texts per update.
from config.shkspr_char_diff.moderate_first import *

batch_size = 128
gradient_accumulation_steps = 8
