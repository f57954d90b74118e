"""A hand inside a training process: it sends a signal at a chosen place, and notes what is done before and after."""

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
    """Which signal is sent, and where."""

    number: int
    place: str = ""  # one of PLACES; else it comes from outside
    at: int = 0  # counted from 1: which time that the process comes by the place
    rank: int = 0  # of the process that comes by
    everyone: bool = False  # all ranks get it, not only the one that came by


class Notes:
    """Whole numbers that one rank shares with the process that started it, by name.

    The name of a place: how often the rank came by it. pid: its process, 0 while it takes no signals. begun: updates
    that this start of the run began. noticed_at: the same when the signal was noticed, -1 if it was not. iter_num:
    updates that the run has come to.
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
    """Carries out a plan in the process of one rank, and samples from the model now and then, as a user's might.

    Signals are held back until the program is ready for them, and again when it has given its handlers up: before and
    after that they are the business of the shell.
    """

    def __init__(self, plan: Plan, notes: Sequence[Notes]) -> None:
        self.plan = plan
        self.of_all = notes
        self.rank = int(os.environ.get("RANK", 0))
        self.notes = notes[self.rank]
        self.sampling = False

    def install(self) -> None:
        """Put the plan into this process. Call it in the child, with SIGNALS blocked; it stays so."""
        SaveWatch(self.on_save).install()
        self._watch_preemption()
        self._watch_steps()
        self._watch_data()

    def come_by(self, place: str) -> bool:
        """Count it, and tell whether the plan says to send here and now."""
        self.notes[place] += 1
        return (place, self.notes[place], self.rank) == (self.plan.place, self.plan.at, self.plan.rank)

    def send(self) -> None:
        """Send the signal: to the others first, if they are meant too."""
        others = [notes["pid"] for notes in self.of_all if notes is not self.notes]
        for pid in [*(others if self.plan.everyone else []), self.notes["pid"]]:
            if pid:
                os.kill(pid, self.plan.number)

    # the places

    def on_train_begin(self, trainer: Trainer) -> None:
        """Note where the run begins, and stand at the door of the model."""
        self.notes["iter_num"] = trainer.iter_num

        def at_the_door(*_: Any) -> None:
            measured = "step" if trainer.raw_model.training else "evaluation"
            if self.come_by("sampling" if self.sampling else measured):
                self.send()

        trainer.raw_model.register_forward_pre_hook(at_the_door)

    def on_step_begin(self, trainer: Trainer) -> None:
        """Be in a step."""
        if self.come_by("step"):
            self.send()

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Be in a step still; then sample now and then."""
        if self.come_by("step"):
            self.send()
        if trainer.iter_num % SAMPLE_EVERY == 0:
            self.sample(trainer)

    def on_eval_begin(self, trainer: Trainer) -> None:
        """Be in an evaluation."""
        if self.come_by("evaluation"):
            self.send()

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        """Be in an evaluation still; then sample."""
        if self.come_by("evaluation"):
            self.send()
        self.sample(trainer)

    def on_save(self, number: int, where: str, path: Path | None) -> None:
        """Be in a save; in the thread that makes it."""
        if self.come_by("saving"):
            self.send()

    def sample(self, trainer: Trainer) -> None:
        """Draw a few tokens on the master, and put the random numbers back."""
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

    # eyes

    def _watch_preemption(self) -> None:
        enter, leave, notice = Preemption.__enter__, Preemption.__exit__, Preemption._notice

        def watched_enter(preemption: Preemption) -> Preemption:
            done = enter(preemption)
            self.notes["pid"] = os.getpid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return done

        def watched_leave(preemption: Preemption, *error: Any) -> None:
            self.notes["pid"] = 0
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            leave(preemption, *error)

        def watched_notice(*args: Any) -> None:
            self.notes["noticed_at"] = self.notes["begun"]
            notice(*args)

        Preemption.__enter__ = watched_enter  # type: ignore[method-assign]
        Preemption.__exit__ = watched_leave  # type: ignore[method-assign]
        Preemption._notice = watched_notice  # type: ignore[method-assign, assignment]

    def _watch_steps(self) -> None:
        execute = TrainingStep.execute_step

        def watched_step(*args: Any, **kwargs: Any) -> StepResult:
            self.notes["begun"] += 1
            done = execute(*args, **kwargs)
            self.notes["iter_num"] += 1
            return done

        TrainingStep.execute_step = watched_step  # type: ignore[method-assign]

    def _watch_data(self) -> None:
        get_batch = TokenBins.get_batch

        def watched_batch(data: TokenBins, split: str) -> Any:
            if self.come_by("data"):
                threading.Timer(0.01, self.send).start()
                time.sleep(FOREVER_S if len(self.of_all) == 1 else 0.05)  # ranks finish their step together
            return get_batch(data, split)

        TokenBins.get_batch = watched_batch  # type: ignore[method-assign, assignment]
