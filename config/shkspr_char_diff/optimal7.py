# optimal6 with less label smoothing and with loss weights by masked ratio.
from config.shkspr_char_diff.optimal6 import *

wandb_log = True
weight_loss_by_mask_ratio = True
uncertainty_factor = 0.03
