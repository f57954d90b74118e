"""Flags that all ranks must agree on after every update, in one message (`StabilityMonitor` says which flags)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class AgreedFlags(NamedTuple):
    """The flags of the update of iteration `iter_num`; each is True if any rank has set it."""

    iter_num: int
    flags: list[bool]


class RankFlags:
    """Reduces flags over all ranks: True if any rank says so. Nothing waits for a GPU.

    On a CPU the result is known at once. On a GPU it is copied to the host while the GPU works on the next update, and
    known one update later.

    device:   where the flags are
    any_rank: sets in place the int32 flags that any rank has set
    """

    def __init__(
        self, device: torch.device, any_rank: Callable[[torch.Tensor], torch.Tensor] = lambda flags: flags
    ) -> None:
        self.any_rank = any_rank
        # made once: a tensor made from a Python value would be copied to the device at every update
        self._constants = [torch.tensor(number, dtype=torch.int32, device=device) for number in (0, 1)]
        self._pending: tuple[int, torch.Tensor, torch.cuda.Event] | None = None

    def flag(self, value: bool) -> torch.Tensor:
        """Return 0 or 1, int32 () on the device, without a copy from the host."""
        return self._constants[value]

    def reduce(self, iter_num: int, flags: Sequence[torch.Tensor]) -> tuple[torch.Tensor, AgreedFlags | None]:
        """Reduce scalar flags of one device.

        Returns the agreed flags, int32 (flags,), on the device; and the flags that the host knows by now: on a CPU
        these, on a GPU those of the update before (None for the first).
        """
        agreed = self.any_rank(torch.stack([flag.int() for flag in flags]))
        if not agreed.is_cuda:
            return agreed, AgreedFlags(iter_num, [bool(flag) for flag in agreed.tolist()])
        known = self.wait()
        host = torch.empty(agreed.shape, dtype=agreed.dtype, pin_memory=True)
        host.copy_(agreed, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self._pending = iter_num, host, copied
        return agreed, known

    def wait(self) -> AgreedFlags | None:
        """Return the flags that a GPU has not delivered yet, waiting for them; None if there are none."""
        if self._pending is None:
            return None
        (iter_num, flags, copied), self._pending = self._pending, None
        copied.synchronize()
        return AgreedFlags(iter_num, [bool(flag) for flag in flags.tolist()])

    def clear(self) -> None:
        """Forget the flags that a GPU has not delivered yet: a rollback has undone their update."""
        self._pending = None
