"""Campaign of preemptions: a run that gets SIGTERM at any place must stop in time, with all its updates saved."""

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
    Campaign,
    Setup,
    StartRecorder,
    expect_resume,
    run_undisturbed,
    saved_iteration,
    start_run,
    stderr_tail,
    tiny_argv,
    train,
    undisturbed_hash,
    wait,
    write_tiny_data,
)
from benchmark.soak.signal_sender import PLACES, SIGNALS, Counters, Plan, SignalSender
from core.errors import INTERRUPTED, TRY_AGAIN
from tools.run_hash import run_hash

LIMIT_S = 20.0  # for a run to stop; a step and a save take a tenth of a second
UPDATES = 14
ANY_TIME, TIME_LIMIT = "any time", "time limit"  # places in addition to PLACES
FIRST = [signal.SIGTERM] * 10 + [signal.SIGUSR1, signal.SIGINT, None]  # first signal of a trial; None: the time limit
WANTED = 100  # stops by SIGTERM
TRIALS = WANTED // 10 * len(FIRST)
NEVER = Plan(signal.SIGTERM)


class Baseline(NamedTuple):
    """Results of the undisturbed run."""

    run_hash: str
    seconds: float  # of wall clock
    visits: list[dict[str, int]]  # of each rank, by place


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Stop a run once or twice, let it finish, and compare it with the undisturbed run."""
    rng = random.Random(seed)
    on = [rng.random() < 0.5 for _ in range(2)]
    changes: dict[str, Any] = dict(save_interval=rng.randrange(4), always_save_checkpoint=on[0], async_save=on[1])
    # with the higher learning rate the loss does not fall, and evaluations save nothing
    changes |= {"eval_interval": rng.choice([1, 2, 4]), "learning_rate": rng.choice([1e-2, 0.3])}
    setup = Setup(tuple(tiny_argv(init_from="auto", **changes)), 2 if rng.random() < 0.2 else 1)
    write_tiny_data(folder)
    number = FIRST[seed % len(FIRST)]
    place = [*PLACES, ANY_TIME][seed % 6] if number else TIME_LIMIT
    stops: list[dict[str, Any]] = []
    for _ in range(rng.choice([1, 1, 2])):
        while (stop := preempt(setup, folder, rng, place, number)) is None and not stops:
            shutil.rmtree(folder / OUT)  # the run finished before it was stopped: start again
        if stop is None:
            break
        stops.append(stop)
        number = number and rng.choice([signal.SIGTERM] * 4 + [signal.SIGUSR1, signal.SIGINT])
    with expect_resume(folder):
        statuses = wait(begin(setup, folder, NEVER, counters_for(setup)))
    assert not any(statuses), f"the last start ended with {statuses}: {stderr_tail(folder)}"
    assert run_hash(folder / OUT) == baseline(setup).run_hash, "the run ended in another state than the undisturbed run"
    return {"world_size": setup.world_size, **changes, "stops": stops}


def preempt(setup: Setup, folder: Path, rng: random.Random, place: str, number: int | None) -> dict[str, Any] | None:
    """Start the run, request a stop, and check the end of the run. Return None if the run finished before.

    number: of the signal; None stops the run by its time limit
    """
    left = 1 - saved_iteration(folder) / (UPDATES + 1)  # share of the run, approximately
    seconds = rng.random() * left * baseline(setup).seconds
    plan = make_plan(setup, rng, place, number, left) if number else NEVER
    counters = counters_for(setup)
    limit = [] if number else [f"--time_limit={seconds / 3600:.9f}"]
    for rank in counters:
        rank["iter_num"] = saved_iteration(folder)  # of a run that is stopped before it trains
    started = time.monotonic()
    with expect_resume(folder):
        pids = begin(Setup((*setup.argv, *limit), setup.world_size), folder, plan, counters)
        if place == ANY_TIME:
            time.sleep(seconds)
            for pid in pids if plan.to_all_ranks else [pids[plan.rank]]:
                os.kill(pid, plan.number)
        statuses = wait(pids, LIMIT_S)
    requested = [rank["noticed_at"] >= 0 for rank in counters]
    if number is None:
        requested = [status != 0 for status in statuses]  # the time limit may have passed on one rank only
    if not any(requested):
        assert not any(statuses), f"ended with {statuses} before it was asked to stop: {stderr_tail(folder)}"
        return None
    check_end(folder, counters, statuses, requested, INTERRUPTED if plan.number == signal.SIGINT else TRY_AGAIN)
    how = f"{place} {plan.at}" if plan.place else f"after {seconds:.3f} s"
    name = signal.Signals(number).name if number else "clock"
    return {"signal": name, "place": place, "how": how, "rank": "all" if plan.to_all_ranks else plan.rank,
            "statuses": statuses, "iter_num": counters[0]["iter_num"],
            "seconds": round(time.monotonic() - started, 2)}  # fmt: skip


def make_plan(setup: Setup, rng: random.Random, place: str, number: int, left: float) -> Plan:
    """Return a plan that sends a signal on a random visit of a random rank to the place.

    left: share of the run that is not saved yet
    """
    visits = [rank.get(place, 1) for rank in baseline(setup).visits]
    rank = rng.choice([rank for rank, count in enumerate(visits) if count])
    at = rng.randint(1, max(1, round(left * visits[rank])))
    return Plan(number, place if place in PLACES else "", at, rank, rng.random() < 0.5)


def begin(setup: Setup, folder: Path, plan: Plan, counters: list[Counters]) -> list[int]:
    """Start the processes of the run and return their pids. Signals are blocked until the processes handle them."""

    def work() -> None:
        sender = SignalSender(plan, counters)
        sender.install()
        train(setup.argv, [StartRecorder(), sender])

    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return start_run(work, setup.world_size, folder)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def counters_for(setup: Setup) -> list[Counters]:
    """Return new counters for every rank."""
    return [Counters() for _ in range(setup.world_size)]


@functools.cache
def baseline(setup: Setup) -> Baseline:
    """Return the results of the undisturbed run, its hash without sampling. The run is made once for every setup."""
    with tempfile.TemporaryDirectory() as name:
        folder, counters = Path(name), counters_for(setup)
        write_tiny_data(folder)
        seconds = run_undisturbed(folder, lambda: begin(setup, folder, NEVER, counters))
        visits = [{place: rank[place] for place in PLACES} for rank in counters]
        return Baseline(undisturbed_hash(setup.argv, setup.world_size), seconds, visits)


def check_end(folder: Path, counters: list[Counters], statuses: list[int], requested: list[bool], status: int) -> None:
    """Check that all ranks stopped after the same update, soon after the request, and that this update is saved.

    requested: by rank, whether a stop was requested
    status:    expected from a rank whose stop was requested before the run had finished
    """
    is_finished = counters[0]["iter_num"] == UPDATES
    # a rank that another rank stops ends with TRY_AGAIN; a rank of a finished run may end with 0
    others = {status, TRY_AGAIN, *([0] if is_finished else [])}
    allowed = [{status} if own and not is_finished else others for own in requested]
    fits = all(own in those for own, those in zip(statuses, allowed, strict=True))
    fits = fits and (is_finished or status in statuses)
    assert fits, f"ended with {statuses}, wanted {allowed}: {stderr_tail(folder)}"
    counts = [rank["iter_num"] for rank in counters]
    assert len(set(counts)) == 1, f"the ranks stopped after {counts} updates"
    saved = saved_iteration(folder)
    assert saved == counts[0], f"stopped after {counts[0]} updates, with {saved} saved"
    late = [rank["begun"] - rank["noticed_at"] for rank in counters if rank["noticed_at"] >= 0]
    assert max(late, default=0) <= 1, f"{late} updates were begun after the request to stop, wanted at most 1"


def summary(records: list[dict[str, Any]]) -> str:
    """Return the number of stops by signal and place. Raises AssertionError if a full campaign has too few stops."""
    stops = Counter((stop["signal"], stop["place"]) for record in records for stop in record["details"]["stops"])
    signals: Counter[str] = Counter()
    for (name, _), count in stops.items():
        signals[name] += count
    text = "; ".join(
        f"{count} {name}: " + ", ".join(f"{hits} {place}" for (by, place), hits in sorted(stops.items()) if by == name)
        for name, count in signals.most_common()
    )
    if len(records) >= TRIALS:
        missing = [place for place in (*PLACES, ANY_TIME) if not stops["SIGTERM", place]]
        assert not missing, f"no SIGTERM in: {', '.join(missing)} ({text})"
        assert signals["SIGTERM"] >= WANTED, f"only {signals['SIGTERM']} SIGTERM, wanted {WANTED} ({text})"
        assert signals["clock"], f"no stop by the time limit ({text})"
    return text


CAMPAIGN = Campaign("preemptions", TRIALS, trial, summary)
