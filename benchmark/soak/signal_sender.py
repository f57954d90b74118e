"""Sends a signal at a chosen place inside a training process, and counts the updates before and after the signal."""

import mmap
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmark.soak.save_watch import SaveWatch
from core.callback import Callback
from core.preemption import Preemption
from core.trainer import Trainer
from core.training_step import StepResult, TrainingStep
from data.token_bins import TokenBins

PLACES = ("step", "evaluation", "sampling", "data", "saving")
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
SAMPLE_TOKENS = 4
SAMPLE_EVERY = 3  # iterations, and after every evaluation
FOREVER_S = 600.0


class Plan(NamedTuple):
    """Which signal is sent, and where.

    number:       of the signal
    place:        one of PLACES; empty if the signal is sent from outside the process
    at:           on which visit of the place, from 1
    rank:         whose visits are counted
    to_all_ranks: send the signal to all ranks, not only to this one
    """

    number: int
    place: str = ""
    at: int = 0
    rank: int = 0
    to_all_ranks: bool = False


class Counters:
    """Integers that one rank shares with the process that started it, by name.

    a place:    visits of the rank
    pid:        of the rank; 0 while it does not handle signals
    begun:      updates begun since the start of the process
    noticed_at: value of `begun` when the signal was noticed; -1 if it was not
    iter_num:   updates that the run has finished
    """

    NAMES = (*PLACES, "pid", "begun", "noticed_at", "iter_num")

    def __init__(self) -> None:
        self._numbers = np.frombuffer(mmap.mmap(-1, 8 * len(self.NAMES)), dtype=np.int64)
        self["noticed_at"] = -1

    def __getitem__(self, name: str) -> int:
        return int(self._numbers[self.NAMES.index(name)])

    def __setitem__(self, name: str, number: int) -> None:
        self._numbers[self.NAMES.index(name)] = number


class SignalSender(Callback):
    """Carries out a plan in the process of one rank, and samples from the model regularly.

    Signals are blocked except while the program handles them.
    """

    def __init__(self, plan: Plan, counters: Sequence[Counters]) -> None:
        self.plan = plan
        self.all_counters = counters
        self.rank = int(os.environ.get("RANK", 0))
        self.counters = counters[self.rank]
        self.sampling = False

    def install(self) -> None:
        """Watch this process. To be called in the child, with SIGNALS blocked; it cannot be undone."""
        SaveWatch(self.on_save).install()
        self._watch_preemption()
        self._watch_steps()
        self._watch_data()

    def visit(self, place: str) -> None:
        """Count a visit of a place, and send the signal if the plan says so."""
        if self._is_planned(place):
            self.send()

    def send(self) -> None:
        """Send the signal to this rank, and before that to all others if the plan says so."""
        others = [counters["pid"] for counters in self.all_counters if counters is not self.counters]
        for pid in [*(others if self.plan.to_all_ranks else []), self.counters["pid"]]:
            if pid:
                os.kill(pid, self.plan.number)

    def _is_planned(self, place: str) -> bool:
        """Count a visit of a place, and return whether the plan sends the signal on this visit."""
        self.counters[place] += 1
        return (place, self.counters[place], self.rank) == (self.plan.place, self.plan.at, self.plan.rank)

    # visits

    def on_train_begin(self, trainer: Trainer) -> None:
        self.counters["iter_num"] = trainer.iter_num

        def visit_forward(*_: Any) -> None:
            phase = "step" if trainer.raw_model.training else "evaluation"
            self.visit("sampling" if self.sampling else phase)

        trainer.raw_model.register_forward_pre_hook(visit_forward)

    def on_step_begin(self, trainer: Trainer) -> None:
        self.visit("step")

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        self.visit("step")
        if trainer.iter_num % SAMPLE_EVERY == 0:
            self.sample(trainer)

    def on_eval_begin(self, trainer: Trainer) -> None:
        self.visit("evaluation")

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        self.visit("evaluation")
        self.sample(trainer)

    def on_save(self, number: int, where: str, path: Path | None) -> None:
        """Visit `saving`, in the thread that saves."""
        self.visit("saving")

    def sample(self, trainer: Trainer) -> None:
        """Sample a few tokens on rank 0, without a change of its RNG state."""
        if not trainer.runtime.is_master:
            return
        before = trainer.runtime.rng_state()
        self.sampling = True
        trainer.raw_model.eval()
        try:
            with trainer.preemption.abandonable():
                trainer.raw_model.generate(torch.zeros((1, 1), dtype=torch.int64), SAMPLE_TOKENS)
        finally:
            trainer.raw_model.train()
            self.sampling = False
            trainer.runtime.set_rng_state(before)

    # watched methods

    def _watch_preemption(self) -> None:
        enter, leave, notice = Preemption.__enter__, Preemption.__exit__, Preemption._notice

        def watched_enter(preemption: Preemption) -> Preemption:
            entered = enter(preemption)
            self.counters["pid"] = os.getpid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return entered

        def watched_leave(preemption: Preemption, *error: Any) -> None:
            self.counters["pid"] = 0
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            leave(preemption, *error)

        def watched_notice(*args: Any) -> None:
            self.counters["noticed_at"] = self.counters["begun"]
            notice(*args)

        Preemption.__enter__ = watched_enter  # type: ignore[method-assign]
        Preemption.__exit__ = watched_leave  # type: ignore[method-assign]
        Preemption._notice = watched_notice  # type: ignore[method-assign, assignment]

    def _watch_steps(self) -> None:
        execute = TrainingStep.execute_step

        def watched_step(*args: Any, **kwargs: Any) -> StepResult:
            self.counters["begun"] += 1
            result = execute(*args, **kwargs)
            self.counters["iter_num"] += 1
            return result

        TrainingStep.execute_step = watched_step  # type: ignore[method-assign]

    def _watch_data(self) -> None:
        get_batch = TokenBins.get_batch

        def watched_batch(data: TokenBins, split: str) -> Any:
            if self._is_planned("data"):
                threading.Timer(0.01, self.send).start()
                # one of several ranks does not wait forever: they finish their step together
                time.sleep(FOREVER_S if len(self.all_counters) == 1 else 0.05)
            return get_batch(data, split)

        TokenBins.get_batch = watched_batch  # type: ignore[method-assign, assignment]
