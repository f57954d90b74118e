# The stages of the configs in this folder; the number in a name is the masked ratio in percent, or the span count.


def sticky(ratio, p1, p2, stale):
    return {
        'type': 'sticky', 'target_masked_ratio': ratio, 'p1_probability': p1, 'p2_probability': p2,
        'val_loss_stale_count': stale,
    }


STICKY_40 = sticky(0.4, 0.15, 0.3, stale=6)
STICKY_70 = sticky(0.7, 0.2, 0.4, stale=15)
STICKY_80 = sticky(0.8, 0.2, 0.4, stale=20)

# masks apart from each other
APART_20 = sticky(0.2, 0.3, 0.0, stale=2)
APART_40 = sticky(0.4, 0.3, 0.0, stale=4)
APART_60 = sticky(0.6, 0.3, 0.1, stale=8)

# masks in clusters
CLUSTERS_55 = sticky(0.55, 0.1, 0.6, stale=10)
CLUSTERS_60 = sticky(0.6, 0.1, 0.5, stale=8)
CLUSTERS_80 = sticky(0.8, 0.1, 0.9, stale=20)
CLUSTERS_90 = sticky(0.9, 0.1, 0.9, stale=20)

# random positions, up to this ratio
RANDOM_1 = {'type': 'random', 'max_masked_ratio': 0.01, 'val_loss_stale_count': 10}
RANDOM_20 = {'type': 'random', 'max_masked_ratio': 0.2, 'val_loss_stale_count': 10}
RANDOM_50 = {'type': 'random', 'max_masked_ratio': 0.5, 'val_loss_stale_count': 10}

# this many spans of text
SPANS_20 = {'type': 'span', 'spans_count': 20, 'val_loss_stale_count': 10}
SPANS_50 = {'type': 'span', 'spans_count': 50, 'val_loss_stale_count': 10}

# moderate masks first, then all kinds; also the validation stages of every config here
MODERATE_FIRST = [
    STICKY_40, CLUSTERS_60, RANDOM_50, APART_60, CLUSTERS_60, RANDOM_20, APART_20,
    APART_40, STICKY_40, CLUSTERS_55, STICKY_70, STICKY_80, CLUSTERS_80, CLUSTERS_90,
]
