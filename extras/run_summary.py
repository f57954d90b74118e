"""What a run says at its end: its losses, its time, its checkpoints, and the commands that come next."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.callback import Callback
from core.checkpoint.manifest import Manifest
from core.checkpoint.resume import sample_command, train_command
from core.checkpoint.retention import by_loss
from core.checkpoint.run_folder import CONFIG, is_own_config
from core.checkpoint.search import LINKED, CheckpointSearch
from core.errors import CheckpointError
from core.logger import Logger, Metrics

if TYPE_CHECKING:
    from core.trainer import Trainer

log = logging.getLogger("coregpt")
Point = tuple[float, int]  # a loss and its iteration


class RunSummary(Logger, Callback):
    """Prints at most six lines on stderr when training has ended; none if the run made no update.

    It takes the losses from the reports, so that it never waits for the device.

    device:     to name in the command that samples; None: sample.py's default
    num_epochs: that give the length of the run; None: the iterations do
    """

    def __init__(self, device: str | None = None, num_epochs: float | None = None) -> None:
        self.device = device
        self.num_epochs = num_epochs
        self.train: Point | None = None  # of the last logged update
        self.val: Point | None = None  # of the last evaluation
        self.best: Point | None = None  # of this process

    def log_step(self, metrics: Metrics) -> None:
        self.train = metrics["loss"], metrics["iter"]

    def log_eval(self, metrics: Metrics) -> None:
        self.val = float(metrics["val/loss"]), metrics["iter"]
        if math.isfinite(self.val[0]) and (self.best is None or self.val < self.best):
            self.best = self.val

    def on_train_end(self, trainer: Trainer) -> None:
        for line in self.lines(trainer) if trainer.step.updates else ():
            log.info(line)

    def lines(self, trainer: Trainer) -> Iterator[str]:
        """Yield the lines of the summary; with the losses as far as they are known."""
        manifests = _manifests(trainer)
        yield from self._losses(trainer, manifests)
        yield _work(trainer)
        if manifests:
            yield f"saved in {trainer.checkpointer.checkpoints.out_dir}: {_checkpoints(trainer, manifests)}"
        if not trainer.stop_request.is_preempted:  # else the message about that ends with the command
            yield self._next_command(trainer)
        if manifests and not trainer.checkpointer.go_on:
            yield f"to sample: {sample_command(trainer.checkpointer.checkpoints.out_dir, self.device)}"

    def _next_command(self, trainer: Trainer) -> str:
        """Return the line with the command that goes on; after the last iteration, with a run of twice the length."""
        config = Path(trainer.checkpointer.checkpoints.folder, CONFIG)
        if trainer.iter_num <= trainer.max_iters or trainer.checkpointer.go_on or not is_own_config(config):
            return f"to go on: {trainer.checkpointer.resume_command()}"
        iters = f"--max_iters={max(2 * trainer.max_iters, 1):.0f}"
        length = iters if self.num_epochs is None else f"--num_epochs={2 * self.num_epochs:g}"
        longer = f"{shlex.quote(str(config))} --init_from=resume {length}"
        return f"to train longer: {train_command(longer, trainer.runtime.world_size)}"

    def _losses(self, trainer: Trainer, manifests: dict[int, Manifest]) -> Iterator[str]:
        """Yield a line with the lowest and the last validation loss, and a line with the last training loss."""
        lowest, known = trainer.best_val_loss, [self.best] if self.best else []
        known += [(manifest["val_loss"], manifest["iter_num"]) for manifest in by_loss(manifests.values())]
        best = next((point for point in known if point[0] == lowest), (lowest, None))
        last = f"last {_shown(*self.val)}" if self.val and self.val != best else ""
        if parts := [*([f"best {_shown(*best)}"] if math.isfinite(lowest) else []), *([last] if last else [])]:
            yield f"validation loss: {', '.join(parts)}"
        if self.train:
            yield f"training loss: last {_shown(*self.train)}"


def _shown(loss: float, iter_num: int | None) -> str:
    return f"{loss:.4f}" if iter_num is None else f"{loss:.4f} (iteration {iter_num})"


def _work(trainer: Trainer) -> str:
    """Return what this process has done: updates, time, tokens per second, recoveries."""
    updates, seconds = trainer.step.updates, trainer.report.elapsed_s
    parts = [f"{updates:,} update{'s' * (updates != 1)} in {_time(seconds)}"]
    if trainer.report.tokens_per_iter and seconds > 0:
        parts.append(f"{updates * trainer.report.tokens_per_iter / seconds:,.0f} tokens/s")
    if recoveries := len(trainer.monitor.history):
        parts.append(f"{recoveries} recover{'ies' if recoveries > 1 else 'y'} from instability")
    return ", ".join(parts)


def _time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _manifests(trainer: Trainer) -> dict[int, Manifest]:
    """Return the manifests in the run folder by number."""
    try:
        return CheckpointSearch(trainer.checkpointer.checkpoints.folder).manifests
    except CheckpointError:
        return {}


def _checkpoints(trainer: Trainer, manifests: dict[int, Manifest]) -> str:
    """Return the names of the newest and the best checkpoint, and of ckpt.pt."""
    names = {"newest": manifests[max(manifests)]["file"]}
    if best := next(iter(by_loss(manifests.values())), None):
        names["best"] = best["file"]
    uses: dict[str, list[str]] = {}
    for use, name in names.items():
        uses.setdefault(name, []).append(use)
    shown = [f"{name} ({', '.join(use)})" for name, use in uses.items()]
    return ", ".join([*shown, *([LINKED] if trainer.checkpointer.checkpoints.path.is_file() else [])])
