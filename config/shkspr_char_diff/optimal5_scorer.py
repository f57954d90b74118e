# A scorer; optimal5's model initializes it and fills masked positions. Only the head is trained for 300 iterations.
from config.shkspr_char_diff.optimal5 import *

training_type = 'sequence_scoring'
init_from_checkpoint = 'out/optimal5_bert_8000.pt'
unmasking_model_checkpoint = 'out/optimal5_bert_8000.pt'
unfreeze_at_iteration = 300
weight_loss_by_mask_ratio = False
