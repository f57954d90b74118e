"""
Campaign of bad inputs: whatever a user brings, a program ends by itself, without a traceback, and says what is wrong.

Every trial copies a folder with data and finished runs, changes a command line, a config file, a data set or a
checkpoint at random, and runs a program on it. The program may accept the input. If it refuses, it must print one error
message and end with a documented exit status.
"""

import faulthandler
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmark.soak.campaign import Campaign, start
from benchmark.soak.inputs import checkpoints, command_lines, configs, data_files
from benchmark.soak.inputs.base import Command, copy_base, main_of
from core.errors import INTERRUPTED, TRY_AGAIN, DivergedError, SaveError

KINDS = {
    "command_lines": command_lines.make,
    "configs": configs.make,
    "data_files": data_files.make,
    "checkpoints": checkpoints.make,
}
LIMIT_S = 10.0
PATIENCE_S = 7.0  # a program that is still training or sampling then is asked to stop, as a user would
# functions that may take long by request: training, sampling, waiting for data, and filling a queue
BUSY = {"train", "evaluate", "generate", "fill_masks", "score_texts", "states", "wait", "draw_samples", "run"}
STACK = "stack.txt"
MEMORY_BYTES = 12 * 2**30
REFUSED = 2
DOCUMENTED = (0, REFUSED, DivergedError.exit_status, SaveError.exit_status, TRY_AGAIN, INTERRUPTED)
ERROR = re.compile(r"^(?:[^\n:]+: )?error: ", re.MULTILINE)  # of argparse, with the program's name
OFFLINE = {  # downloads fail at once
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    **{"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"},
}


class Outcome(NamedTuple):
    """How a program ended.

    asked: whether it was asked to stop, after PATIENCE_S
    stack: the functions that were running then, the innermost first; empty unless it was asked
    """

    status: int
    stdout: str
    stderr: str
    asked: bool
    stack: tuple[str, ...]


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Run a program on one bad input, and check how it ends."""
    rng = random.Random(seed)
    kind = [*KINDS][seed % len(KINDS)]
    work = folder / "work"
    copy_base(work)
    command = KINDS[kind](rng, work)
    started = time.monotonic()
    outcome = run_program(command, work)
    details = {"kind": kind, "program": command.program, "changes": command.changes, "status": outcome.status}
    described = f"{command.program} {command.argv!a:.1500} ({', '.join(command.changes)}) {outcome.status}"
    for fault in faults(outcome):
        raise AssertionError(f"{fault}: {described}\n{outcome.stderr[-3000:]}")
    shown = [word if len(word) < 100 else f"{word[:100]}..." for word in command.argv]
    seconds = round(time.monotonic() - started, 2)
    return {**details, "seconds": seconds, "argv": ascii(shown), "stderr": ascii(outcome.stderr[-1500:])}


def faults(outcome: Outcome) -> list[str]:
    """Return what is wrong with the way in which a program ended."""
    found = []
    if "Traceback (most recent call last)" in outcome.stderr + outcome.stdout:
        found.append("a traceback")
    if outcome.asked and not BUSY & set(outcome.stack):
        found.append(f"working for {PATIENCE_S:g} s in {' < '.join(outcome.stack[:6])}")
    if outcome.status not in DOCUMENTED and not (outcome.asked and outcome.status == -signal.SIGTERM):
        found.append(f"exit status {outcome.status}")
    messages = len(ERROR.findall(outcome.stderr))
    if outcome.status == REFUSED and messages != 1:
        found.append(f"{messages} error messages")
    if outcome.status == 0 and messages:
        found.append("an error message with exit status 0")
    return found


def run_program(command: Command, folder: Path) -> Outcome:
    """Run a program in a forked process in a folder, and wait for its end. Raises AssertionError after LIMIT_S."""

    def work() -> None:
        _prepare_process(folder)
        main = main_of(command.program)
        _confine(folder)
        main(command.argv)

    status, asked = _wait(start(work, folder, OFFLINE))
    stdout, stderr = ((folder / f"{name}.txt").read_text("utf-8", "replace") for name in ("stdout", "stderr"))
    stack = re.findall(r"line \d+ in (\S+)", (folder / STACK).read_text(errors="replace")) if asked else []
    own = stack[: stack.index(work.__name__)] if work.__name__ in stack else stack  # without the campaign's functions
    return Outcome(status, stdout, stderr, asked, tuple(own))


def _wait(pid: int) -> tuple[int, bool]:
    """Return the exit status of a process, or minus its signal, and whether it was asked to stop."""
    started, asked = time.monotonic(), False
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), asked
        seconds = time.monotonic() - started
        if seconds > LIMIT_S:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"still running after {LIMIT_S:g} s, {LIMIT_S - PATIENCE_S:g} s after SIGTERM")
        if seconds > PATIENCE_S and not asked:
            os.kill(pid, signal.SIGUSR2)  # writes the stack
            time.sleep(0.2)
            os.kill(pid, signal.SIGTERM)
            asked = True
        time.sleep(0.002)


def _prepare_process(folder: Path) -> None:
    """Make the end of a program quick and its place known."""
    stack = open(folder / STACK, "w")  # noqa: SIM115 (closed with the process)
    faulthandler.register(signal.SIGUSR2, file=stack)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    torch._dynamo.config.disable = True  # compiling takes longer than a trial
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # the folder is thrown away
    sys.dont_write_bytecode = True
    tempfile.tempdir = str(folder)


def _confine(folder: Path) -> None:
    """Refuse what would change files outside of a folder, start a program, or connect to the network."""
    root = f"{folder.resolve()}/"

    def check(path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.abspath(os.fsdecode(path))
            if not f"{place}/".startswith((root, "/dev/null/")):
                raise PermissionError(13, "Permission denied", os.fsdecode(path))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                check(arguments[0])
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.rename", "os.link"):
            check(arguments[0])
            check(arguments[1] if event in ("os.rename", "os.link") else arguments[0])
        elif event == "os.symlink":
            check(arguments[1])
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
            raise PermissionError(13, "Permission denied")
        elif event in ("socket.connect", "socket.getaddrinfo"):
            raise ConnectionRefusedError(111, "Connection refused")

    sys.addaudithook(hook)


def summary(records: list[dict[str, Any]]) -> str:
    """Return how many inputs of each kind were refused and accepted, and the longest time."""
    details = [record["details"] for record in records]
    parts = []
    for kind in KINDS:
        statuses = [found["status"] for found in details if found["kind"] == kind]
        parts.append(f"{kind} {statuses.count(REFUSED)} refused, {statuses.count(0)} accepted of {len(statuses)}")
    longest = max((found["seconds"] for found in details), default=0.0)
    return f"{', '.join(parts)}; longest {longest:.1f} s"


CAMPAIGN = Campaign("fuzz", 2000, trial, summary)
