"""An exponential moving average that no single bad batch can spoil."""

import torch


class MovingAverage:
    """Averages 0-dim tensors where they are, without waiting for the device; those that are not finite are left out.

    keep: share of the old average that stays at each update; start: the average before the first update, or None to
    begin at the first value
    """

    def __init__(self, keep: float, start: float | None = None) -> None:
        self.keep = keep
        self.value = None if start is None else torch.tensor(start)

    def update(self, value: torch.Tensor) -> torch.Tensor:
        """Return the average with one more value in it."""
        value = value.detach()
        old = value if self.value is None else self.value.to(value)  # one from a checkpoint may lie elsewhere
        mixed = torch.where(old.isfinite(), old + (1.0 - self.keep) * (value - old), value)
        self.value = torch.where(value.isfinite(), mixed, old)
        return self.value
