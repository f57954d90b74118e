"""An evaluation without training fails if a loss is not finite, so that a script notices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from core.callback import Callback
from core.errors import DivergedError

if TYPE_CHECKING:
    from core.trainer import Trainer


class FiniteLosses(Callback):
    """Raises DivergedError after an evaluation whose loss is NaN or infinite; for runs with `eval_only`."""

    def on_eval_end(self, trainer: Trainer, losses: dict[str, Any]) -> None:
        wrong = [f"{split} loss is {float(loss)}" for split, loss in losses.items() if not math.isfinite(loss)]
        if wrong:
            raise DivergedError(
                f"evaluation: the {', the '.join(wrong)}: evaluate an earlier checkpoint, or with another dtype; a "
                "split without any target has no loss either"
            )
