"""When the next stage begins: after enough evaluations in a row without a new best loss in the current stage."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.stages import RandomStage, SpanStage, StickyStage
from extras.stage_progress import StageProgress

STAGES = [RandomStage(0.5, 2), StickyStage(0.4, 0.15, 0.3, 3), SpanStage(5, 1)]


class Trainer(SimpleNamespace):
    """The attributes of a trainer that the callback uses; records the logged lines and events."""

    def __init__(self, evaluations: int = 0) -> None:
        super().__init__(iter_num=10 * evaluations, lines=[], events=[])
        self.logger = SimpleNamespace(log_info=self.lines.append, log_event=self.events.append)

    def evaluate(self, progress: StageProgress, *losses: float) -> list[int]:
        """Report validation losses to the callback; return the current stage after each."""
        stages = []
        for loss in losses:
            progress.on_eval_end(self, {"train": torch.tensor(9.0), "val": torch.tensor(loss)})  # type: ignore[arg-type]
            stages.append(progress.current_stage)
            self.iter_num += 10
        return stages


def test_a_stage_ends_after_its_count_of_evaluations_without_a_new_best() -> None:
    progress = StageProgress(STAGES)

    assert Trainer().evaluate(progress, 3.0, 2.0, 2.5, 2.0) == [0, 0, 0, 1]  # an equal loss is no new best
    assert (progress.reached(), progress.stale_count, progress.best_val_loss) == (2, 0, float("inf"))


def test_a_new_best_resets_the_count() -> None:
    progress = StageProgress(STAGES)

    assert Trainer().evaluate(progress, 3.0, 3.5, 2.0, 2.5, 1.0, 1.5, 1.5) == [0, 0, 0, 0, 0, 0, 1]


def test_the_next_stage_has_its_own_best() -> None:
    progress = StageProgress(STAGES)

    stages = Trainer().evaluate(progress, 1.0, 1.5, 1.5, 4.0, 3.0, 3.5, 3.5, 3.5)

    assert stages == [0, 0, 1, 1, 1, 1, 1, 2]  # 4.0 and 3.0 are new bests in stage 1, although stage 0 reached 1.0


def test_the_last_stage_lasts_until_the_end_and_keeps_counting() -> None:
    progress, trainer = StageProgress(STAGES[-1:] * 2), Trainer()

    assert trainer.evaluate(progress, 1.0, 2.0, 1.0, 2.0, 2.0, 2.0) == [0, 1, 1, 1, 1, 1]
    assert (progress.reached(), progress.stale_count) == (2, 3)
    assert trainer.lines[-1] == "  Stage 1: final stage, training goes on"
    assert trainer.evaluate(progress, 0.5) == [1] and progress.stale_count == 0


def test_a_nan_loss_is_not_a_new_best() -> None:
    progress = StageProgress(STAGES)

    assert Trainer().evaluate(progress, float("nan"), float("nan")) == [0, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_a_count_of_zero_or_one_ends_the_stage_at_once(count: int) -> None:
    progress = StageProgress([RandomStage(0.5, count), *STAGES])

    assert Trainer().evaluate(progress, 2.0, 2.0) == [0, 1]


def test_evaluations_and_new_stages_are_logged() -> None:
    progress, trainer = StageProgress(STAGES), Trainer()

    trainer.evaluate(progress, 3.0, 3.5, 3.5)

    assert trainer.lines == [
        "Stage 0 (random, up to 0.50): stale_count=0",
        "  Stage 0: new best val loss 3.0000",
        "Stage 0 (random, up to 0.50): stale_count=0",
        "  Stage 0: stale count 1/2",
        "Stage 0 (random, up to 0.50): stale_count=1",
        "  Stage 0: stale count 2/2",
        "*** stage 1: sticky, target 0.40, p1 0.15, p2 0.30 ***",
    ]
    assert trainer.events == [{"event": "stage", "iter": 20, "stage": 1}]


@pytest.mark.parametrize("evaluations", range(9))
def test_a_reload_continues_as_if_uninterrupted(evaluations: int) -> None:
    losses = [3.0, 3.5, 3.5, 4.0, 3.0, 3.5, 3.5, 3.5, 1.0]
    uninterrupted, first, second = (StageProgress(STAGES) for _ in range(3))
    expected = Trainer().evaluate(uninterrupted, *losses)

    begun = Trainer().evaluate(first, *losses[:evaluations])
    second.load_state_dict(first.state_dict())
    rest = Trainer(evaluations).evaluate(second, *losses[evaluations:])

    assert begun + rest == expected
    assert second.state_dict() == uninterrupted.state_dict()


def test_a_repeated_evaluation_counts_once() -> None:
    """A resume with reseeded random numbers repeats the evaluation."""
    progress = StageProgress(STAGES)
    Trainer().evaluate(progress, 3.0, 3.5)

    assert Trainer(1).evaluate(progress, 3.5) == [0]
    assert progress.stale_count == 1


def test_a_reload_into_fewer_stages_stays_within_them() -> None:
    progress = StageProgress(STAGES[:2])

    progress.load_state_dict({"current_stage": 2, "stale_count": 1, "best_val_loss": 1.5})

    assert progress.reached() == 2


def test_the_initial_state_has_plain_values() -> None:
    state: dict[str, Any] = StageProgress(STAGES).state_dict()

    assert state == {"current_stage": 0, "stale_count": 0, "best_val_loss": float("inf"), "judged_at": -1}
