"""Kill: SIGKILL at any instant, a few times, many of them inside a save; the end is that of an undisturbed run."""

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
    Beginning,
    Campaign,
    Setup,
    goes_on,
    last_words,
    newest_manifest,
    saved_iteration,
    start,
    start_ranks,
    tiny_argv,
    train,
    wait,
    write_tiny_data,
)
from benchmark.soak.save_watch import SaveWatch
from tools.run_hash import run_hash

GRACE_S = 3.0  # for the ranks that are left when one was killed; at the start they wait for it, much longer
KEPT = 2 + 1 + 1  # keep_last, keep_best, and the one that is ckpt.pt
UPDATES = 14
SHARE_INSIDE = 1 / 4  # at least so many kills inside a save per trial: 50 in 200


class Baseline(NamedTuple):
    """What the undisturbed run comes to."""

    run_hash: str
    seconds: float  # of wall clock
    instants: int  # at which it could be hit inside a save
    linked: int  # iteration of what is ckpt.pt in the end


class Kill(NamedTuple):
    """A blow that struck."""

    how: str
    inside: bool  # a save
    left_over: int  # ranks that did not end by themselves


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Kill a run once to three times, let it end, and compare."""
    draw = random.Random(seed)
    on = [draw.random() < 0.5 for _ in range(2)]
    changes = dict(save_interval=draw.randrange(4), always_save_checkpoint=on[0], async_save=on[1])
    setup = Setup(tuple(tiny_argv(init_from="auto", **changes)), 2 if draw.random() < 0.25 else 1)
    write_tiny_data(folder)
    wanted = draw.randint(1, 3)
    kills: list[Kill] = []
    while len(kills) < wanted:
        in_save = draw.random() < 0.3 if kills else seed % 2 == 0 or draw.random() < 0.3
        with goes_on(folder):
            kill = strike(setup, folder, draw, in_save=in_save)
        if kill is not None:
            kills.append(kill)
        elif kills:
            break  # it had ended before
        else:
            shutil.rmtree(folder / OUT, ignore_errors=True)
    newest = newest_manifest(folder)
    with goes_on(folder):
        ends = wait(begin(setup, folder, SaveWatch()))
    assert not any(ends), f"the last start ended with {ends}: {last_words(folder)}"
    check_end(setup, folder, saved=newest_manifest(folder) != newest)
    return {"world_size": setup.world_size, **changes, "kills": [kill._asdict() for kill in kills]}


def strike(setup: Setup, folder: Path, draw: random.Random, *, in_save: bool) -> Kill | None:
    """Start the run and kill one of its processes; None where it had ended before.

    in_save: at a random instant of a save; else at a random time, and if there are several, any of the processes
    """
    share = draw.random()  # of a file that is being written
    left = 1 - saved_iteration(folder) / (UPDATES + 1)  # of the run, about
    instants = max(1, round(left * baseline(setup).instants))
    at = draw.randint(1, instants) if in_save else 0

    def blow(number: int, where: str, path: Path | None) -> None:
        if number == at:
            os.write(2, f"soak: killed at instant {number} of saving, {where}\n".encode())
            if path is not None:
                os.truncate(path, int(share * path.stat().st_size))
            os.kill(os.getpid(), signal.SIGKILL)

    watch = SaveWatch(blow)
    pids = begin(setup, folder, watch)
    victim = draw.randrange(setup.world_size)
    seconds = draw.random() * left * baseline(setup).seconds
    if not in_save:
        time.sleep(seconds)
        os.kill(pids[victim], signal.SIGKILL)
    ends = wait(pids, grace_s=GRACE_S)
    struck = 0 if in_save else victim
    if ends[struck] != -signal.SIGKILL:
        assert not any(ends), f"ended with {ends} before it was killed: {last_words(folder)}"
        return None
    how = f"instant {at} of {instants} of saving" if in_save else f"rank {victim} after {seconds:.3f} s"
    others = [end for rank, end in enumerate(ends) if rank != struck]
    return Kill(how, watch.inside and struck == 0, others.count(-signal.SIGKILL))


def begin(setup: Setup, folder: Path, watch: SaveWatch) -> list[int]:
    """Start the run's processes, watched; return their numbers."""

    def work() -> None:
        watch.install()
        train(setup.argv, [Beginning()])

    return start_ranks(work, setup.world_size, folder) if setup.world_size > 1 else [start(work, folder)]


@functools.cache
def baseline(setup: Setup) -> Baseline:
    """Return what the undisturbed run comes to; made once for every setup."""
    with tempfile.TemporaryDirectory() as name:
        folder, watch = Path(name), SaveWatch()
        write_tiny_data(folder)
        started = time.monotonic()
        ends = wait(begin(setup, folder, watch))
        seconds = time.monotonic() - started
        assert not any(ends), f"an undisturbed run ended with {ends}: {last_words(folder)}"
        return Baseline(run_hash(folder / OUT), seconds, watch.instants, linked_iteration(folder))


# what must hold


def check_end(setup: Setup, folder: Path, *, saved: bool) -> None:
    """See that the run has come to what the undisturbed one comes to, and left nothing else on disk.

    saved: the last start has saved, and tidied up with it, what those before it left
    """
    out = folder / OUT
    expected = baseline(setup)
    assert run_hash(out) == expected.run_hash, "the run came to another end than the undisturbed one"
    linked = linked_iteration(folder)
    assert linked == expected.linked, f"ckpt.pt is of iteration {linked}, wanted {expected.linked}"
    names = {path.name for path in out.glob("ckpt-*")}
    manifests = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    parts = sorted(path.name for path in out.glob("*.part"))
    assert not [name for name in parts if name.split(".")[0] in manifests], f"unfinished beside finished ones: {parts}"
    assert {f"{name}.pt" for name in manifests} <= names, f"manifests without their checkpoints: {sorted(names)}"
    assert len(manifests) <= KEPT + (not saved), f"more kept than asked for: {sorted(manifests)}"
    strays = {name for name in names if name.split(".")[0] not in manifests}
    assert not (saved and (strays or parts)), f"left behind: {sorted(strays)} {parts}"


def linked_iteration(folder: Path) -> int:
    """Return the iteration of what nanoGPT's scripts would read."""
    return int(torch.load(folder / OUT / "ckpt.pt", weights_only=True)["iter_num"])


def summary(records: list[dict[str, Any]]) -> str:
    """Say how many kills fell inside a save. Raises AssertionError when they are too few to prove anything."""
    kills = [kill for record in records for kill in record["details"]["kills"]]
    inside = sum(kill["inside"] for kill in kills)
    assert inside >= SHARE_INSIDE * len(records), f"only {inside} of {len(kills)} kills fell inside a save"
    return f"{inside} of {len(kills)} kills inside a save"


CAMPAIGN = Campaign("kills", 200, trial, summary)
