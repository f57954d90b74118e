"""The duration of an evaluation and of its data loading, without that of the previous evaluation."""

import re
import time
from types import SimpleNamespace
from typing import Any

from extras.validation_timer import ValidationTimer


def test_data_loading_and_forward_are_timed_separately() -> None:
    timer, lines = ValidationTimer(), []
    trainer: Any = SimpleNamespace(logger=SimpleNamespace(log_info=lines.append))

    def slow(split: str) -> str:
        time.sleep(0.02)
        return split

    draw = timer.timed(slow)
    for _ in range(2):
        timer.on_eval_begin(trainer)
        assert [draw("train"), draw("val")] == ["train", "val"]
        time.sleep(0.03)
        timer.on_eval_end(trainer, {})

    assert len(lines) == 2
    for line in lines:
        match = re.fullmatch(r"  validation: ([0-9.]+)ms \(data: ([0-9.]+)ms, forward: ([0-9.]+)ms\)", line)
        assert match
        total, data, forward = map(float, match.groups())
        assert data >= 40 and forward >= 30 and abs(total - data - forward) < 0.02
        assert data < 80  # 80 if the first evaluation were added
