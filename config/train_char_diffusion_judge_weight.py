# train_char_diffusion_modifiers without the entropy modifier, on complete lines; the judge weights are set, but off.
from config.train_char_diffusion_modifiers import *

wandb_run_name = 'bert-char-no-judge'
enable_line_aligned_sequences = True
batch_size = 16
entropy_modifier_enabled = False
judge_weight_modifier_enabled = False
judge_weight_checkpoint = 'out-sequence-scorer' # run folder of sequence_scorer_complex
judge_weight_exponent = 2.0
judge_start_iter = 0
judge_max_iter = 1
judge_weight_min_factor = 0.0333
judge_weight_max_factor = 30.0
judge_weight_eps = 1e-6
