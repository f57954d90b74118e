"""Preemption: real signals at any moment, and the time limit."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import torch

from core.errors import PreemptedError
from core.preemption import Interrupted, Preemption

NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


@pytest.fixture
def preemption() -> Iterator[Preemption]:
    with Preemption() as preemption:
        yield preemption


def send(name: str = "SIGTERM") -> None:
    os.kill(os.getpid(), getattr(signal, name))


def send_soon(name: str = "SIGTERM") -> threading.Thread:
    """Send a signal from another thread after 50 ms, while this thread works."""
    thread = threading.Timer(0.05, send, [name])
    thread.start()
    return thread


def test_nothing_is_requested_without_a_signal(preemption: Preemption) -> None:
    assert preemption.requested is None
    assert preemption.attempt(lambda: 3) == 3


@pytest.mark.parametrize(("name", "exit_status"), [("SIGTERM", 75), ("SIGINT", 130), ("SIGUSR1", 75)])
def test_a_signal_outside_a_region_is_only_recorded(
    preemption: Preemption, name: str, exit_status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(name)

    assert preemption.requested == name
    assert preemption.exit_status == exit_status
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert preemption.exit_status == 0  # torchrun restarts a process that ends with another status


def test_the_first_signal_is_logged_once_and_gives_the_reason(
    preemption: Preemption, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="coregpt"):
        for name in ("SIGTERM", "SIGTERM", "SIGUSR1", "SIGINT"):
            send(name)

    assert caplog.messages == ["SIGTERM: saving, then stopping"]
    assert (preemption.requested, preemption.exit_status) == ("SIGTERM", 75)


def test_a_log_handler_that_raises_does_not_lose_the_signal(preemption: Preemption) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("reentrant call inside a buffered writer")

    log, broken = logging.getLogger("coregpt"), Broken()
    log.addHandler(broken)
    log.setLevel(logging.INFO)
    try:
        send()
    finally:
        log.removeHandler(broken)

    assert preemption.requested == "SIGTERM"


def endless_python() -> None:
    while True:
        time.sleep(0.001)


def endless_matmul() -> None:
    x = torch.eye(64)
    while True:
        x = x @ x


@pytest.mark.parametrize("work", [endless_python, endless_matmul, lambda: time.sleep(10), threading.Event().wait])
@pytest.mark.parametrize("name", NAMES)
def test_abandonable_work_is_interrupted(preemption: Preemption, name: str, work: Callable[[], object]) -> None:
    t0 = time.monotonic()
    sender = send_soon(name)

    assert preemption.attempt(work) is None

    assert time.monotonic() - t0 < 5
    assert preemption.requested == name
    sender.join()


def test_except_exception_does_not_catch_the_interruption(preemption: Preemption) -> None:
    cleaned_up = []

    def work() -> None:
        try:
            send()
            time.sleep(10)
        except Exception:
            pytest.fail("swallowed")
        finally:
            cleaned_up.append(True)

    assert preemption.attempt(work) is None
    assert cleaned_up == [True]


def test_a_region_is_not_entered_after_a_request(preemption: Preemption) -> None:
    send()

    assert preemption.attempt(lambda: pytest.fail("was run")) is None
    with pytest.raises(Interrupted, match="SIGTERM"), preemption.abandonable():
        pytest.fail("was entered")


def test_errors_of_the_work_propagate_and_close_the_region(preemption: Preemption) -> None:
    with pytest.raises(ZeroDivisionError):
        preemption.attempt(lambda: 1 / 0)  # type: ignore[arg-type, return-value]

    send()  # raises nothing outside a region
    assert preemption.requested == "SIGTERM"


def test_inner_regions_leave_the_outer_one_open(preemption: Preemption) -> None:
    with pytest.raises(Interrupted), preemption.abandonable():
        with preemption.abandonable():
            pass
        assert preemption.attempt(lambda: 3) == 3
        send()
        time.sleep(10)

    send("SIGUSR1")  # raises nothing: all regions are closed


def test_nested_regions_are_abandoned_together(preemption: Preemption) -> None:
    after_the_inner = []

    def outer() -> None:
        preemption.attempt(send)
        after_the_inner.append(True)

    assert preemption.attempt(outer) is None
    assert after_the_inner == []


def test_a_guarded_function_works_as_before_until_there_is_a_request(preemption: Preemption) -> None:
    divide = preemption.guard(divmod)
    assert divide(7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)

    sender = send_soon()
    with pytest.raises(Interrupted):
        preemption.guard(time.sleep)(10)
    with pytest.raises(Interrupted):
        divide(7, 2)
    sender.join()


def test_only_one_interruption_is_raised(preemption: Preemption) -> None:
    """Otherwise a second signal would interrupt the cleanup after the first."""

    def work() -> None:
        try:
            send()
            time.sleep(10)
        finally:
            send("SIGUSR1")
            send("SIGTERM")

    assert preemption.attempt(work) is None


def test_no_interruption_escapes_while_a_region_is_closed() -> None:
    """Send real signals from another thread while regions open and close quickly."""
    finished = 0
    for delay_us in range(0, 300, 3):
        with Preemption() as preemption:
            sender = threading.Timer(delay_us * 1e-6, send)
            sender.start()
            while preemption.requested is None:
                finished += preemption.attempt(lambda: 1) or 0
            assert preemption.attempt(lambda: 1) is None
            sender.join()
    assert finished > 100


def signal_before_step(preemption: Preemption, number: int) -> tuple[int | None, bool]:
    """Handle a signal before step `number` of `attempt`; return its result, and whether it has that many steps."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object]:
        nonlocal steps
        frame.f_trace_opcodes = True
        if event in ("opcode", "line", "return"):
            steps += 1
            if steps == number:
                preemption._notice(signal.SIGTERM, frame)
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        # never 4: `attempt` does not call a function after a request
        result = preemption.attempt(lambda: 4 if preemption.requested else 3)
    finally:
        sys.settrace(previous)
    return result, steps >= number


def test_a_signal_at_any_step_neither_escapes_nor_leaves_a_region_open() -> None:
    """Signal before every step that the interpreter takes within `attempt`, its entry and exit included."""
    results = set()
    for number in range(1, 2000):
        with Preemption() as preemption:
            result, is_sent = signal_before_step(preemption, number)
            if not is_sent:
                break
            assert preemption.requested == "SIGTERM"
            assert preemption._region.open is False
            assert preemption.attempt(lambda: 3) is None
            results.add(result)
    assert not is_sent and number > 20
    assert results == {None, 3}


def test_second_interrupt_quits_at_once(preemption: Preemption) -> None:
    send("SIGINT")
    with pytest.raises(KeyboardInterrupt):
        send("SIGINT")


def test_second_interrupt_quits_abandonable_work_too(preemption: Preemption) -> None:
    def work() -> None:
        try:
            send("SIGINT")
            time.sleep(10)
        finally:
            send("SIGINT")

    with pytest.raises(KeyboardInterrupt):
        preemption.attempt(work)


def test_one_interrupt_after_another_signal_is_not_a_second_one(preemption: Preemption) -> None:
    send("SIGTERM")
    send("SIGINT")
    assert preemption.requested == "SIGTERM"

    with pytest.raises(KeyboardInterrupt):
        send("SIGINT")


def test_a_region_of_another_thread_does_not_interrupt_the_main_thread(preemption: Preemption) -> None:
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        leave.wait()

    thread = threading.Thread(target=preemption.attempt, args=[work])
    thread.start()
    inside.wait()
    send()  # raises nothing here
    leave.set()
    thread.join()

    assert preemption.requested == "SIGTERM"


def test_the_time_limit_is_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    preemption = Preemption(time_limit_hours=1.5)
    assert preemption.requested is None

    monkeypatch.setattr(time, "monotonic", lambda: now + 1.4 * 3600)
    assert preemption.requested is None
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.6 * 3600)
    assert preemption.requested == "the time limit of 1.5 hours"
    assert preemption.exit_status == 75
    assert preemption.attempt(lambda: pytest.fail("was run")) is None


def test_a_time_limit_lets_work_finish_but_a_signal_interrupts_it() -> None:
    def work() -> str:
        while preemption.requested is None:
            time.sleep(0.001)
        return "finished"

    preemption = Preemption(time_limit_hours=0.05 / 3600)
    assert preemption.attempt(work) == "finished"

    with Preemption(time_limit_hours=0.05 / 3600) as preemption:
        assert preemption.attempt(lambda: (work(), send(), time.sleep(10))) is None
        assert preemption.requested == "SIGTERM"


def test_previous_handlers_are_restored_even_after_an_error() -> None:
    previous = {name: signal.getsignal(getattr(signal, name)) for name in NAMES}

    with pytest.raises(ZeroDivisionError), Preemption() as preemption:
        assert all(signal.getsignal(getattr(signal, name)) == preemption._notice for name in NAMES)
        _ = 1 / 0

    assert {name: signal.getsignal(getattr(signal, name)) for name in NAMES} == previous


def test_a_closed_terminal_stops_the_run_but_not_under_nohup(no_nohup: None) -> None:
    with Preemption() as preemption:
        signal.raise_signal(signal.SIGHUP)
        assert (preemption.requested, preemption.exit_status) == ("SIGHUP", 75)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            signal.raise_signal(signal.SIGHUP)
            assert preemption.requested is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_the_default_replaces_a_handler_that_python_did_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    install = signal.signal

    def install_over_another(number: int, handler: Any) -> None:
        install(number, handler)

    monkeypatch.setattr("core.preemption.SIGNALS", ("SIGUSR1",))
    monkeypatch.setattr(signal, "signal", install_over_another)

    with Preemption():
        pass

    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_outside_the_main_thread_only_the_time_limit_works() -> None:
    previous = signal.getsignal(signal.SIGTERM)
    seen = []

    def program() -> None:
        with Preemption(time_limit_hours=0) as preemption:
            seen.append((signal.getsignal(signal.SIGTERM), preemption.requested))

    thread = threading.Thread(target=program)
    thread.start()
    thread.join()

    assert seen == [(previous, "the time limit of 0 hours")]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # from Python 3.12
def test_sigterm_ends_a_forked_child(preemption: Preemption) -> None:
    """A data loader's worker inherits the handlers, and its parent waits for its end after SIGTERM."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, b"ready")  # Python drops signals that arrive during a fork
        time.sleep(10)
        os._exit(0)
    os.read(read_end, 5)
    os.close(read_end)
    os.close(write_end)
    os.kill(child, signal.SIGTERM)

    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
    assert preemption.requested is None


def test_work_before_training_is_done_or_the_run_ends() -> None:
    done = []
    with Preemption() as preemption:
        preemption.run_before_training(lambda: done.append(1))
        with pytest.raises(PreemptedError, match="^stopped by SIGTERM before the first update$") as ended:
            preemption.run_before_training(lambda: (signal.raise_signal(signal.SIGTERM), done.append(2)))
        assert 0 < preemption.waited_s < 5
    assert done == [1] and ended.value.exit_status == 75


def test_the_time_since_a_request_begins_with_the_time_limit() -> None:
    assert Preemption().waited_s == Preemption(1.0).waited_s == 0
    limited = Preemption(1e-9)  # 4 microseconds
    time.sleep(0.01)
    assert 0 < limited.waited_s < 60
