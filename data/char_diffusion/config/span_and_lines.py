# complex, and masks of complete lines.
from data.char_diffusion.config.complex import unmasking_stages, use_all_stages_for_training, validation_stages

unmasking_stages = [
    *unmasking_stages,
    {"type": "line", "min_ratio": 0.1, "max_ratio": 0.45, "val_loss_stale_count": 10},
]
