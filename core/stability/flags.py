"""Questions that all processes must answer alike after every update, put in one message."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Answers(NamedTuple):
    """What all ranks agreed on about the update of iteration `iter_num`: one flag per question."""

    iter_num: int
    flags: list[bool]


class Ballot:
    """Collects one flag per question: yes, where any rank says yes. Nothing waits for a GPU.

    On a CPU the answers are those of the flags just cast. On a GPU they are those of the flags cast before: they are
    copied while the GPU works on the next update.

    any_rank: sets in place the int32 flags that any rank has set
    """

    def __init__(self, any_rank: Callable[[torch.Tensor], torch.Tensor] = lambda flags: flags) -> None:
        self.any_rank = any_rank
        self._on_its_way: tuple[int, torch.Tensor, torch.cuda.Event] | None = None

    def cast(self, iter_num: int, flags: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Answers | None]:
        """Put scalar flags of one device to all ranks.

        Returns the agreed flags, int32 (questions,), on that device; and the answers that are known by now: on a CPU
        these, on a GPU those of the ballot before (None where there was none).
        """
        agreed = self.any_rank(torch.stack([flag.int() for flag in flags]))
        if not agreed.is_cuda:
            return agreed, Answers(iter_num, [bool(flag) for flag in agreed.tolist()])
        known = self.settle()
        host = torch.empty(agreed.shape, dtype=agreed.dtype, pin_memory=True)
        host.copy_(agreed, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self._on_its_way = iter_num, host, copied
        return agreed, known

    def settle(self) -> Answers | None:
        """Return the answers that are still on their way from a GPU, waiting for them; None where there are none."""
        if self._on_its_way is None:
            return None
        (iter_num, flags, copied), self._on_its_way = self._on_its_way, None
        copied.synchronize()
        return Answers(iter_num, [bool(flag) for flag in flags.tolist()])

    def clear(self) -> None:
        """Forget what is on its way: the updates it is about are undone."""
        self._on_its_way = None
