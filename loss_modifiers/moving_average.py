"""MovingAverage: an exponential moving average that skips non-finite values."""

import torch


class MovingAverage:
    """Averages 0-dim tensors on their device, without synchronisation; non-finite values are skipped.

    keep:  weight of the old average in each update
    start: the average before the first update; None: the first value
    """

    def __init__(self, keep: float, start: float | None = None) -> None:
        self.keep = keep
        self.value = None if start is None else torch.tensor(start)

    def update(self, value: torch.Tensor) -> torch.Tensor:
        """Add a value to the average, and return the average."""
        value = value.detach()
        old = value if self.value is None else self.value.to(value)  # a restored one may be on another device
        mixed = torch.where(old.isfinite(), old + (1.0 - self.keep) * (value - old), value)
        self.value = torch.where(value.isfinite(), mixed, old)
        return self.value
