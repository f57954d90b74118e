"""Preempt: SIGTERM in a step, an evaluation, a sample, a wait for data, a save: the run ends cleanly, with all kept."""

import functools
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.soak.campaign import (
    OUT,
    Beginning,
    Campaign,
    Setup,
    goes_on,
    last_words,
    saved_iteration,
    start,
    start_ranks,
    tiny_argv,
    train,
    undisturbed_hash,
    wait,
    write_tiny_data,
)
from benchmark.soak.signal_sender import PLACES, SIGNALS, Notes, Plan, SignalSender
from core.errors import INTERRUPTED, TRY_AGAIN
from tools.run_hash import run_hash

LIMIT_S = 20.0  # within which a run ends that was asked to; a step and a save take a tenth of a second
UPDATES = 14
ANY_TIME, TIME_LIMIT = "any time", "time limit"  # beside PLACES
FIRST = [signal.SIGTERM] * 10 + [signal.SIGUSR1, signal.SIGINT, None]  # what the trials begin with; None: the clock
WANTED = 100  # SIGTERM
TRIALS = WANTED // 10 * len(FIRST)
NEVER = Plan(signal.SIGTERM)


class Baseline(NamedTuple):
    """What the undisturbed run comes to."""

    run_hash: str
    seconds: float  # of wall clock
    passages: list[dict[str, int]]  # by rank and place, how often it comes by


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Ask a run to stop, once or twice, let it go on and end, and compare."""
    draw = random.Random(seed)
    on = [draw.random() < 0.5 for _ in range(2)]
    changes: dict[str, Any] = dict(save_interval=draw.randrange(4), always_save_checkpoint=on[0], async_save=on[1])
    # with the higher learning rate evaluations find no lower loss, and lead to no save
    changes |= {"eval_interval": draw.choice([1, 2, 4]), "learning_rate": draw.choice([1e-2, 0.3])}
    setup = Setup(tuple(tiny_argv(init_from="auto", **changes)), 2 if draw.random() < 0.2 else 1)
    write_tiny_data(folder)
    number = FIRST[seed % len(FIRST)]
    place = [*PLACES, ANY_TIME][seed % 6] if number else TIME_LIMIT
    stops: list[dict[str, Any]] = []
    for _ in range(draw.choice([1, 1, 2])):
        while (stop := preempt(setup, folder, draw, place, number)) is None and not stops:
            shutil.rmtree(folder / OUT)  # it had ended before: once more from the beginning
        if stop is None:
            break
        stops.append(stop)
        number = number and draw.choice([signal.SIGTERM] * 4 + [signal.SIGUSR1, signal.SIGINT])
    with goes_on(folder):
        ends = wait(begin(setup, folder, NEVER, notes_for(setup)))
    assert not any(ends), f"the last start ended with {ends}: {last_words(folder)}"
    assert run_hash(folder / OUT) == baseline(setup).run_hash, "the run came to another end than the undisturbed one"
    return {"world_size": setup.world_size, **changes, "stops": stops}


def preempt(setup: Setup, folder: Path, draw: random.Random, place: str, number: int | None) -> dict[str, Any] | None:
    """Start the run, ask it to stop, and check how it ends; None where it had ended before it was asked.

    number: of the signal; None where the clock stops it
    """
    left = 1 - saved_iteration(folder) / (UPDATES + 1)  # of the run, about
    seconds = draw.random() * left * baseline(setup).seconds
    plan = make_plan(setup, draw, place, number, left) if number else NEVER
    notes = notes_for(setup)
    limit = [] if number else [f"--time_limit={seconds / 3600:.9f}"]
    started = time.monotonic()
    with goes_on(folder):
        pids = begin(Setup((*setup.argv, *limit), setup.world_size), folder, plan, notes)
        if place == ANY_TIME:
            time.sleep(seconds)
            for pid in pids if plan.everyone else [pids[plan.rank]]:
                os.kill(pid, plan.number)
        ends = wait(pids, LIMIT_S)
    asked = [rank["noticed_at"] >= 0 for rank in notes]
    if number is None:
        asked = [end != 0 for end in ends]  # the limit may have passed on the rank that stops them all, and on no other
    if not any(asked):
        assert not any(ends), f"ended with {ends} before it was asked to stop: {last_words(folder)}"
        return None
    check_end(folder, notes, ends, asked, INTERRUPTED if plan.number == signal.SIGINT else TRY_AGAIN)
    how = f"{place} {plan.at}" if plan.place else f"after {seconds:.3f} s"
    who = "all" if plan.everyone else plan.rank
    name = signal.Signals(number).name if number else "clock"
    return {"signal": name, "place": place, "how": how, "rank": who, "ends": ends,
            "iter_num": notes[0]["iter_num"], "seconds": round(time.monotonic() - started, 2)}  # fmt: skip


def make_plan(setup: Setup, draw: random.Random, place: str, number: int, left: float) -> Plan:
    """Choose a rank that comes by the place, and the time it does.

    left: share of the run that is still to be made
    """
    passages = [rank.get(place, 1) for rank in baseline(setup).passages]
    rank = draw.choice([rank for rank, times in enumerate(passages) if times])
    at = draw.randint(1, max(1, round(left * passages[rank])))
    return Plan(number, place if place in PLACES else "", at, rank, draw.random() < 0.5)


def begin(setup: Setup, folder: Path, plan: Plan, notes: list[Notes]) -> list[int]:
    """Start the run's processes, with signals held back until they are ready for them; return their numbers."""

    def work() -> None:
        sender = SignalSender(plan, notes)
        sender.install()
        train(setup.argv, [Beginning(), sender])

    outside = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return start_ranks(work, setup.world_size, folder) if setup.world_size > 1 else [start(work, folder)]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, outside)


def notes_for(setup: Setup) -> list[Notes]:
    """Return empty notes of every rank."""
    return [Notes() for _ in range(setup.world_size)]


@functools.cache
def baseline(setup: Setup) -> Baseline:
    """Return what the undisturbed run comes to; made once for every setup. The hash is of a run without samples."""
    with tempfile.TemporaryDirectory() as name:
        folder, notes = Path(name), notes_for(setup)
        write_tiny_data(folder)
        started = time.monotonic()
        ends = wait(begin(setup, folder, NEVER, notes))
        seconds = time.monotonic() - started
        assert not any(ends), f"an undisturbed run ended with {ends}: {last_words(folder)}"
        passages = [{place: rank[place] for place in PLACES} for rank in notes]
        return Baseline(undisturbed_hash(setup.argv, setup.world_size), seconds, passages)


def check_end(folder: Path, notes: list[Notes], ends: list[int], asked: list[bool], status: int) -> None:
    """See that the run has ended soon after it was asked to, with all of it saved, on all ranks alike.

    asked:  by rank, whether it was
    status: with which a rank ends that was asked to stop before the run was over
    """
    over = notes[0]["iter_num"] == UPDATES
    # a rank that was not asked itself, and one that was asked when the run was over, end as they learn of it
    allowed = [{status} if one and not over else {status, TRY_AGAIN, *([0] if over else [])} for one in asked]
    fits = all(end in those for end, those in zip(ends, allowed, strict=True)) and (over or status in ends)
    assert fits, f"ended with {ends}, wanted {allowed}: {last_words(folder)}"
    counts = [rank["iter_num"] for rank in notes]
    assert len(set(counts)) == 1, f"the ranks stopped after {counts} updates"
    saved = saved_iteration(folder)
    assert saved == counts[0], f"stopped after {counts[0]} updates, with {saved} saved"
    late = [rank["begun"] - rank["noticed_at"] for rank in notes if rank["noticed_at"] >= 0]
    assert max(late, default=0) <= 1, f"{late} updates were begun after it was asked to stop, wanted 1 at most"


def summary(records: list[dict[str, Any]]) -> str:
    """Count the stops by signal and place. Raises AssertionError when a full campaign has too few to prove anything."""
    stops = Counter((stop["signal"], stop["place"]) for record in records for stop in record["details"]["stops"])
    signals: Counter[str] = Counter()
    for (name, _), count in stops.items():
        signals[name] += count
    said = "; ".join(
        f"{count} {name}: " + ", ".join(f"{hits} {place}" for (by, place), hits in sorted(stops.items()) if by == name)
        for name, count in signals.most_common()
    )
    if len(records) >= TRIALS:
        never = [place for place in (*PLACES, ANY_TIME) if not stops["SIGTERM", place]]
        assert not never, f"no SIGTERM came in: {', '.join(never)} ({said})"
        assert signals["SIGTERM"] >= WANTED, f"only {signals['SIGTERM']} SIGTERM, wanted {WANTED} ({said})"
        assert signals["clock"], f"the clock stopped nothing ({said})"
    return said


CAMPAIGN = Campaign("preemptions", TRIALS, trial, summary)
