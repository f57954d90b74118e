"""Campaign of restarts: torchrun restarts the ranks after one was killed, and the run must end undisturbed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmark.soak import kills
from benchmark.soak.campaign import LAUNCHER, Campaign, Setup, saved_iteration, stderr_tail, tiny_argv, write_tiny_data
from benchmark.soak.killed_rank import ANY_TIME, START, STARTS, Kill, kill_file, pid_file

ROOT = Path(__file__).resolve().parents[2]
WORLD_SIZE, MAX_RESTARTS = 2, 3
# a launch takes 10 s, and each restart as much; a rank that waits in the middle of a connection is killed after 30 s
LIMIT_S = 240.0
SECONDS = {START: 4.0, ANY_TIME: 8.0}  # in which a rank starts, and in which it ends, on an idle machine of 2 cores
VISITS = {"joining": 6, "step": 42, "evaluation": 24}  # of an undisturbed rank
PLACES = (START, "joining", "step", "evaluation", "saving", ANY_TIME)
TRIALS = 30


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Launch a run whose ranks are killed one to three times, and compare its end with that of the undisturbed run."""
    rng = random.Random(seed)
    on = [rng.random() < 0.5 for _ in range(2)]
    changes = dict(save_interval=rng.randrange(4), always_save_checkpoint=on[0], async_save=on[1])
    setup = Setup(tuple(tiny_argv(init_from=rng.choice(["scratch", "auto"]), **changes)), WORLD_SIZE)
    started = time.monotonic()
    wanted = rng.choice([1, 1, 2, 3])
    places = [PLACES[seed % len(PLACES)], *rng.choices(PLACES, k=wanted - 1)]
    while True:
        write_tiny_data(folder)
        plan = [make_kill(setup, rng, place, wanted) for place in places]
        launch(setup, folder, plan)
        if made := check_launch(setup, folder, plan):
            return {**changes, "kills": made, "seconds": round(time.monotonic() - started, 1)}
        shutil.rmtree(folder)  # the run had finished before its first kill: start again
        folder.mkdir()


def make_kill(setup: Setup, rng: random.Random, place: str, wanted: int) -> Kill:
    """Return a kill at a random visit of a place, or a random time. wanted: number of kills that share the run"""
    rank = 0 if place == "saving" else rng.randrange(WORLD_SIZE)
    if place in SECONDS:
        return Kill(place, rank, seconds=rng.random() * SECONDS[place])
    visits = kills.baseline(setup).instants if place == "saving" else VISITS[place]
    return Kill(place, rank, at=rng.randint(1, visits if place == "joining" else max(1, visits // wanted)))


def launch(setup: Setup, folder: Path, plan: list[Kill]) -> None:
    """Run torchrun in a folder, and kill ranks as planned. Raises AssertionError unless it ends with 0, in time."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={WORLD_SIZE}"]
    command += [f"--max-restarts={MAX_RESTARTS}", "-m", "benchmark.soak.killed_rank", json.dumps(plan), *setup.argv]
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(folder / "stdout.txt", "ab") as stdout, open(folder / "stderr.txt", "ab") as stderr:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stdout, stderr=stderr)
    deadline = time.monotonic() + LIMIT_S
    due: dict[int, float] = {}  # by start of the ranks: when its rank is to be killed
    try:
        while process.poll() is None:
            assert time.monotonic() < deadline, f"torchrun was still running after {LIMIT_S:g} s: {stderr_tail(folder)}"
            for start, kill in enumerate(plan):
                if kill.place in SECONDS and (folder / pid_file(start, kill.rank)).exists():
                    due.setdefault(start, time.monotonic() + kill.seconds)
                    if time.monotonic() >= due[start] and not (folder / kill_file(start)).exists():
                        kill_rank(folder, start, kill.rank)
            time.sleep(0.01)
    finally:
        left = processes_in(folder)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    assert not left, f"{len(left)} processes were left: {stderr_tail(folder)}"
    assert process.returncode == 0, f"torchrun ended with {process.returncode}: {stderr_tail(folder, 30)}"


def kill_rank(folder: Path, start: int, rank: int) -> None:
    """Kill a rank, if it has not ended."""
    pid = int((folder / pid_file(start, rank)).read_text())
    if pid in processes_in(folder):
        (folder / kill_file(start)).touch()
        os.kill(pid, signal.SIGKILL)


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose current folder this is."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(folder.resolve()):
                found.append(int(entry.name))
        except OSError:
            continue  # the process has ended, or belongs to somebody else
    return found


def check_launch(setup: Setup, folder: Path, plan: list[Kill]) -> list[dict[str, Any]]:
    """Check the end of a run that was launched, and return the kills that made torchrun restart its ranks."""
    starts = [json.loads(line) for line in (folder / STARTS).read_text().splitlines()]
    for start in starts:
        assert start["iter_num"] == start["saved"], (
            f"a start went on from iteration {start['iter_num']}, though {start['saved']} was saved"
        )
    restarts = len(list(folder.glob("pid-*-0"))) - 1
    made = [kill for number, kill in enumerate(plan) if (folder / kill_file(number)).exists()]
    assert restarts <= len(made), f"{restarts} restarts after {len(made)} kills: {stderr_tail(folder, 30)}"
    kills.check_end(setup, folder, saved=saved_iteration(folder) > starts[-1]["saved"])
    return [{name: value for name, value in kill._asdict().items() if value} for kill in made[:restarts]]


def summary(records: list[dict[str, Any]]) -> str:
    """Return the number of kills by place. Raises AssertionError if a full campaign misses a place."""
    made = Counter(kill["place"] for record in records for kill in record["details"]["kills"])
    text = ", ".join(f"{made[place]} {place}" for place in PLACES)
    assert len(records) < TRIALS or all(made[place] for place in PLACES), f"a place was never hit: {text}"
    return f"kills: {text}"


CAMPAIGN = Campaign("restarts", TRIALS, trial, summary)
