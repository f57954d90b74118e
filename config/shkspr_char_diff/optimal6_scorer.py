# optimal5_scorer with span stages and with a stage of at most 1 % masked positions.
from config.shkspr_char_diff.optimal5_scorer import *
from config.shkspr_char_diff.stages import *

unmasking_stages = [
    STICKY_40, CLUSTERS_60, SPANS_50, RANDOM_50, RANDOM_20, RANDOM_1, SPANS_20, CLUSTERS_55, CLUSTERS_90,
]
