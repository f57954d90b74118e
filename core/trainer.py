"""The training loop, and what it takes to save, restore and stop it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.errors import CheckpointError, DivergedError

if TYPE_CHECKING:
    from core.callback import Callback
    from core.checkpoint_manager import CheckpointManager
    from core.evaluator import Evaluator
    from core.instability_detector import InstabilityDetector
    from core.logger import Logger
    from core.parallel import Replicated
    from core.runtime import Runtime
    from core.scheduler import LRScheduler
    from core.training_step import StepResult, TrainingStep

log = logging.getLogger("coregpt")
# on resume these follow the checkpoint: the shape is the weights', the rest is part of the optimizer's state
STAY_AS_SAVED = {"n_layer", "n_head", "n_embd", "bias", "attention_type", "position_encoding"}
STAY_AS_SAVED |= {"weight_decay", "beta1", "beta2"}
SHAPE_OF_BATCHES = ("dataset", "batch_size", "block_size")  # a batch drawn with others does not fit
WARMUP_STEPS = 5  # iterations before the mfu is trusted; until then it reads -100%


class Trainer:
    """Runs the parts it is given in nanoGPT's order, and keeps the few numbers that belong to the run as a whole.

    raw_model:          the model itself, neither compiled nor wrapped; its weights are what is saved
    sequences_per_iter: sequences this process sees per iteration, for the mfu
    model_args, config: saved with every checkpoint, as nanoGPT does
    """

    def __init__(
        self,
        raw_model: Any,
        step: TrainingStep,
        scheduler: LRScheduler,
        evaluator: Evaluator,
        detector: InstabilityDetector,
        checkpoints: CheckpointManager,
        logger: Logger,
        runtime: Runtime,
        parallel: Replicated,
        callbacks: Sequence[Callback] = (),
        *,
        max_iters: float,
        eval_interval: int,
        log_interval: int,
        eval_only: bool,
        always_save_checkpoint: bool,
        on_instability: str,
        sequences_per_iter: int,
        model_args: dict[str, Any],
        config: dict[str, Any],
    ) -> None:
        self.raw_model = raw_model
        self.step = step
        self.scheduler = scheduler
        self.evaluator = evaluator
        self.detector = detector
        self.checkpoints = checkpoints
        self.logger = logger
        self.runtime = runtime
        self.parallel = parallel
        self.callbacks = list(callbacks)

        self.max_iters = max_iters
        self.eval_interval = eval_interval
        self.log_interval = log_interval
        self.eval_only = eval_only
        self.always_save_checkpoint = always_save_checkpoint
        self.on_instability = on_instability
        self.sequences_per_iter = sequences_per_iter
        self.model_args = model_args
        self.config = config

        self.iter_num = 0
        self.local_iter_num = 0  # iterations made by this process
        self.best_val_loss = float("inf")  # the lowest seen
        self.saved_val_loss: torch.Tensor | float = 1e9  # nanoGPT's best_val_loss: of the last save, better or not
        self.evaluated_at: int | None = None  # the last one; a resume does not repeat it
        self.running_mfu = -1.0
        self.stop_reason: str | None = None

    def train(self) -> float:
        """Train until `max_iters`, or until somebody calls `stop`. Return the lowest validation loss seen."""
        self.step.prefetch()  # ahead of the first evaluation: nanoGPT's order of random draws
        self.emit("on_train_begin")
        t0 = time.perf_counter()
        while not self.should_terminate(self.iter_num):
            # set the learning rate of this iteration
            lr = self.scheduler.get_lr(self.iter_num)
            for group in self.step.optimizer.param_groups:
                group["lr"] = lr

            # now and then: measure the loss on both splits, and save
            if self.should_evaluate(self.iter_num):
                self.evaluate(lr)
                if self.eval_only:
                    break

            # one update, and a look at whether it was sound
            self.emit("on_step_begin")
            result = self.step.execute_step()
            self.react(self.detector.judge(result))
            self.emit("on_step_end", result)

            # now and then: report. Reading the loss waits for the device, so it happens nowhere else
            t1 = time.perf_counter()
            if self.should_log(self.iter_num):
                self.report(result, lr, t1 - t0)
            t0 = t1

            self.iter_num += 1
            self.local_iter_num += 1
        self.react(self.detector.settle())
        self.emit("on_train_end")
        return self.best_val_loss

    def should_evaluate(self, iter_num: int) -> bool:
        """Evaluate every `eval_interval` iterations, but not again what was evaluated before a checkpoint was saved."""
        return self.eval_only or (iter_num % self.eval_interval == 0 and iter_num != self.evaluated_at)

    def should_log(self, iter_num: int) -> bool:
        """Report every `log_interval` iterations."""
        return iter_num % self.log_interval == 0

    def should_terminate(self, iter_num: int) -> bool:
        """Stop after iteration `max_iters`, which is `max_iters + 1` updates, or when somebody asked for it."""
        return self.stop_reason is not None or iter_num > self.max_iters

    def evaluate(self, lr: float) -> None:
        """Measure both losses on the master, tell every rank, report, and save if that is due."""
        self.emit("on_eval_begin")
        losses = self.runtime.from_master(self.evaluator.evaluate_splits)
        self.evaluated_at = self.iter_num
        metrics = {"train/loss": losses["train"], "val/loss": losses["val"]}
        self.logger.log_eval({"iter": self.iter_num, **metrics, "lr": lr, "mfu": self.running_mfu * 100})
        self.best_val_loss = min(self.best_val_loss, losses["val"].item())
        self.emit("on_eval_end", losses)
        if self.eval_only:
            return
        if not self.detector.check_validation_stability(losses):
            self.react("the loss of an evaluation is not finite")
        if losses["val"] < self.saved_val_loss or self.always_save_checkpoint:
            self.saved_val_loss = losses["val"]
            if self.iter_num > 0:
                self.save()

    def report(self, result: StepResult, lr: float, seconds: float) -> None:
        """Log an update under nanoGPT's names: the last micro-batch's loss, the time it took, the running mfu."""
        loss = result.loss.item() * self.step.gradient_accumulation_steps
        if self.local_iter_num >= WARMUP_STEPS:
            mfu = self.raw_model.estimate_mfu(self.sequences_per_iter, seconds)
            self.running_mfu = mfu if self.running_mfu == -1.0 else 0.9 * self.running_mfu + 0.1 * mfu
        metrics = {"iter": self.iter_num, "loss": loss, "lr": lr, "time_ms": seconds * 1000}
        if result.grad_norm is not None:
            metrics["grad_norm"] = result.grad_norm.item()
        metrics |= {name: value.item() for name, value in result.metrics.items()}
        self.logger.log_step({**metrics, "mfu": self.running_mfu * 100})

    def react(self, instability: str | None) -> None:
        """Act on the detector's verdict, on all ranks alike."""
        if instability is None:
            return
        message = f"iteration {self.iter_num}: {instability}"
        if self.on_instability == "stop":
            raise DivergedError(
                f"{message}; stopped, and the last checkpoint is untouched. Try a lower learning_rate, more "
                "warmup_iters or a smaller grad_clip; --on_instability=warn trains on regardless"
            )
        log.warning(message)

    def stop(self, reason: str) -> None:
        """Ask the loop to end after this iteration. Call it on every rank alike."""
        log.info(f"stopping after iteration {self.iter_num}: {reason}")
        self.stop_reason = reason

    def save(self) -> None:
        """Write a checkpoint with nanoGPT's keys and all that an exact resume needs. Call it on every rank alike."""
        self.react(self.detector.settle())
        ranks = self.runtime.gather(
            {"rng": self.runtime.rng_state(), "batch": _moved(self.step.batch, torch.device("cpu"))}
        )
        self.emit("on_checkpoint", self.runtime.from_master(lambda: self._write(ranks)))

    def _write(self, ranks: list[dict[str, Any]]) -> Path:
        """Put the checkpoint together and on disk; on the master alone."""
        checkpoint = {
            **self.parallel.state_dict(self.raw_model, self.step.optimizer),
            "model_args": self.model_args,
            "iter_num": self.iter_num + self.step.updates - self.local_iter_num,  # one more, if updated but not counted
            "best_val_loss": self.saved_val_loss,
            "config": self.config,
            "lowest_val_loss": self.best_val_loss,
            "evaluated_at": self.evaluated_at,
            "scaler": self.step.scaler.state_dict(),
            "callbacks": {type(c).__name__: c.state_dict() for c in self.callbacks if hasattr(c, "state_dict")},
            "ranks": ranks,
        }
        self.logger.log_checkpoint(f"saving checkpoint to {self.checkpoints.out_dir}")
        return self.checkpoints.save(functools.partial(torch.save, checkpoint))

    def restore(self, checkpoint: dict[str, Any], exact: bool) -> None:
        """Take over a checkpoint's counters, and with `exact` its random state, batch and scaler as well.

        Model and optimizer are restored before they are handed to the trainer. A checkpoint that lacks what `exact`
        needs is continued as nanoGPT does: other batches follow, and the evaluation is repeated.
        """
        counters: dict[str, Any] = {"iter_num": int, "best_val_loss": (int, float, torch.Tensor)}
        if missing := [key for key, kind in counters.items() if not isinstance(checkpoint.get(key), kind)]:
            raise CheckpointError(f"the checkpoint lacks {', '.join(missing)}: it can be sampled from, but not resumed")
        if differences := _differences((checkpoint.get("config") or {}), self.config):
            log.info(f"resume: the options differ from the checkpoint's: {differences}")
        self.iter_num = checkpoint["iter_num"]
        self.saved_val_loss = checkpoint["best_val_loss"]
        self.best_val_loss = float(checkpoint.get("lowest_val_loss", checkpoint["best_val_loss"]))
        for callback in self.callbacks:
            if type(callback).__name__ in checkpoint.get("callbacks", {}):
                callback.load_state_dict(checkpoint["callbacks"][type(callback).__name__])  # type: ignore[attr-defined]
        ranks = checkpoint.get("ranks", [])
        if exact and len(ranks) == self.runtime.world_size:
            own, saved = ranks[self.runtime.rank], (checkpoint.get("config") or {})
            if all(saved.get(name) == self.config.get(name) for name in SHAPE_OF_BATCHES):
                self.step.batch = _moved(own["batch"], self.runtime.device)  # else a fitting one is drawn
            if checkpoint["scaler"]:  # empty where the saved run did not scale its loss
                self.step.scaler.load_state_dict(checkpoint["scaler"])
            self.runtime.set_rng_state(own["rng"])
            self.evaluated_at = checkpoint["evaluated_at"]
            return
        self.max_iters = max(self.max_iters, self.iter_num)  # nanoGPT makes one update, however late it is
        if exact:
            have = f"{len(ranks)} random states, wanted {self.runtime.world_size}" if ranks else "no random state"
            log.info(f"resume: the checkpoint has {have}; reseeding, as with --resume_rng=reseed")

    def emit(self, event: str, *details: Any) -> None:
        """Call every callback's method of this name."""
        for callback in self.callbacks:
            getattr(callback, event)(self, *details)


def _differences(saved: dict[str, Any], given: dict[str, Any]) -> str:
    """Name the options whose values differ, and which of them a resume takes from the checkpoint regardless."""
    told = [name for name in given if name in saved and name not in ("init_from", "out_dir", "resume_rng")]
    changed = [name for name in told if saved[name] != given[name]]
    return ", ".join(
        f"{name} stays {saved[name]} (not {given[name]})"
        if name in STAY_AS_SAVED
        else f"{name} {saved[name]} -> {given[name]}"
        for name in changed
    )


def _moved(batch: Any, device: torch.device) -> Any:
    """Return a batch on another device, whatever it is made of."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return tuple(_moved(value, device) for value in batch)
    return batch
