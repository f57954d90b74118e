"""The comparison with transformers' Trainer: both train the same shape, and time every step."""

from pathlib import Path

import pytest

from benchmark import trainer


@pytest.mark.parametrize("name", list(trainer.RUNS))
def test_each_run_has_a_time_for_every_step(name: str, tmp_path: Path) -> None:
    shape = (1, 1, 8, 16, 2, 300)
    trainer.make_inputs(tmp_path, shape, rows=20)
    times = trainer.RUNS[name](tmp_path, shape, 13)

    assert len(times) in (13, 14) and times == sorted(times)  # max_iters + 1 updates here
    assert trainer.step_ms(times) > 0
