"""Schedules of loss modifiers follow the iteration of the run."""

from types import SimpleNamespace

from extras.iteration_clock import IterationClock
from loss_modifiers import EntropyPenaltyModifier, LossModifierPipeline


def test_modifiers_get_the_iteration_before_each_update() -> None:
    modifier = EntropyPenaltyModifier(1.0, start_iter=0, max_iters=10)
    pipeline = LossModifierPipeline([modifier])
    clock = IterationClock([pipeline])
    seen = []
    for iter_num in (0, 5, 6, 2):  # a recovery rolls back
        clock.on_step_begin(SimpleNamespace(iter_num=iter_num))  # type: ignore[arg-type]
        seen.append((pipeline.iter_num, modifier.get_penalty(modifier.iter_num)))

    assert seen == [(0, 0.0), (5, 0.5), (6, 0.6), (2, 0.2)]
