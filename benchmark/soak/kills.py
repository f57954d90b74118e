"""Campaign of SIGKILL: runs are killed at random instants, often inside a save, and must end as undisturbed runs do."""

import functools
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmark.soak.campaign import (
    OUT,
    Campaign,
    Setup,
    StartRecorder,
    expect_resume,
    newest_manifest,
    run_undisturbed,
    saved_iteration,
    start_run,
    stderr_tail,
    tiny_argv,
    train,
    wait,
    write_tiny_data,
)
from benchmark.soak.save_watch import SaveWatch
from tools.run_hash import run_hash

GRACE_S = 3.0  # after one rank was killed; while the group forms, the others would wait for that rank much longer
MAX_KEPT = 2 + 1 + 1  # keep_last, keep_best, and the checkpoint linked to ckpt.pt
UPDATES = 14
MIN_INSIDE = 1 / 4  # minimum number of kills inside a save per trial: 50 in 200


class Baseline(NamedTuple):
    """Results of the undisturbed run."""

    run_hash: str
    seconds: float  # of wall clock
    instants: int  # at which the run can be killed inside a save
    linked: int  # iteration of the final ckpt.pt


class Kill(NamedTuple):
    """A kill that ended a process."""

    how: str
    inside: bool  # a save
    left_over: int  # other ranks that had to be killed


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Kill a run one to three times, let it finish, and compare it with the undisturbed run."""
    rng = random.Random(seed)
    on = [rng.random() < 0.5 for _ in range(2)]
    changes = dict(save_interval=rng.randrange(4), always_save_checkpoint=on[0], async_save=on[1])
    setup = Setup(tuple(tiny_argv(init_from="auto", **changes)), 2 if rng.random() < 0.25 else 1)
    write_tiny_data(folder)
    wanted = rng.randint(1, 3)
    kills: list[Kill] = []
    while len(kills) < wanted:
        in_save = rng.random() < 0.3 if kills else seed % 2 == 0 or rng.random() < 0.3
        with expect_resume(folder):
            kill = start_and_kill(setup, folder, rng, in_save=in_save)
        if kill is not None:
            kills.append(kill)
        elif kills:
            break  # the run had finished
        else:
            shutil.rmtree(folder / OUT, ignore_errors=True)
    newest = newest_manifest(folder)
    with expect_resume(folder):
        statuses = wait(begin(setup, folder, SaveWatch()))
    assert not any(statuses), f"the last start ended with {statuses}: {stderr_tail(folder)}"
    check_end(setup, folder, saved=newest_manifest(folder) != newest)
    return {"world_size": setup.world_size, **changes, "kills": [kill._asdict() for kill in kills]}


def start_and_kill(setup: Setup, folder: Path, rng: random.Random, *, in_save: bool) -> Kill | None:
    """Start the run and kill one of its processes. Return None if the run finished before.

    in_save: kill rank 0 at a random instant of a save; else kill a random rank at a random time
    """
    written_share = rng.random()  # of a temporary file, if the kill hits while it is written
    left = 1 - saved_iteration(folder) / (UPDATES + 1)  # share of the run, approximately
    instants = max(1, round(left * baseline(setup).instants))
    at = rng.randint(1, instants) if in_save else 0

    def kill_at_instant(number: int, where: str, path: Path | None) -> None:
        if number == at:
            os.write(2, f"soak: killed at instant {number} of saving, {where}\n".encode())
            if path is not None:
                os.truncate(path, int(written_share * path.stat().st_size))
            os.kill(os.getpid(), signal.SIGKILL)

    watch = SaveWatch(kill_at_instant)
    pids = begin(setup, folder, watch)
    rank = rng.randrange(setup.world_size)
    seconds = rng.random() * left * baseline(setup).seconds
    if not in_save:
        time.sleep(seconds)
        os.kill(pids[rank], signal.SIGKILL)
    statuses = wait(pids, grace_s=GRACE_S)
    how = f"instant {at} of {instants} of saving" if in_save else f"rank {rank} after {seconds:.3f} s"
    killed = 0 if in_save else rank
    if statuses[killed] != -signal.SIGKILL:
        assert not any(statuses), f"ended with {statuses} before it was killed: {stderr_tail(folder)}"
        return None
    others = [status for number, status in enumerate(statuses) if number != killed]
    return Kill(how, watch.inside and killed == 0, others.count(-signal.SIGKILL))


def begin(setup: Setup, folder: Path, watch: SaveWatch) -> list[int]:
    """Start the processes of the run, with their saves watched. Return their pids."""

    def work() -> None:
        watch.install()
        train(setup.argv, [StartRecorder()])

    return start_run(work, setup.world_size, folder)


@functools.cache
def baseline(setup: Setup) -> Baseline:
    """Return the results of the undisturbed run. The run is made once for every setup."""
    with tempfile.TemporaryDirectory() as name:
        folder, watch = Path(name), SaveWatch()
        write_tiny_data(folder)
        seconds = run_undisturbed(folder, lambda: begin(setup, folder, watch))
        return Baseline(run_hash(folder / OUT), seconds, watch.instants, linked_iteration(folder))


# checks


def check_end(setup: Setup, folder: Path, *, saved: bool) -> None:
    """Check that the run ended in the state of the undisturbed run, and that no other files are left.

    saved: the last start has saved a checkpoint, and so removed files of killed saves
    """
    out = folder / OUT
    expected = baseline(setup)
    assert run_hash(out) == expected.run_hash, "the run ended in another state than the undisturbed run"
    linked = linked_iteration(folder)
    assert linked == expected.linked, f"ckpt.pt is of iteration {linked}, wanted {expected.linked}"
    names = {path.name for path in out.glob("ckpt-*")}
    manifests = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    parts = sorted(path.name for path in out.glob("*.part"))
    finished = [name for name in parts if name.split(".")[0] in manifests]
    assert not finished, f"temporary files of finished checkpoints: {finished}"
    assert {f"{name}.pt" for name in manifests} <= names, f"manifests without their checkpoints: {sorted(names)}"
    assert len(manifests) <= MAX_KEPT + (not saved), f"more checkpoints kept than wanted: {sorted(manifests)}"
    strays = {name for name in names if name.split(".")[0] not in manifests}
    assert not (saved and (strays or parts)), f"left behind: {sorted(strays)} {parts}"


def linked_iteration(folder: Path) -> int:
    """Return the iteration of ckpt.pt, which nanoGPT's scripts read."""
    return int(torch.load(folder / OUT / "ckpt.pt", weights_only=True)["iter_num"])


def summary(records: list[dict[str, Any]]) -> str:
    """Return how many kills fell inside a save. Raises AssertionError if they are too few."""
    kills = [kill for record in records for kill in record["details"]["kills"]]
    inside = sum(kill["inside"] for kill in kills)
    assert inside >= MIN_INSIDE * len(records), f"only {inside} of {len(kills)} kills fell inside a save"
    return f"{inside} of {len(kills)} kills inside a save"


CAMPAIGN = Campaign("kills", 200, trial, summary)
