"""Flags that come late, as on a GPU."""

from collections.abc import Sequence

import torch

from core.stability.flags import AgreedFlags, RankFlags


class LateFlags(RankFlags):
    """Delivers flags one update late, as on a GPU."""

    late: AgreedFlags | None = None

    def reduce(self, iter_num: int, flags: Sequence[torch.Tensor]) -> tuple[torch.Tensor, AgreedFlags | None]:
        agreed, known = super().reduce(iter_num, flags)
        known, self.late = self.late, known
        return agreed, known

    def wait(self) -> AgreedFlags | None:
        known, self.late = self.late, None
        return known

    def clear(self) -> None:
        self.late = None
