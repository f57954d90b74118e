"""Campaign of errors: whatever ends a run in its middle, the state after its last complete update must be saved."""

import functools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

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
    wait,
    write_tiny_data,
)
from core.callback import Callback
from core.objective import LanguageModeling
from core.trainer import Trainer
from data.token_bins import TokenBins
from model import GPT
from tools.run_hash import run_hash

MOMENTS = ("on_step_begin", "on_step_end", "on_eval_begin", "on_eval_end", "on_checkpoint")
DATA, OBJECTIVE, BEFORE, AFTER, HALFWAY = (
    "data",
    "objective",
    "optimizer before",
    "optimizer after",
    "optimizer halfway",
)
PLACES = (DATA, OBJECTIVE, BEFORE, AFTER, *MOMENTS)
LIMIT_S = 60.0  # for all ranks to end: far less than the time in which a silent rank is waited for, twice
TRIALS = 200
HALFWAY_TRIALS = 20  # in addition: errors after which nothing can be saved on that rank


class UserError(Exception):
    """An error of a user's own code."""


class Plan(NamedTuple):
    """Where the error comes: on visit number `at` of a place by a rank. fused: use the fused optimizer, as on a GPU"""

    place: str = ""
    at: int = 0
    rank: int = 0
    fused: bool = False


class Failing(Callback):
    """Carries out a plan in the process of one rank. It has a state of its own, which every checkpoint keeps.

    Data source and objective get a state too, on which what they return depends.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rank = int(os.environ.get("RANK", 0))
        self.visits: Counter[str] = Counter()
        self.updates = 0  # complete ones of the run
        self.calls = {DATA: torch.tensor(0), OBJECTIVE: torch.tensor(0)}  # changed in place, as a module's buffers are

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]

    def visit(self, place: str) -> None:
        """Count a visit of a place; raise if the plan says so."""
        self.visits[place] += 1
        if (place, self.visits[place], self.rank) == (self.plan.place, self.plan.at, self.plan.rank):
            raise UserError(f"visit {self.plan.at} of {place} on rank {self.rank}")

    def on_step_end(self, trainer: Trainer, result: Any) -> None:
        self.updates += 1
        self.visit("on_step_end")

    def install(self) -> None:
        """Watch this process. To be called in the child; it cannot be undone."""
        for moment in set(MOMENTS) - {"on_step_end"}:
            setattr(self, moment, functools.partial(lambda moment, *_: self.visit(moment), moment))
        self._watch(TokenBins, "get_batch", DATA, self._changed_batch)
        self._watch(LanguageModeling, "__call__", OBJECTIVE, self._changed_loss)
        self._watch_optimizer()

    def _watch(self, owner: Any, name: str, place: str, change: Callable[[Any, int], Any]) -> None:
        """Visit a place before and after each call of a method, and make its result depend on their number, a state."""
        method = getattr(owner, name)

        def watched(part: Any, *args: Any, **kwargs: Any) -> Any:
            self.visit(place)
            result = method(part, *args, **kwargs)
            self.calls[place] += 1
            self.visit(place)
            return change(result, int(self.calls[place]))

        def load(part: Any, state: dict[str, Any]) -> None:
            self.calls[place].copy_(state["calls"])

        setattr(owner, name, watched)
        owner.state_dict = lambda part: {"calls": self.calls[place]}
        owner.load_state_dict = load

    @staticmethod
    def _changed_batch(batch: Any, calls: int) -> Any:
        return [part.flip(0) for part in batch] if calls % 2 else batch

    @staticmethod
    def _changed_loss(output: Any, calls: int) -> Any:
        return output._replace(loss=output.loss * (1 + calls % 3 / 10))

    def _watch_optimizer(self) -> None:
        if self.plan.fused:
            configure: Callable[..., Any] = GPT.configure_optimizers
            GPT.configure_optimizers = lambda *args: configure(*args[:-1], "cuda")  # type: ignore[method-assign]
        module: Any = sys.modules[torch.optim.Adam.__module__]
        step, update_group = torch.optim.AdamW.step, module.adam
        Path(f"updates-{self.rank}").write_text("0")

        def watched_step(optimizer: Any, *args: Any) -> Any:
            self.visit(BEFORE)
            result = step(optimizer, *args)
            with open(f"updates-{self.rank}", "a") as file:
                file.write("\n1")
            self.visit(AFTER)
            return result

        def watched_group(*args: Any, **kwargs: Any) -> None:
            update_group(*args, **kwargs)
            self.visit(HALFWAY)

        torch.optim.AdamW.step = watched_step  # type: ignore[assignment, method-assign]
        module.adam = watched_group  # AdamW calls it once for each group of parameters


class Baseline(NamedTuple):
    """Results of the undisturbed run: its hash, the iteration of ckpt.pt, and the visits of each rank by place."""

    run_hash: str
    linked: int
    visits: list[dict[str, int]]


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Let an error end a run, check what it has saved, resume it, and compare the end with the undisturbed run."""
    rng = random.Random(seed)
    is_halfway = seed % (TRIALS + HALFWAY_TRIALS) >= TRIALS
    place = HALFWAY if is_halfway else PLACES[seed // 2 % len(PLACES)]
    on = [rng.random() < 0.5 for _ in range(2)]
    changes: dict[str, Any] = dict(save_interval=rng.randrange(4), always_save_checkpoint=on[0], async_save=on[1])
    changes["eval_interval"] = rng.choice([2, 3, 4])
    setup = Setup(tuple(tiny_argv(**changes)), 1 + seed % 2)
    fused = rng.random() < 0.3 and not is_halfway
    visits = [rank.get(place, 0) for rank in baseline(setup, fused).visits]
    rank = rng.choice([rank for rank, count in enumerate(visits) if count])
    at = rng.randint(1, visits[rank])
    if is_halfway:
        at -= 1 - at % 2  # after the first of two groups
    if place == AFTER:
        at = max(at, 3)  # the first two updates of a process cannot be compared with one before
    plan = Plan(place, at, rank, fused)
    write_tiny_data(folder)
    started = time.monotonic()
    statuses = wait(begin(setup, folder, plan), LIMIT_S)
    seconds = time.monotonic() - started
    assert any(statuses), f"the error of {plan} ended nothing"
    updates = [len((folder / f"updates-{number}").read_text().splitlines()) - 1 for number in range(setup.world_size)]
    saved = check_saved(folder, plan, updates[0])
    with expect_resume(folder):
        statuses = wait(begin(Setup((*setup.argv, "--init_from=auto"), setup.world_size), folder, Plan(fused=fused)))
    assert not any(statuses), f"the resumed run ended with {statuses}: {stderr_tail(folder)}"
    expected = baseline(setup, fused)
    same = run_hash(folder / OUT) == expected.run_hash
    assert same, f"resumed from iteration {saved}, another end than the undisturbed run: {plan}, {setup}"
    linked = linked_iteration(folder)
    assert linked == expected.linked, f"ckpt.pt is of {linked}, wanted {expected.linked}: {plan}, {setup}"
    return {**plan._asdict(), "world_size": setup.world_size, "saved": saved, "seconds": round(seconds, 2)}


def begin(setup: Setup, folder: Path, plan: Plan) -> list[int]:
    """Start the processes of a run, and return their pids. Each rank writes its visits to visits-RANK.json."""

    def work() -> None:
        failing = Failing(plan)
        failing.install()
        train(setup.argv, [StartRecorder(), failing])
        Path(f"visits-{failing.rank}.json").write_text(json.dumps(failing.visits))

    return start_run(work, setup.world_size, folder)


def check_saved(folder: Path, plan: Plan, updates: int) -> int:
    """Check that the updates which rank 0 has completed are saved, and that the output says so. Return their number."""
    saved, output = saved_iteration(folder), stderr_tail(folder, 400)
    if plan.place == HALFWAY and plan.rank == 0:
        assert updates == 0 or "the weights may be half changed, and are not saved" in output, f"{plan}: {output}"
        return saved
    assert saved == updates, f"{updates} updates were complete, {saved} are saved, {plan}: {output}"
    says = f"an error ends the run: saved at iteration {saved}; to go on: "
    assert updates == 0 or output.count(says) == 1, f"{plan}: {output}"
    assert "gloo" not in output, f"{plan} shows the error of a collective: {output}"
    assert f"UserError: visit {plan.at} of {plan.place}" in output, f"{plan} does not show its own error: {output}"
    return saved


@functools.cache
def baseline(setup: Setup, fused: bool) -> Baseline:
    """Return the results of the undisturbed run, which is made once for every setup."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_data(folder)
        run_undisturbed(folder, lambda: begin(setup, folder, Plan(fused=fused)))
        visits = [json.loads((folder / f"visits-{rank}.json").read_text()) for rank in range(setup.world_size)]
        return Baseline(run_hash(folder / OUT), linked_iteration(folder), visits)


def linked_iteration(folder: Path) -> int:
    """Return the iteration of ckpt.pt."""
    return int(torch.load(folder / OUT / "ckpt.pt", weights_only=True)["iter_num"])


def summary(records: list[dict[str, Any]]) -> str:
    """Return the number of errors by place. Raises AssertionError if a full campaign misses a place."""
    details = [record["details"] for record in records]
    places = Counter((detail["place"], detail["world_size"]) for detail in details)
    missing = [(place, size) for place in PLACES for size in (1, 2) if not places[place, size]]
    assert len(records) < TRIALS or not missing, f"never tried: {missing}"
    names = {place: f"{places[place, 1]} + {places[place, 2]} {place}" for place in (*PLACES, HALFWAY)}
    text = ", ".join(name for place, name in names.items() if places[place, 1] or places[place, 2])
    return f"errors with one process + two: {text}; {sum(detail['fused'] for detail in details)} fused"


CAMPAIGN = Campaign("emergencies", TRIALS + HALFWAY_TRIALS, trial, summary)
