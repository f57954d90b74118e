"""
Test reliability in many trials: kill, stop and damage small runs, make them unstable, and check that nothing is lost.

    python -m benchmark.soak                              # all campaigns with all trials, many minutes
    python -m benchmark.soak kills preemptions --trials 5

Prints one line per campaign. Every trial adds a line to soak.jsonl; a second start with the same file continues after
the last recorded trial. The folder of a failed trial is kept, and its path is printed.
"""

import argparse
import importlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.soak.campaign import Campaign

NAMES = (
    "kills", "restarts", "damages", "preemptions", "emergencies", "injections", "false_alarms", "disk_model", "fuzz"
)  # fmt: skip
SEEDS = 100_000  # more than any campaign has trials


def run(campaign: Campaign, trials: int, seed: int, out: Path) -> bool:
    """Run the trials of a campaign that are not recorded yet, print its line, and return whether all trials passed.

    seed: of the campaign; another seed gives other trials
    out:  a file of JSON lines, one per trial; recorded trials are not repeated
    """
    started = time.monotonic()
    numbers = range(seed * SEEDS, seed * SEEDS + trials)
    recorded = {record["seed"]: record for record in _read(out) if record["campaign"] == campaign.name}
    for number in numbers:
        if number not in recorded:
            recorded[number] = _run_trial(campaign, number)
            _append(out, recorded[number])
    records = [recorded[number] for number in numbers]
    failed = [f"{record['seed']} ({record['folder']})" for record in records if not record["passed"]]
    remarks = [f"failed: {', '.join(failed)}"] if failed else []
    try:
        summary, is_sufficient = campaign.summary([record for record in records if record["passed"]]), True
    except AssertionError as error:
        summary, is_sufficient = str(error), False
    line = f"{campaign.name}: {trials - len(failed)} of {trials}, {time.monotonic() - started:.0f} s"
    print("; ".join([line, *([summary] if summary else []), *remarks]), flush=True)
    return is_sufficient and not failed


def _run_trial(campaign: Campaign, seed: int) -> dict[str, Any]:
    """Run one trial in a new folder, which is kept if the trial fails. Return the record of the trial."""
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"{campaign.name}-{seed}-"))
    record: dict[str, Any] = {"campaign": campaign.name, "seed": seed, "passed": True}
    try:
        record["details"] = campaign.trial(seed, folder)
        shutil.rmtree(folder)
    except Exception as error:
        why = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        record |= {"passed": False, "why": why, "folder": str(folder)}
    return {**record, "seconds": round(time.monotonic() - started, 2)}


def _append(out: Path, record: dict[str, Any]) -> None:
    """Append a record to a file of JSON lines, on a new line even if the last line is incomplete."""
    with open(out, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read() == b"\n" else b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def _read(out: Path) -> list[dict[str, Any]]:
    """Return the records in a file of JSON lines. Incomplete lines are skipped."""
    records = []
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaigns of the command line. Return the exit status: 1 if a campaign did not pass."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; default: all")
    parser.add_argument("--trials", type=int, help="trials of each campaign; default: those of the full campaign")
    parser.add_argument("--seed", type=int, default=0, help="every seed gives other trials")
    parser.add_argument("--out", type=Path, default=Path("soak.jsonl"), help="record of the trials, one JSON line each")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in NAMES]:
        parser.error(f"no campaign is named {', '.join(unknown)}: choose from {', '.join(NAMES)}")
    logging.getLogger("coregpt").addHandler(logging.NullHandler())  # keeps warnings of the trials off the console
    passed = True
    for name in arguments.names or NAMES:
        campaign: Campaign = importlib.import_module(f"benchmark.soak.{name}").CAMPAIGN
        passed &= run(campaign, arguments.trials or campaign.trials, arguments.seed, arguments.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
