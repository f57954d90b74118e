"""Terminals: one that is closed while a run writes to it, and one on which a user chats with a model."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import train
from core import CheckpointManager

ROOT = Path(__file__).parents[2]
CTRL_C, CTRL_U, UP = b"\x03", b"\x15", b"\x1b[A"


def test_a_run_whose_terminal_is_closed_saves_and_stops(run_dir: Path, tiny_argv: list[str], no_nohup: None) -> None:
    """Writing to such a terminal fails, too."""
    terminal, end = pty.openpty()
    argv = [*tiny_argv, "--max_iters=1000000", "--eval_interval=1000000", "--log_interval=1"]
    run = subprocess.Popen([sys.executable, ROOT / "train.py", *argv], stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    shown = b""
    while b"iter 20:" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    time.sleep(0.2)  # lines are lost in the meantime
    os.killpg(run.pid, signal.SIGHUP)  # what a terminal sends to the processes that it has started

    assert run.wait(timeout=60) == 75
    manifest = CheckpointManager("out").load().manifest
    assert manifest is not None and manifest["iter_num"] > 20


class Terminal:
    """The terminal of a program, as the user in front of it has it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.unread = b""

    def press(self, keys: bytes) -> None:
        os.write(self.descriptor, keys)

    def wait_for(self, words: bytes) -> bytes:
        """Return what is shown up to these words."""
        while words not in self.unread:
            assert select.select([self.descriptor], [], [], 60)[0], self.unread
            self.unread += os.read(self.descriptor, 4096)
        shown, _, self.unread = self.unread.partition(words)
        return shown

    def rest(self) -> bytes:
        """Return what is shown until the program ends."""
        with contextlib.suppress(OSError):  # how the end is reported on Linux
            while chunk := os.read(self.descriptor, 4096):
                self.unread += chunk
        return self.unread


def test_a_user_chats_with_a_model_and_stops_replies(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--max_iters=2"])
    argv = ["--device=cpu", "--interactive=True", "--max_new_tokens=1000000"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forking with threads
        process, descriptor = pty.fork()
    if process == 0:
        environment = {**os.environ, "XDG_STATE_HOME": str(run_dir), "TERM": "dumb"}
        os.execve(sys.executable, [sys.executable, str(ROOT / "sample.py"), *argv], environment)
    terminal = Terminal(descriptor)
    assert b"/help" in terminal.wait_for(b"\n> ")
    for line in (b"abc", b"def"):
        terminal.press(line + b"\n")
        terminal.wait_for(line + b"\r\n")
        terminal.wait_for(b"a")  # the reply is being written
        terminal.press(CTRL_C)
        terminal.wait_for(b"\n> ")
    terminal.press(b"half a line")
    terminal.wait_for(b"half a line")
    time.sleep(0.5)  # Python notices Ctrl-C when it waits for the next key, not while it shows the last one
    terminal.press(CTRL_C)
    terminal.wait_for(b"\n> ")
    terminal.press(UP + UP)
    terminal.wait_for(b"abc")
    terminal.press(CTRL_U + b"/help\n")
    terminal.wait_for(b"/reset")
    terminal.wait_for(b"\n> ")
    time.sleep(0.5)
    terminal.press(CTRL_C)

    assert b"Traceback" not in terminal.rest()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert Path("coregpt/history").read_text().splitlines() == ["abc", "def", "/help"]
