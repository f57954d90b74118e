# optimal5_scorer with spans, and with texts that are nearly untouched.
from config.shkspr_char_diff.optimal5_scorer import *
from config.shkspr_char_diff.stages import *

unmasking_stages = [
    STICKY_40, CLUSTERS_60, SPANS_50, RANDOM_50, RANDOM_20, RANDOM_1, SPANS_20, CLUSTERS_55, CLUSTERS_90,
]
