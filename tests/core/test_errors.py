"""Errors: their base classes, and the message and exit status of a program."""

import io
import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from core import errors
from core.errors import (
    CheckpointError,
    ConfigError,
    CoreGPTError,
    DataError,
    DivergedError,
    PreemptedError,
    SaveError,
    WarnOnce,
    exit_on_error,
    print_and_exit,
)


@pytest.mark.parametrize(
    ("error", "builtin", "exit_status"),
    [
        (ConfigError, ValueError, 2),
        (DataError, ValueError, 2),
        (CheckpointError, RuntimeError, 2),
        (DivergedError, RuntimeError, 3),
        (SaveError, OSError, 4),
    ],
)
def test_error_ends_the_program_with_its_message_and_status(
    error: type[CoreGPTError], builtin: type[Exception], exit_status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert issubclass(error, CoreGPTError) and issubclass(error, builtin)

    with pytest.raises(SystemExit) as end, exit_on_error():
        raise error("learning_rate=-1, wanted 0 or more")

    assert end.value.code == exit_status
    assert capsys.readouterr() == ("", "error: learning_rate=-1, wanted 0 or more\n")


@pytest.mark.parametrize(("given", "status"), [((), 75), ((130,), 130), ((0,), 0)])
def test_stopping_early_on_request_is_no_error(
    given: tuple[int, ...], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, exit_on_error():
        raise PreemptedError("stopped by SIGTERM after iteration 7, all saved", *given)

    assert end.value.code == status
    assert capsys.readouterr() == ("", "stopped by SIGTERM after iteration 7, all saved\n")


@contextmanager
def abandoned_stdout(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """Replace stdout by a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch, os.fdopen(writer, "w") as stream:
        patch.setattr(sys, "stdout", stream)
        yield stream


@pytest.mark.parametrize("flush", [True, False])
def test_a_program_whose_output_nobody_reads_ends_quietly(monkeypatch: pytest.MonkeyPatch, flush: bool) -> None:
    with abandoned_stdout(monkeypatch) as stdout:
        with exit_on_error():
            print("text", flush=flush)
        stdout.write("more")
        stdout.flush()  # goes to nothing, as at the end of Python


def test_another_broken_pipe_is_an_error() -> None:
    with pytest.raises(BrokenPipeError), exit_on_error():
        raise BrokenPipeError


def test_a_program_can_outlive_its_stdout(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    written = 0
    with abandoned_stdout(monkeypatch) as stdout:
        with exit_on_error(outlives_stdout=True):
            for _ in range(3):
                print("text", flush=True)
                written += 1
        assert sys.stdout is stdout

    assert written == 3
    assert caplog.messages == ["nobody reads stdout any more: the run goes on without it"]


def test_without_stderr_notes_do_not_go_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with exit_on_error():
        print("note", file=sys.stderr)
        assert not sys.stderr.isatty()
        sys.stderr.close()

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("outlives", [True, False])
def test_what_is_printed_in_place_of_a_run_ends_quietly_if_nobody_reads_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, outlives: bool
) -> None:
    with abandoned_stdout(monkeypatch), pytest.raises(SystemExit) as end, exit_on_error(outlives_stdout=outlives):
        print_and_exit("text")

    assert end.value.code == 0
    assert caplog.messages == []


def test_what_is_printed_in_place_of_a_run_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, exit_on_error(outlives_stdout=True):
        print_and_exit("text")

    assert end.value.code == 0
    assert capsys.readouterr() == ("text\n", "")


def test_characters_that_stdout_cannot_encode_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    with exit_on_error():
        print("caf\u00e9 \udce9", flush=True)

    assert written.getvalue() == b"caf? ?\n"


@pytest.mark.parametrize("outlives", [True, False])
def test_a_program_needs_no_stdout(monkeypatch: pytest.MonkeyPatch, outlives: bool) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with exit_on_error(outlives_stdout=outlives):
        print("text")


@pytest.mark.parametrize(
    ("rank", "at_once", "waits"),
    [("0", None, False), ("1", None, True), ("0", False, True), ("1", True, False)],
)
def test_under_torchrun_the_other_ranks_wait_before_they_print(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    at_once: bool | None,
    waits: bool,
) -> None:
    """If rank 0 fails as well, torchrun ends the others while they wait; a failure of one rank alone is printed.

    at_once: what an error in training says, by which rank came first
    """
    printed: list[str] = []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(time, "sleep", lambda seconds: printed.append(capsys.readouterr().err))
    error = ConfigError("learning_rate=-1, wanted 0 or more")
    error.is_printed_at_once = at_once
    with pytest.raises(SystemExit), exit_on_error():
        raise error

    assert printed == ([""] if waits else [])
    assert capsys.readouterr().err == "error: learning_rate=-1, wanted 0 or more\n"


@pytest.mark.parametrize(("rank", "prints"), [("0", True), ("", True), ("-1", True), ("2", False)])
def test_an_early_stop_is_reported_by_rank_0_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, prints: bool
) -> None:
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit), exit_on_error():
        raise PreemptedError("stopped by SIGTERM")

    assert (capsys.readouterr().err != "") is prints


@pytest.mark.parametrize("error", [SaveError("no space left, for out"), PreemptedError("stopped", 130)])
def test_message_and_status_survive_pickling(error: CoreGPTError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), copy.exit_status) == (type(error), str(error), error.exit_status)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError])
def test_other_errors_keep_their_traceback(error: type[BaseException]) -> None:
    with pytest.raises(error, match="a mistake in the program"), exit_on_error():
        raise error("a mistake in the program")


def test_without_an_error_nothing_happens(capsys: pytest.CaptureFixture[str]) -> None:
    with exit_on_error():
        pass

    assert capsys.readouterr() == ("", "")


def test_ctrl_c_ends_with_a_line_and_not_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, exit_on_error():
        raise KeyboardInterrupt

    assert stopped.value.code == 130
    assert capsys.readouterr().err.startswith("stopped by Ctrl-C; --init_from=resume")


def test_a_warning_is_logged_once_per_cause(caplog: pytest.LogCaptureFixture) -> None:
    warn_once = WarnOnce()
    with caplog.at_level(logging.WARNING, "coregpt"):
        warn_once("2 files are missing", "missing files")
        warn_once("3 files are missing", "missing files")
        warn_once("the disk is full")
        warn_once("the disk is full")
        WarnOnce()("the disk is full")

    assert [record.getMessage() for record in caplog.records] == [
        "2 files are missing", "the disk is full", "the disk is full",
    ]  # fmt: skip
    assert {(record.name, record.levelname) for record in caplog.records} == {("coregpt", "WARNING")}


@pytest.mark.parametrize("program", ["train.py", "sample.py"])
def test_a_missing_package_is_one_message_with_the_command(program: str, tmp_path: Path) -> None:
    """Python without site packages has no torch."""
    root = Path(errors.__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-S", root / program], capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"error: {sys.executable} has no package torch, numpy, pydantic, yaml: run `{sys.executable} -m pip install "
        f"-e {root}`\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_behind_the_help_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as end, exit_on_error(outlives_stdout=True):
            print_and_exit("text")
        stream.flush()

    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: stdout cannot be written (No space left on device): give it another place\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_behind_stdout_does_not_stop_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with exit_on_error(outlives_stdout=True):
            print("text", flush=True)
            print("text", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is left in the buffer can be written here
    assert caplog.messages == ["stdout cannot be written, the run goes on (No space left on device)"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("buffering", [1, -1], ids=["in the middle", "at the end"])
def test_a_program_whose_stdout_is_full_ends_with_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], buffering: int
) -> None:
    with open("/dev/full", "w", buffering=buffering) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended, exit_on_error():
            print("text")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: stdout cannot be written (No space left on device): give it another place\n"
    )


def test_a_full_disk_elsewhere_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="No space left"), exit_on_error():
        raise OSError(28, "No space left on device")
