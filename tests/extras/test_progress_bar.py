"""The progress bar, on a test stream and a test clock."""

import io
from types import SimpleNamespace
from typing import Any

import pytest

import core
from core.logger import Logger
from extras.progress_bar import ProgressBar

ERASE = "\r\x1b[K"


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stream(io.StringIO):
    """Records the flushed text separately."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()

    def take_flushed(self) -> str:
        """Return the text flushed since the last call."""
        text, self.flushed = self.flushed, ""
        self.seek(0)
        self.truncate()
        return text


class Terminal:
    """A progress bar with its clock and stream."""

    def __init__(self, max_iters: int) -> None:
        self.clock, self.stream = Clock(), Stream()
        self.bar = ProgressBar(self.stream, max_iters, self.clock)

    def step(self, iter_num: int, seconds: float = 1.0) -> str:
        """Report an update that takes the given seconds; return the text that is drawn."""
        self.clock.now += seconds
        self.bar.on_step_end(SimpleNamespace(iter_num=iter_num), None)
        return self.stream.take_flushed()


@pytest.mark.parametrize(
    ("max_iters", "iter_num", "expected"),
    [
        (100, 0, f"{ERASE}[{' ' * 24}]   0% "),
        (100, 50, f"{ERASE}[{'#' * 12}{' ' * 12}]  50% "),
        (100, 99, f"{ERASE}[{'#' * 24}]  99% "),
        (100, 100, f"{ERASE}[{'#' * 24}] 100% "),
        (100, 130, f"{ERASE}[{'#' * 24}] 100% "),  # a resume reduced max_iters
        (0, 0, f"{ERASE}[{' ' * 24}]   0% "),
    ],
)
def test_bar_shows_the_percentage_of_iterations(max_iters: int, iter_num: int, expected: str) -> None:
    assert Terminal(max_iters).step(iter_num) == expected


@pytest.mark.parametrize(
    ("seconds_each", "left"),
    [(1.0, "0:01:38 left"), (60.0, "1:38:00 left"), (3600.0, "98:00:00 left"), (0.5, "0:00:49 left")],
)
def test_time_left_follows_from_the_pace_so_far(seconds_each: float, left: str) -> None:
    terminal = Terminal(max_iters=100)
    terminal.step(0, seconds=500.0)  # the time of the start is excluded
    terminal.step(1, seconds=seconds_each)

    assert terminal.step(2, seconds=seconds_each) == f"{ERASE}[{' ' * 24}]   2% {left}"


def test_a_resumed_run_measures_its_own_pace() -> None:
    terminal = Terminal(max_iters=1000)
    terminal.step(900)

    assert terminal.step(902, seconds=4.0).endswith(" 90% 0:03:16 left")
    assert terminal.step(1001, seconds=4.0).endswith(" 100% 0:00:00 left")


def test_bar_is_drawn_at_most_five_times_a_second() -> None:
    terminal = Terminal(max_iters=1000)
    redrawn = [iter_num for iter_num in range(100) if terminal.step(iter_num, seconds=0.0625)]

    assert redrawn == list(range(0, 100, 4))


@pytest.mark.parametrize(
    ("method", "argument"),
    [("log_step", {"iter": 1}), ("log_eval", {"iter": 1}), ("log_info", "hello"), ("log_checkpoint", "saving")],
)
def test_bar_is_erased_before_every_line(method: str, argument: Any, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(max_iters=10)
    terminal.step(0)

    getattr(terminal.bar, method)(argument)

    assert terminal.stream.take_flushed() == ERASE
    assert capsys.readouterr() == ("", "")


def test_bar_is_erased_after_the_run() -> None:
    terminal = Terminal(max_iters=10)
    terminal.step(0)
    terminal.bar.on_train_end(None)

    assert terminal.stream.take_flushed() == ERASE


def test_bar_is_erased_before_other_loggers_print(capsys: pytest.CaptureFixture[str]) -> None:
    """The bar is the first of the loggers."""
    order: list[str] = []

    class Printing(Logger):
        def log_step(self, metrics: Any) -> None:
            order.append("line")

        log_eval = log_step

    terminal = Terminal(max_iters=10)
    terminal.stream.write = lambda text: order.append(text) or 0  # type: ignore[method-assign, func-returns-value]
    core.CompositeLogger([terminal.bar, Printing()]).log_step({"iter": 1})

    assert order == [ERASE, "line"]


def test_bar_is_erased_after_a_failed_run() -> None:
    terminal = Terminal(max_iters=10)
    terminal.step(0)
    core.CompositeLogger([terminal.bar]).close()  # train.main does this also after an error

    assert terminal.stream.take_flushed() == ERASE


def test_bar_is_not_drawn_again_after_the_terminal_was_closed() -> None:
    terminal = Terminal(max_iters=10)
    written: list[str] = []

    def write(text: str) -> int:
        written.append(text)
        raise OSError(5, "Input/output error")

    terminal.stream.write = write  # type: ignore[method-assign]
    terminal.step(0)
    terminal.step(1)

    assert len(written) == 1
