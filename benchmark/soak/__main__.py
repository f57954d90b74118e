"""
Try over and over what reliability promises: kill, stop, damage and upset small runs, and see that nothing is lost.

    python -m benchmark.soak                              # all campaigns in full, many minutes
    python -m benchmark.soak kills preemptions --trials 5

Prints one line per campaign. Every trial adds a line to soak.jsonl; a second start with the same file goes on where the
first one ended. The folder of a trial that failed is kept, and named.
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

NAMES = ("kills", "damages", "preemptions", "injections", "false_alarms", "disk_model")
SEEDS = 100_000  # more than any campaign has trials


def run(campaign: Campaign, trials: int, seed: int, out: Path) -> bool:
    """Make what is missing of a campaign, print its line, and return whether all of it passed.

    seed: of the campaign; another one gives other trials
    out:  a file of JSON lines, one per trial; those that are there are not made again
    """
    started = time.monotonic()
    numbers = range(seed * SEEDS, seed * SEEDS + trials)
    known = {record["seed"]: record for record in _read(out) if record["campaign"] == campaign.name}
    for number in numbers:
        if number not in known:
            known[number] = _try(campaign, number)
            _append(out, known[number])
    records = [known[number] for number in numbers]
    failed = [f"{record['seed']} ({record['folder']})" for record in records if not record["passed"]]
    remarks = [f"failed: {', '.join(failed)}"] if failed else []
    try:
        summary, sound = campaign.summary([record for record in records if record["passed"]]), True
    except AssertionError as error:
        summary, sound = str(error), False
    line = f"{campaign.name}: {trials - len(failed)} of {trials}, {time.monotonic() - started:.0f} s"
    print("; ".join([line, *([summary] if summary else []), *remarks]), flush=True)
    return sound and not failed


def _try(campaign: Campaign, seed: int) -> dict[str, Any]:
    """Make one trial in a folder of its own, which stays if it fails; return its record."""
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
    """Add a record to a file of JSON lines, on a line of its own even if the last one was cut short."""
    with open(out, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read() == b"\n" else b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def _read(out: Path) -> list[dict[str, Any]]:
    """Return the records in a file of JSON lines; the last one may have been cut short."""
    records = []
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaigns that the command line names. Return the exit status: 1 when a trial failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all of them by default")
    parser.add_argument("--trials", type=int, help="of each campaign; by default as many as it has")
    parser.add_argument("--seed", type=int, default=0, help="other trials for every seed")
    parser.add_argument("--out", type=Path, default=Path("soak.jsonl"), help="a JSON line per trial")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in NAMES]:
        parser.error(f"no campaign is named {', '.join(unknown)}: choose from {', '.join(NAMES)}")
    logging.getLogger("coregpt").addHandler(logging.NullHandler())  # what is noticed in a trial is not for the console
    passed = True
    for name in arguments.names or NAMES:
        campaign: Campaign = importlib.import_module(f"benchmark.soak.{name}").CAMPAIGN
        passed &= run(campaign, arguments.trials or campaign.trials, arguments.seed, arguments.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
