"""Progress through the unmasking stages: the next stage begins when the validation loss stops improving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.callback import Callback

if TYPE_CHECKING:
    import torch

    from core.trainer import Trainer
    from data.stages import Stage


class StageProgress(Callback):
    """Counts consecutive evaluations without a new best validation loss in the current stage.

    When the count reaches the stage's `val_loss_stale_count`, the next stage is added to the stages that training draws
    from, and the count and the best loss are reset. The last stage lasts until training ends.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = list(stages)
        self.current_stage = 0
        self.stale_count = 0
        self.best_val_loss = float("inf")  # of the current stage
        self.judged_at = -1  # a resume with reseeded random numbers repeats an evaluation: count it once

    def reached(self) -> int:
        """Return the number of stages in use."""
        return self.current_stage + 1

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        """Log the current stage and its stale count, and advance to the next stage when the count is reached."""
        if trainer.iter_num == self.judged_at:
            return
        self.judged_at = trainer.iter_num
        say, stage, loss = trainer.logger.log_info, self.stages[self.current_stage], losses["val"].item()
        say(f"Stage {self.current_stage} ({stage.describe()}): stale_count={self.stale_count}")
        if loss < self.best_val_loss:
            self.best_val_loss, self.stale_count = loss, 0
            say(f"  Stage {self.current_stage}: new best val loss {loss:.4f}")
            return
        self.stale_count += 1
        say(f"  Stage {self.current_stage}: stale count {self.stale_count}/{stage.val_loss_stale_count}")
        if self.stale_count < stage.val_loss_stale_count:
            return
        if self.reached() == len(self.stages):
            say(f"  Stage {self.current_stage}: final stage, training goes on")
            return
        self.current_stage, self.stale_count, self.best_val_loss = self.current_stage + 1, 0, float("inf")
        say(f"*** stage {self.current_stage}: {self.stages[self.current_stage].describe()} ***")
        trainer.logger.log_event({"event": "stage", "iter": trainer.iter_num, "stage": self.current_stage})

    def state_dict(self) -> dict[str, Any]:
        """Return the current stage, its stale count and its best loss."""
        names = ("current_stage", "stale_count", "best_val_loss", "judged_at")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; if there are fewer stages than before, continue with the last one."""
        self.current_stage = min(state["current_stage"], len(self.stages) - 1)
        self.stale_count, self.best_val_loss = state["stale_count"], state["best_val_loss"]
        self.judged_at = state.get("judged_at", -1)  # a converted checkpoint has no such key
