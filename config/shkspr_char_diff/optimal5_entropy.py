# optimal5 with the entropy penalty from iteration 2500 on.
from config.shkspr_char_diff.optimal5 import *

enable_entropy_penalty = True
