"""A few trials of the fuzz campaign, and faults that it must find."""

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.soak import fuzz
from benchmark.soak.fuzz import KINDS, Outcome, faults, run_program, trial
from benchmark.soak.inputs import checkpoints, edits
from benchmark.soak.inputs.base import TINY, Command, copy_base

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nKeyError: 1\n'


@pytest.mark.parametrize("seed", range(2 * len(KINDS)))
def test_a_bad_input_ends_with_a_message_or_is_accepted(seed: int, tmp_path: Path) -> None:
    details = trial(seed, tmp_path)

    assert details["kind"] == [*KINDS][seed % len(KINDS)] and details["changes"]


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(0, "iter 0", "", False, ()), None),
        (Outcome(2, "", "a note\nerror: no data\nmore of it\n", False, ()), None),
        (Outcome(2, "", "usage: x\npython -m tools.curve: error: no folder\n", False, ()), None),
        (Outcome(75, "", "stopped by SIGTERM\n", True, ("step", "train", "main")), None),
        (Outcome(-15, "", "", True, ("forward", "generate")), None),
        (Outcome(1, "", TRACEBACK, False, ()), "a traceback"),
        (Outcome(2, "", "error: one\nerror: two\n", False, ()), "2 error messages"),
        (Outcome(2, "", "", False, ()), "0 error messages"),
        (Outcome(0, "", "error: one\n", False, ()), "an error message with exit status 0"),
        (Outcome(-11, "", "", False, ()), "exit status -11"),
        (Outcome(-15, "", "", True, ("nearest", "configure")), "working for 7 s in nearest < configure"),
    ],
)
def test_the_ends_of_a_program_are_told_apart(outcome: Outcome, fault: str | None) -> None:
    assert next(iter(faults(outcome)), None) == fault


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda argv: print(1 / 0), "^a traceback: "),
        (lambda argv: sys.exit(7), "^exit status 7: "),
        (lambda argv: time.sleep(30), r"^working for 0\.2 s in "),
        (lambda argv: None, None),
    ],
)
def test_a_program_at_fault_is_noticed(
    work: Any, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "main_of", lambda program: work)
    monkeypatch.setattr(fuzz, "PATIENCE_S", 0.2)

    if message is None:
        assert trial(0, tmp_path)["status"] == 0
        return
    with pytest.raises(AssertionError, match=message):
        trial(0, tmp_path)


def test_a_program_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(argv: list[str]) -> None:
        while True:
            try:
                os.pread(os.pipe()[0], 1, 0)
            except OSError:
                time.sleep(0.01)

    monkeypatch.setattr(fuzz, "main_of", lambda program: hang)
    monkeypatch.setattr(fuzz, "PATIENCE_S", 60)
    monkeypatch.setattr(fuzz, "LIMIT_S", 0.3)

    with pytest.raises(AssertionError, match=r"^still running after 0\.3 s"):
        run_program(Command("train.py", [], []), tmp_path)


@pytest.mark.parametrize("out_dir", ["../outside", "/fuzz-outside"])
def test_a_program_changes_nothing_outside_of_its_folder(out_dir: str, tmp_path: Path) -> None:
    copy_base(tmp_path / "work")
    outcome = run_program(Command("train.py", [*TINY, f"--out_dir={out_dir}"], []), tmp_path / "work")

    assert outcome.status == 2 and "cannot be written to" in outcome.stderr
    assert not Path(tmp_path / "work", out_dir).exists()


def test_a_value_inside_a_checkpoint_is_changed() -> None:
    rng, seen = random.Random(0), set()
    for _ in range(300):
        content: Any = {"a": {"b": [1, 2]}, "c": "x"}
        checkpoints.change_value(rng, content)
        seen.add("remove" if len(content) < 2 else "rename" if content.keys() - {"a", "c"} else repr(content)[:8])

    assert {"remove", "rename"} < seen and len(seen) > 10


def test_every_edit_of_bytes_is_used() -> None:
    rng = random.Random(0)

    assert len({edits.damaged(rng, b"text\n" * 20)[0] for _ in range(300)}) == len(edits.BYTE_EDITS)
