"""Trainer: the order of the loop, reports, saves, instability, rollback and resume."""

import json
import logging
import math
import os
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.callback import Callback
from core.checkpoint.checkpointer import RunNotes
from core.checkpoint.format import load_checkpoint
from core.checkpoint.snapshot import Snapshot
from core.errors import CheckpointError, DivergedError, PreemptedError, SaveError
from core.logger import CompositeLogger, Logger, Metrics
from core.objective import LanguageModeling, Objective, Output
from core.optimizer import load_optimizer_state
from core.preemption import Interrupted
from core.stability.flags import RankFlags
from core.stability.recovery import Recovery
from core.trainer import Trainer
from tests.comparing import assert_same
from tests.core.late_flags import LateFlags
from tests.core.tiny_run import tiny_trainer

NAN = float("nan")
CONFIG = {
    "learning_rate": 0.1,
    "n_layer": 2,
    "block_size": 16,
    "dropout": 0.0,
    "out_dir": "out",
    "init_from": "scratch",
}


class Recorder(Logger, Callback):
    """Records all reports, and the order of all calls in `events`."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.steps: list[Metrics] = []
        self.evals: list[Metrics] = []
        self.recoveries: list[Any] = []

    def log_step(self, metrics: Metrics) -> None:
        self.steps.append(metrics)
        self.events.append("log_step")

    def log_eval(self, metrics: Metrics) -> None:
        self.evals.append(metrics)
        self.events.append("log_eval")

    def log_checkpoint(self, text: str) -> None:
        self.events.append(text)

    def log_event(self, record: Metrics) -> None:
        self.recoveries.append(list(record["history"]))

    def on_train_begin(self, trainer: Trainer) -> None:
        self.events.append("train_begin")

    def on_train_end(self, trainer: Trainer) -> None:
        self.events.append("train_end")

    def on_step_begin(self, trainer: Trainer) -> None:
        self.events.append("step_begin")

    def on_step_end(self, trainer: Trainer, result: Any) -> None:
        self.events.append("step_end")

    def on_eval_begin(self, trainer: Trainer) -> None:
        self.events.append("eval_begin")

    def on_eval_end(self, trainer: Trainer, losses: Any) -> None:
        self.events.append("eval_end")

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        self.events.append(f"checkpoint {path.name}")


class Run:
    """A real trainer, with a recorder of its calls."""

    def __init__(
        self,
        out_dir: Path,
        callbacks: Sequence[Any] = (),
        objective: Any = None,
        *,
        micro_steps: int = 2,
        grad_clip: float = 1.0,
        save_interval: int = 0,
        keep_last: int = 2,
        on_instability: str = "stop",
        max_recoveries: int = 3,
        config: dict[str, Any] | None = None,
        **numbers: Any,
    ) -> None:
        self.recorder = Recorder()
        self.drawn: list[Any] = []
        logger = CompositeLogger([self.recorder])
        notes = RunNotes({"n": 1}, CONFIG | (config or {}), {"world_size": 1})
        callbacks = [self.recorder, *callbacks]
        self.trainer = tiny_trainer(out_dir, objective, callbacks, logger, self.get_batch, notes, **numbers)
        self.model = self.trainer.raw_model
        self.trainer.step.gradient_accumulation_steps = micro_steps
        self.trainer.step.grad_clip = grad_clip
        self.trainer.checkpointer.schedule.interval = save_interval
        self.trainer.checkpointer.checkpoints.keep_last = keep_last
        self.trainer.monitor.recovery = Recovery(on_instability, max_recoveries)
        self.path = self.trainer.checkpointer.checkpoints.path

    def get_batch(self, split: str) -> Any:
        self.recorder.events.append(split)
        self.drawn.append((torch.randn(4, 3), torch.randn(4, 2)))
        return self.drawn[-1]

    def script_losses(self, losses: Sequence[float]) -> None:
        """Let evaluations return these validation losses in order."""
        remaining = iter(losses)
        self.trainer.evaluator.evaluate_splits = lambda: {  # type: ignore[method-assign]
            "train": torch.tensor(1.0),
            "val": torch.tensor(next(remaining)),
        }


# the order of the loop


@pytest.mark.parametrize(
    ("iter_num", "evaluated_at", "eval_only", "expected"),
    [
        (0, None, False, True),
        (1, None, False, False),
        (2, None, False, True),
        (2, 2, False, False),  # a restored checkpoint was written after this evaluation
        (4, 2, False, True),
        (1, None, True, True),
        (2, 2, True, True),
    ],
)
def test_should_evaluate(
    tmp_path: Path, iter_num: int, evaluated_at: int | None, eval_only: bool, expected: bool
) -> None:
    trainer = Run(tmp_path, eval_only=eval_only).trainer
    trainer.counters.evaluated_at = evaluated_at

    assert trainer.should_evaluate(iter_num) is expected


@pytest.mark.parametrize(("iter_num", "expected"), [(0, True), (1, False), (9, False), (10, True), (20, True)])
def test_should_log(tmp_path: Path, iter_num: int, expected: bool) -> None:
    assert Run(tmp_path, log_interval=10).trainer.should_log(iter_num) is expected


@pytest.mark.parametrize(
    ("iter_num", "reason", "expected"),
    [(0, None, False), (6, None, False), (7, None, True), (8, None, True), (0, "enough", True)],
)
def test_should_terminate(tmp_path: Path, iter_num: int, reason: str | None, expected: bool) -> None:
    trainer = Run(tmp_path).trainer
    if reason:
        trainer.stop(reason)

    assert trainer.should_terminate(iter_num) is expected
    assert trainer.stop_request.reason == reason


def test_loop_keeps_nanogpts_order(tmp_path: Path) -> None:
    """The first batch is drawn before the first evaluation, and every update draws the first batch of the next one."""
    run = Run(tmp_path / "out", max_iters=2)
    run.trainer.train()

    evaluation = ["eval_begin", "train", "train", "val", "val", "log_eval", "eval_end"]
    update = ["step_begin", "train", "train", "step_end", "log_step"]
    saving = [f"saving checkpoint to {tmp_path}/out", "checkpoint ckpt-000001.pt"]
    assert run.recorder.events == [
        *["train_begin", "train"],
        *[*evaluation, *update],
        *update,
        *[*evaluation, *saving, *update],
        "checkpoint ckpt-000002.pt",  # the final save prints nothing
        "train_end",
    ]


@pytest.mark.parametrize("max_iters", [0, 1, 6])
def test_one_update_more_than_max_iters_is_made(tmp_path: Path, max_iters: int) -> None:
    run = Run(tmp_path, max_iters=max_iters)
    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps] == list(range(max_iters + 1))
    assert run.trainer.iter_num == max_iters + 1
    assert all(state["step"] == max_iters + 1 for state in run.trainer.step.optimizer.state.values())


def test_a_run_past_max_iters_makes_no_update(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.trainer.counters.iter_num = 7

    assert run.trainer.train() == math.inf
    assert run.recorder.events == ["train_begin", "train_end"]


def test_learning_rate_is_set_before_the_evaluation_of_the_same_iteration(tmp_path: Path) -> None:
    seen = []

    class Rates(Callback):
        def on_eval_begin(self, trainer: Trainer) -> None:
            seen.append([group["lr"] for group in trainer.step.optimizer.param_groups])

    run = Run(tmp_path, [Rates()], max_iters=5)
    run.trainer.train()

    rates = [run.trainer.scheduler.get_lr(iter_num) for iter_num in range(6)]
    assert seen == [[rates[0]], [rates[2]], [rates[4]]]
    assert [step["lr"] for step in run.recorder.steps] == rates
    assert [evaluation["lr"] for evaluation in run.recorder.evals] == rates[::2]


def test_a_parameter_group_may_have_its_own_lr_factor(tmp_path: Path) -> None:
    run = Run(tmp_path, max_iters=3)
    group = run.trainer.step.optimizer.param_groups[0]
    group["lr_factor"] = 0.5
    run.trainer.train()

    assert group["lr"] == run.trainer.scheduler.get_lr(3) * 0.5
    assert run.recorder.steps[-1]["lr"] == group["lr"]


@pytest.mark.parametrize("begin", [0, 2, 3])
def test_eval_only_stops_after_one_evaluation_and_saves_nothing(tmp_path: Path, begin: int) -> None:
    """Also after a resume, where nanoGPT would train on."""
    run = Run(tmp_path, eval_only=True)
    run.trainer.counters.iter_num = run.trainer.counters.evaluated_at = begin
    before = {name: value.clone() for name, value in run.model.state_dict().items()}

    loss = run.trainer.train()

    evaluation = ["eval_begin", "train", "train", "val", "val", "log_eval", "eval_end"]
    assert run.recorder.events == ["train_begin", "train", *evaluation, "train_end"]
    assert loss == run.recorder.evals[0]["val/loss"].item()
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    assert not run.path.exists()


def test_stop_ends_the_run_after_the_current_iteration(tmp_path: Path) -> None:
    class Enough(Callback):
        def on_eval_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iter_num == 2:
                trainer.stop("enough")

    run = Run(tmp_path, [Enough()])
    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps] == [0, 1, 2]
    assert run.recorder.events[-1] == "train_end"


# what is reported


@pytest.mark.parametrize("accumulation", [1, 3, 5])
def test_loss_of_an_update_is_the_last_micro_batchs(tmp_path: Path, accumulation: int) -> None:
    """Divided by the number of micro-batches in float32 and multiplied by it in Python, as nanoGPT prints it."""
    run = Run(tmp_path, max_iters=0, micro_steps=accumulation, eval_interval=9)
    start = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.trainer.train()

    run.model.load_state_dict(start)
    drawn_for_training = [run.drawn[0], *run.drawn[5:]]  # between them are the evaluation's batches
    loss = run.model(*drawn_for_training[accumulation - 1])[1]
    (step,) = run.recorder.steps
    assert step["loss"] == (loss / accumulation).item() * accumulation
    assert step["time_ms"] > 0


def test_the_gradient_norm_is_reported_if_gradients_are_clipped(tmp_path: Path) -> None:
    clipped, unclipped = Run(tmp_path, max_iters=0), Run(tmp_path, max_iters=0, grad_clip=0.0)
    clipped.trainer.train()
    unclipped.trainer.train()

    assert clipped.recorder.steps[0]["grad_norm"] > 0
    assert "grad_norm" not in unclipped.recorder.steps[0]


NAMES = ["iter", "train/loss", "val/loss", "lr", "mfu", "elapsed_s", "tokens"]  # nanoGPT's, and ours


def test_evaluation_is_reported_under_nanogpts_names(tmp_path: Path) -> None:
    run = Run(tmp_path, max_iters=6, tokens_per_iter=10)
    run.trainer.train()

    assert [list(metrics) for metrics in run.recorder.evals] == [NAMES] * 4
    assert [metrics["iter"] for metrics in run.recorder.evals] == [0, 2, 4, 6]
    assert [metrics["tokens"] for metrics in run.recorder.evals] == [0, 20, 40, 60]
    assert [metrics["mfu"] for metrics in run.recorder.evals] == [-100, -100, -100, 50]
    assert [metrics["mfu"] for metrics in run.recorder.steps][5] == 50


# what is saved


def nanogpts_saves(losses: Sequence[float], always: bool) -> list[tuple[int, float]]:
    """Return (iteration, best_val_loss) of every checkpoint nanoGPT writes, for an evaluation at every iteration."""
    best, saves = 1e9, []
    for iter_num, loss in enumerate(losses):
        if loss < best or always:
            best = loss
            if iter_num > 0:
                saves.append((iter_num, best))
    return saves


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("losses", [[4, 3, 2, 1], [4, 1, 2, 3], [1, 2, 3, 4], [4, 2, 3, 1.5], [2, 2, 2, 2]])
def test_checkpoints_follow_nanogpt_while_the_true_minimum_is_returned(
    tmp_path: Path, losses: list[float], always: bool
) -> None:
    saves = []

    class Saves(Callback):
        def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
            if trainer.iter_num > trainer.max_iters:
                return  # the final save, which nanoGPT does not have
            checkpoint = load_checkpoint(path)
            saves.append((checkpoint["iter_num"], float(checkpoint["best_val_loss"]), checkpoint["lowest_val_loss"]))

    run = Run(tmp_path, [Saves()], max_iters=3, eval_interval=1, always_save_checkpoint=always)
    run.script_losses(losses)

    assert run.trainer.train() == min(losses)
    assert [(iter_num, best) for iter_num, best, _ in saves] == nanogpts_saves(losses, always)
    assert [lowest for *_, lowest in saves] == [min(losses[: iter_num + 1]) for iter_num, *_ in saves]


def test_nothing_is_saved_at_iteration_zero(tmp_path: Path) -> None:
    saved = []

    class Saves(Callback):
        def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
            saved.append(trainer.iter_num)

    run = Run(tmp_path, [Saves()], max_iters=1, save_interval=1)
    run.trainer.train()

    assert saved == [1, 2]
    assert not run.path.exists()  # only evaluations write nanoGPT's file


def test_a_checkpoint_has_nanogpts_keys_first(tmp_path: Path) -> None:
    run = Run(tmp_path, max_iters=2)
    run.trainer.train()

    checkpoint = load_checkpoint(run.path)
    nanogpts = ["model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"]
    assert list(checkpoint)[:6] == nanogpts
    assert (checkpoint["model_args"], checkpoint["iter_num"], checkpoint["config"]) == ({"n": 1}, 2, CONFIG)
    assert torch.equal(checkpoint["best_val_loss"], run.recorder.evals[1]["val/loss"])


def test_the_trainer_writes_files_only_inside_on_master(tmp_path: Path) -> None:
    run = Run(tmp_path, max_iters=2)
    received = iter([(run.path, None), (run.path, None)])  # what rank 0 would broadcast

    run.trainer.runtime.on_master = lambda compute: next(received)  # type: ignore[method-assign]
    run.trainer.train()

    assert os.listdir(tmp_path) == []


# instability


class BreaksAt(Objective):
    """An objective whose loss is multiplied by `factor` in one of its calls for training."""

    def __init__(self, call: int, factor: float) -> None:
        self.calls, self.call, self.factor = 0, call, factor

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        output = LanguageModeling()(model, batch, train)
        self.calls += train
        return Output(output.loss * self.factor, {}) if train and self.calls == self.call else output


def test_a_non_finite_loss_stops_the_run_before_a_save(tmp_path: Path) -> None:
    run = Run(tmp_path, objective=BreaksAt(8, NAN))  # the second micro-batch of iteration 3

    with pytest.raises(DivergedError) as error:
        run.trainer.train()

    assert error.value.exit_status == 3
    assert str(error.value).startswith("iteration 3: the loss is not finite and the gradient is not finite; stopped, ")
    assert [step["iter"] for step in run.recorder.steps] == [0, 1, 2]
    checkpoint = load_checkpoint(run.path)
    assert checkpoint["iter_num"] == 2
    assert all(bool(value.isfinite().all()) for value in checkpoint["model"].values())


def test_a_non_finite_first_micro_batch_stops_the_run(tmp_path: Path) -> None:
    """The first micro-batch's loss is not the one reported, but its gradient is part of the update."""
    run = Run(tmp_path, objective=BreaksAt(1, NAN))

    with pytest.raises(DivergedError, match="^iteration 0: the loss is not finite and the gradient is not finite; sto"):
        run.trainer.train()
    assert not run.path.exists()


def test_with_warn_the_run_continues_but_its_weights_are_not_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, objective=BreaksAt(8, NAN), on_instability="warn", max_iters=4)
    with pytest.raises(SaveError, match="a weight or a moment of the optimizer is not finite"):
        run.trainer.train()

    assert caplog.messages[0] == "iteration 3: the loss is not finite and the gradient is not finite"
    assert run.trainer.iter_num == 5


def test_a_requested_save_of_damaged_weights_is_tried_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class RequestsSave(Callback):
        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            if trainer.iter_num == 3:
                trainer.save()

    run = Run(tmp_path, [Flips(2), RequestsSave()], on_instability="warn", max_iters=6, eval_interval=100)
    with pytest.raises(SaveError):
        run.trainer.train()

    refused = [message for message in caplog.messages if "a weight or a moment" in message]
    assert [message.split(":")[0] for message in refused] == ["iteration 3", "iteration 6"]  # requested; final


@pytest.mark.parametrize(("val", "stops"), [(NAN, True), (math.inf, True), (9.0, False)])
def test_a_non_finite_evaluation_stops_the_run_before_a_save(tmp_path: Path, val: float, stops: bool) -> None:
    run = Run(tmp_path, max_iters=2)
    run.script_losses([1.0, val])

    if stops:
        with pytest.raises(DivergedError, match="^iteration 1: the evaluation after it is not finite; stopped"):
            run.trainer.train()
    else:
        run.trainer.train()
    assert run.path.exists() is not stops
    assert run.trainer.best_val_loss == 1.0


def test_a_pending_verdict_is_awaited_before_a_save(tmp_path: Path) -> None:
    """As on a GPU, where the verdict on an update comes with the next one."""

    run = Run(tmp_path, objective=BreaksAt(4, NAN))  # the last update before the first checkpoint
    run.trainer.monitor.flags = LateFlags(torch.device("cpu"))
    run.script_losses([1.0, 1.0])

    with pytest.raises(DivergedError, match="^iteration 1: the loss is not finite"):
        run.trainer.train()
    assert not run.path.exists()


class Flips(Callback):
    """Makes a weight infinite once, after the update of an iteration, as a flipped bit in memory would."""

    def __init__(self, iter_num: int) -> None:
        self.iter_num, self.flipped = iter_num, False

    def on_step_begin(self, trainer: Trainer) -> None:
        if trainer.iter_num != self.iter_num or self.flipped:
            return
        self.flipped = True

        def flip(*_: Any) -> None:
            handle.remove()
            with torch.no_grad():
                trainer.raw_model.bias[0] = math.inf

        handle = trainer.step.optimizer.register_step_post_hook(flip)


@pytest.mark.parametrize(("check_every_step", "noticed_at"), [(True, 4), (False, 5)])
def test_weights_are_checked_after_each_update_on_request(
    tmp_path: Path, check_every_step: bool, noticed_at: int
) -> None:
    run = Run(tmp_path, [Flips(4)], on_instability="recover", check_every_step=check_every_step)
    run.trainer.train()

    (recovery,) = run.trainer.monitor.history
    assert recovery["iter"] == noticed_at and recovery["back_to"] == 4
    assert ("weight" in recovery["cause"]) is check_every_step


def test_damaged_weights_stop_a_run_that_skips_updates(tmp_path: Path) -> None:
    run = Run(tmp_path, [Flips(4)], on_instability="skip", check_every_step=True)
    with pytest.raises(DivergedError, match=r"^iteration 4: a weight .* not finite; too late to skip the update, the"):
        run.trainer.train()

    assert run.recorder.steps[-1]["iter"] == 3


# rollback


class BreaksOn(Objective):
    """An objective whose loss is NaN for the batches in `poisoned`, at every iteration."""

    def __init__(self) -> None:
        self.poisoned: list[torch.Tensor] = []

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        output = LanguageModeling()(model, batch, train)
        bad = train and any(torch.equal(batch[0], inputs) for inputs in self.poisoned)
        return Output(output.loss * NAN, {}) if bad else output


class PoisonAt(Callback):
    """Poisons the batch that is drawn ahead for an iteration, when the run gets there first."""

    def __init__(self, objective: BreaksOn, iter_num: int) -> None:
        self.objective, self.iter_num, self.visits = objective, iter_num, 0

    def on_step_begin(self, trainer: Trainer) -> None:
        if trainer.iter_num == self.iter_num:
            self.visits += 1
            if self.visits == 1:
                assert trainer.step.batch is not None
                self.objective.poisoned.append(trainer.step.batch[0].clone())


def recovering(folder: Path, *iterations: int, **changes: Any) -> Run:
    objective = BreaksOn()
    callbacks = [PoisonAt(objective, iter_num) for iter_num in iterations]
    torch.manual_seed(4)
    return Run(folder, callbacks, objective, **{"on_instability": "recover", "micro_steps": 1} | changes)


def test_an_unstable_run_rolls_back_and_skips_that_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = recovering(tmp_path, 5)

    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps] == [0, 1, 2, 3, 4, 4, 5, 6]  # from the checkpoint at 4
    assert all(math.isfinite(step["loss"]) for step in run.recorder.steps)
    assert run.recorder.steps[4]["loss"] == run.recorder.steps[5]["loss"]  # replayed to the bit
    assert caplog.messages == [
        "iteration 5: the loss is not finite and the gradient is not finite; going on from iteration 4 "
        "(ckpt-000002.pt) without that batch; recovery 1 of 3"
    ]
    history = [{"iter": 5, "cause": "the loss is not finite and the gradient is not finite", "back_to": 4}]
    assert load_checkpoint(run.trainer.checkpointer.checkpoints.load().path)["recovery"]["history"] == history
    assert run.recorder.recoveries == [history]


def test_before_the_first_checkpoint_a_rollback_is_to_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = recovering(tmp_path, 1)

    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert run.recorder.steps[0]["loss"] == run.recorder.steps[1]["loss"]
    assert run.recorder.evals[0]["val/loss"] == run.recorder.evals[1]["val/loss"]
    assert "going on from iteration 0 (where this process started)" in caplog.messages[0]


def test_a_run_with_recoveries_is_reproducible_to_the_bit(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        runs.append(recovering(tmp_path / name, 3, 5))
        runs[-1].trainer.train()

    assert_same(*(run.model.state_dict() for run in runs))
    assert [step["loss"] for step in runs[0].recorder.steps] == [step["loss"] for step in runs[1].recorder.steps]


def test_a_spent_budget_stops_the_run_with_a_diagnosis(tmp_path: Path) -> None:
    run = recovering(tmp_path, 1, 3, 5, max_recoveries=2)

    with pytest.raises(DivergedError) as error:
        run.trainer.train()

    first, *rest = str(error.value).splitlines()
    assert first == (
        "iteration 5: the loss is not finite and the gradient is not finite; all 2 recoveries are spent, "
        "the last checkpoint is untouched"
    )
    assert any(line.startswith("the recent losses: ") and line.endswith("nan") for line in rest)
    assert load_checkpoint(run.path)["iter_num"] == 4


def test_a_recovery_can_lower_the_learning_rate(tmp_path: Path) -> None:
    run = recovering(tmp_path, 5)
    run.trainer.monitor.recovery.lr_factor = 0.5

    run.trainer.train()

    rates = [run.trainer.scheduler.get_lr(iter_num) for iter_num in range(7)]
    assert [step["lr"] for step in run.recorder.steps] == [*rates[:5], *(rate / 2 for rate in rates[4:])]


def test_an_unstable_update_can_be_skipped_without_a_rollback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = recovering(tmp_path, 3, on_instability="skip", max_iters=4)
    weights = []

    class Weights(Callback):
        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            weights.append(run.model.weight.detach().clone())

    run.trainer.callbacks.callbacks.append(Weights())
    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps] == [0, 1, 2, 3, 4]
    assert [torch.equal(old, new) for old, new in pairwise(weights)] == [False, False, True, False]
    assert caplog.messages[0].endswith("this update is skipped")


def test_non_finite_weights_are_never_saved(tmp_path: Path) -> None:
    """Here a weight becomes infinite after the last update before a save."""

    class Flip(Callback):
        flipped = False

        def on_eval_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iter_num == 4 and not self.flipped:
                self.flipped = True
                with torch.no_grad():
                    trainer.raw_model.bias[0] = math.inf

    run = Run(tmp_path, [Flip()], on_instability="recover", keep_last=9)
    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps] == [0, 1, 2, 3, 2, 3, 4, 5, 6]
    for path in tmp_path.glob("ckpt-*.pt"):
        assert all(bool(value.isfinite().all()) for value in load_checkpoint(path)["model"].values())
    (recovery,) = run.trainer.monitor.history
    assert recovery == {"iter": 3, "cause": "a weight or a moment of the optimizer is not finite", "back_to": 2}


def test_a_run_with_an_unstable_last_update_rolls_back_and_finishes(tmp_path: Path) -> None:
    """On a GPU the verdict on the last update comes after the loop, which then has to continue."""

    run = recovering(tmp_path, 6)
    run.trainer.monitor.flags = LateFlags(torch.device("cpu"))
    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps][-2:] == [6, 6]
    assert run.trainer.iter_num == 7 and len(run.trainer.monitor.history) == 1
    assert math.isfinite(run.recorder.steps[-1]["loss"])


# saves between evaluations, requests, and saves that fail


def saved_iterations(folder: Path) -> list[int]:
    return [load_checkpoint(path)["iter_num"] for path in sorted(folder.glob("ckpt-*.pt"))]


@pytest.mark.parametrize(
    ("interval", "expected"), [(0, [2, 4, 6, 7]), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [2, 3, 4, 6, 7]), (7, [2, 4, 6, 7])]
)
def test_saves_by_interval_come_in_addition_to_the_others(tmp_path: Path, interval: int, expected: list[int]) -> None:
    run = Run(tmp_path, save_interval=interval, keep_last=99)
    run.trainer.train()

    assert saved_iterations(tmp_path) == expected
    assert load_checkpoint(run.path)["iter_num"] == 6  # nanoGPT's file at nanoGPT's times


def test_a_save_that_is_due_by_time_is_made_at_the_next_iteration(tmp_path: Path) -> None:
    run = Run(tmp_path, keep_last=99, eval_interval=100)
    overdue = iter([False, False, True, False, False, False, False])
    run.trainer.checkpointer.schedule.wants_save = lambda: next(overdue)  # type: ignore[method-assign]
    run.trainer.train()

    assert saved_iterations(tmp_path) == [3, 7]


def test_only_a_checkpoint_of_evaluated_weights_has_a_val_loss(tmp_path: Path) -> None:
    run = Run(tmp_path, save_interval=1, keep_last=99, max_iters=2)
    run.trainer.train()

    saved = manifests(tmp_path)
    assert [manifest["val_loss"] is not None for manifest in saved] == [False, True, False]
    assert [manifest["finished"] for manifest in saved] == [False, False, True]
    assert [manifest["linked"] for manifest in saved] == [False, True, False]
    assert all(manifest["healthy"] for manifest in saved)


def manifests(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("ckpt-*.json"))]


@pytest.mark.parametrize(
    ("moment", "requested_at", "expected"),
    [
        ("on_train_begin", 0, [0, 2, 3]),
        ("on_eval_begin", 0, [0, 2, 3]),
        ("on_eval_end", 2, [2, 3]),  # by the save of the evaluation
        ("on_step_begin", 0, [1, 2, 3]),
        ("on_step_end", 0, [1, 2, 3]),
        ("on_step_end", 1, [2, 3]),
        ("on_step_end", 2, [2, 3]),  # by the final save
        ("on_train_end", 3, [2, 3]),  # too late
    ],
)
def test_a_callbacks_save_is_a_request(tmp_path: Path, moment: str, requested_at: int, expected: list[int]) -> None:
    """It is written where `save_interval` would save: after the evaluation of an iteration, or at the end."""

    def save(trainer: Trainer, *_: Any) -> None:
        if trainer.iter_num == requested_at:
            trainer.save()

    saving = Callback()
    setattr(saving, moment, save)
    Run(tmp_path, [saving], keep_last=99, max_iters=2).trainer.train()

    assert [manifest["iter_num"] for manifest in manifests(tmp_path)] == expected
    assert [manifest["val_loss"] is not None for manifest in manifests(tmp_path)] == [n in (0, 2) for n in expected]
    assert [manifest["finished"] for manifest in manifests(tmp_path)] == [n == 3 for n in expected]


@pytest.mark.parametrize(("moment", "requested_at", "expected"), [("on_step_begin", 2, 3), ("on_step_end", 3, 4)])
def test_a_save_request_is_kept_when_flags_come_late(
    tmp_path: Path, moment: str, requested_at: int, expected: int
) -> None:
    """As on a GPU, the verdict on the previous update comes after the request and does not contain it."""

    def save(trainer: Trainer, *_: Any) -> None:
        if trainer.iter_num == requested_at:
            trainer.save()

    saving = Callback()
    setattr(saving, moment, save)
    run = Run(tmp_path, [saving], keep_last=99, eval_interval=4, always_save_checkpoint=False)
    run.trainer.monitor.flags = LateFlags(torch.device("cpu"))
    run.trainer.counters.saved_val_loss = torch.tensor(-1.0)  # no evaluation saves
    run.trainer.train()

    assert saved_iterations(tmp_path) == [expected, 7]


def no_space(*names: Any) -> None:
    raise OSError(28, "No space left on device")


def test_training_continues_when_a_save_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails, replace = iter([True] * 2 + [False] * 99), os.replace

    def full(*names: Any) -> None:
        if next(fails):
            raise OSError(28, "No space left on device")
        replace(*names)

    monkeypatch.setattr(os, "replace", full)
    run = Run(tmp_path, keep_last=99)
    run.trainer.train()

    assert saved_iterations(tmp_path) == [6, 7]
    assert len(caplog.messages) == 1 and "No space left on device" in caplog.messages[0]


@pytest.mark.parametrize("in_background", [False, True])
def test_after_instability_only_a_complete_save_makes_a_run_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_background: bool
) -> None:
    trainer = Run(tmp_path).trainer
    trainer.checkpointer.snapshot = Snapshot() if in_background else None
    trainer.monitor.is_healthy = False
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_space)
        trainer.save_checkpoint()
        trainer.report_save(trainer.checkpointer.join())
    for _ in range(2):
        trainer.save_checkpoint()
        trainer.report_save(trainer.checkpointer.join())

    assert [manifest["healthy"] for manifest in manifests(tmp_path)] == [False, True]


def test_a_worse_evaluation_is_saved_if_the_save_of_the_best_one_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails, replace = iter([True] + [False] * 99), os.replace

    def full(*names: Any) -> None:
        if next(fails):
            raise OSError(28, "No space left on device")
        replace(*names)

    monkeypatch.setattr(os, "replace", full)
    run = Run(tmp_path, always_save_checkpoint=False)
    run.script_losses([5.0, 1.0, 2.0, 3.0])
    run.trainer.train()

    checkpoint = load_checkpoint(run.path)
    assert (checkpoint["iter_num"], float(checkpoint["best_val_loss"]), checkpoint["lowest_val_loss"]) == (4, 2.0, 1.0)


def test_a_save_requested_in_an_evaluation_is_still_linked(tmp_path: Path) -> None:
    """Otherwise a kill right after the save would lose the link of the evaluation."""

    class Save(Callback):
        def on_eval_end(self, trainer: Trainer, losses: Any) -> None:
            trainer.save()

    run = Run(tmp_path, [Save()], keep_last=99, always_save_checkpoint=False, max_iters=4)
    run.script_losses([5.0, 4.0, 6.0])
    run.trainer.train()

    assert [(manifest["iter_num"], manifest["linked"]) for manifest in manifests(tmp_path)] == [
        (0, False), (2, True), (4, False), (5, False)
    ]  # fmt: skip


@pytest.mark.parametrize("flags", [RankFlags, LateFlags])
def test_a_signal_that_interrupts_nothing_prevents_the_next_evaluation(tmp_path: Path, flags: Any) -> None:
    """With several processes a signal interrupts no draw; on a GPU its verdict comes late."""

    class Signals(Callback):
        def on_step_begin(self, trainer: Trainer) -> None:
            if trainer.iter_num == 1:
                signal.raise_signal(signal.SIGTERM)

    run = Run(tmp_path, [Signals()])
    run.trainer.monitor.flags = flags(torch.device("cpu"))
    with run.trainer.preemption, pytest.raises(PreemptedError, match="^stopped by SIGTERM at iteration 2;"):
        run.trainer.train()

    assert [metrics["iter"] for metrics in run.recorder.evals] == [0]


class InterruptsAt(Callback):
    """Interrupts the draw of the next batch once, in the update of an iteration."""

    def __init__(self, iter_num: int) -> None:
        self.iter_num = iter_num

    def on_step_begin(self, trainer: Trainer) -> None:
        if trainer.iter_num == self.iter_num:
            draw = trainer.step.get_batch

            def interrupted(split: str) -> Any:
                trainer.step.get_batch = draw
                torch.rand(3)
                raise Interrupted

            trainer.step.get_batch = interrupted


def test_an_interrupted_update_is_undone_and_the_run_stops(tmp_path: Path) -> None:
    torch.manual_seed(5)
    plain = Run(tmp_path / "plain", max_iters=2)
    plain.trainer.train()
    torch.manual_seed(5)
    run = Run(tmp_path / "interrupted", [InterruptsAt(3)])

    with pytest.raises(
        PreemptedError, match="^stopped by .* at iteration 3; to go on: .*train.py --init_from=resume --out_dir="
    ):
        run.trainer.train()

    ours, theirs = (load_checkpoint(run.trainer.checkpointer.checkpoints.load().path) for run in (run, plain))
    for checkpoint in (ours, theirs):
        del checkpoint["run"]
        for group in checkpoint["optimizer"]["param_groups"]:
            del group["lr"]  # the interrupted run had already set that of iteration 3
    assert_same(ours, theirs)
    assert run.recorder.events[-1] == "train_end"


def test_an_interrupted_evaluation_is_undone_and_the_run_stops(tmp_path: Path) -> None:
    def interrupted() -> Any:
        torch.rand(3)
        return None

    torch.manual_seed(5)
    run = Run(tmp_path, eval_interval=2)
    run.trainer.evaluator.on_ranks = lambda evaluation: evaluation() if run.trainer.iter_num < 2 else interrupted()
    with pytest.raises(PreemptedError, match="at iteration 2;"):
        run.trainer.train()

    checkpoint = load_checkpoint(run.trainer.checkpointer.checkpoints.load().path)
    assert (checkpoint["iter_num"], checkpoint["evaluated_at"]) == (2, 0)
    torch.manual_seed(5)
    uninterrupted = Run(tmp_path / "uninterrupted", max_iters=1)
    uninterrupted.trainer.train()
    assert_same(
        checkpoint["ranks"], load_checkpoint(uninterrupted.trainer.checkpointer.checkpoints.load().path)["ranks"]
    )


@pytest.mark.parametrize("updates", [0, 3])
def test_a_signal_while_waiting_for_the_first_batch_ends_the_run(tmp_path: Path, updates: int) -> None:
    """At the start, and after a rollback to the start: every draw is interrupted."""
    run = recovering(tmp_path, 3) if updates else Run(tmp_path)
    trainer, draw = run.trainer, run.trainer.step.get_batch
    trainer.checkpointer.checkpoints.load_healthy = lambda: None  # type: ignore[method-assign]

    def waiting(split: str) -> Any:
        if trainer.step.batch is None and trainer.step.updates >= updates:
            trainer.preemption._signal = "SIGTERM"
        if trainer.preemption.requested:
            raise Interrupted
        return draw(split)

    trainer.step.get_batch = waiting
    with pytest.raises(PreemptedError, match="^stopped by SIGTERM " + ("at iteration 0" if updates else "before the")):
        trainer.train()
    assert trainer.iter_num == 0 and trainer.step.batch is None and run.recorder.events[-1] == "train_end"


@pytest.mark.parametrize("failures", [0, 1])
def test_a_background_save_is_repeated_at_the_end_only_if_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    run = Run(tmp_path, [InterruptsAt(3)], save_interval=3, eval_interval=100)
    run.trainer.checkpointer.snapshot = Snapshot()
    fails, replace = iter([True] * failures + [False] * 99), os.replace

    def full(*names: Any) -> None:
        if next(fails):
            raise OSError(28, "No space left on device")
        replace(*names)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PreemptedError):
        run.trainer.train()

    assert saved_iterations(tmp_path) == [3]


def test_a_final_save_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", no_space)

    with pytest.raises(SaveError, match="could not be saved in .*No space left on device") as error:
        Run(tmp_path, max_iters=1).trainer.train()
    assert error.value.exit_status == 4


def test_background_saves_write_the_same_checkpoints(tmp_path: Path) -> None:
    for name, in_background in (("a", False), ("b", True)):
        torch.manual_seed(3)
        run = Run(tmp_path / name, save_interval=1, keep_last=99)
        if in_background:
            run.trainer.checkpointer.snapshot = Snapshot()
        run.trainer.train()
    ours, theirs = (
        [load_checkpoint(path) for path in sorted((tmp_path / name).glob("ckpt-*.pt"))] for name in ("a", "b")
    )

    assert len(ours) == 7
    for one, other in zip(ours, theirs, strict=True):
        del one["run"], other["run"]
        assert_same(one, other)
    assert sum("checkpoint ckpt" in event for event in run.recorder.events) == 7


def test_a_background_save_is_reported_before_a_rollback_to_it(tmp_path: Path) -> None:
    run = recovering(tmp_path, 2)
    run.trainer.checkpointer.snapshot = Snapshot()
    run.trainer.train()

    assert run.trainer.monitor.history[0]["back_to"] == 2
    saved = [event for event in run.recorder.events if event.startswith("checkpoint")]
    assert saved == [f"checkpoint ckpt-{number:06}.pt" for number in (1, 2, 3, 4)]


def test_a_background_save_is_reported_before_the_next_one_is_announced(tmp_path: Path) -> None:
    run = Run(tmp_path, keep_last=99)
    run.trainer.checkpointer.snapshot = Snapshot()
    run.trainer.train()

    reported = [event.split()[0] for event in run.recorder.events if event.startswith(("saving", "checkpoint"))]
    assert reported == ["saving", "checkpoint"] * 3 + ["checkpoint"]  # the last one is the final save


# resume


def test_a_checkpoint_of_more_processes_is_continued_with_other_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, max_iters=2)
    run.trainer.train()
    checkpoint = load_checkpoint(run.path)
    checkpoint["ranks"] *= 4

    resumed = Run(tmp_path, max_iters=1).trainer
    with caplog.at_level(logging.INFO, logger="coregpt"):
        resumed.restore(checkpoint, exact=True)

    assert caplog.messages == [
        "resume: the checkpoint has 4 random states, wanted 1; weights, optimizer and counters are exact, but other "
        "batches follow, as with --resume_rng=reseed"
    ]
    assert resumed.iter_num == 2 and resumed.step.batch is None and resumed.counters.evaluated_at is None
    assert resumed.max_iters == 1  # with resume_rng=reseed it would be 2, for one more update


def test_resumed_counters_follow_the_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, max_iters=2)
    run.script_losses([1.0, 3.0])
    run.trainer.train()

    resumed = Run(tmp_path).trainer
    resumed.restore(load_checkpoint(run.path), exact=True)

    assert (resumed.iter_num, resumed.counters.evaluated_at, resumed.step.updates) == (2, 2, 0)
    assert (resumed.best_val_loss, float(resumed.counters.saved_val_loss)) == (1.0, 3.0)


def test_state_of_callbacks_is_saved_and_restored(tmp_path: Path) -> None:
    class Counter(Callback):
        count = 0

        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    class NewCallback(Counter):
        count = 50

    run = Run(tmp_path, [Counter()], max_iters=2)
    run.trainer.train()

    old, new = Counter(), NewCallback()
    Run(tmp_path, [old, new]).trainer.restore(load_checkpoint(run.path), exact=True)

    assert (old.count, new.count) == (2, 50)


CHANGE = "; to change what stays, begin a new run with --init_from_checkpoint=out"


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({}, None),
        ({"out_dir": "elsewhere", "init_from": "resume"}, None),
        ({"learning_rate": 0.2}, "learning_rate 0.1 -> 0.2"),
        ({"n_layer": 3}, f"n_layer stays 2 (not 3){CHANGE}"),
        ({"block_size": 8}, "block_size 16 -> 8"),
        ({"an_option_of_ours": 1}, None),
        (
            {"n_layer": 3, "dropout": 0.1, "block_size": 8},
            f"n_layer stays 2 (not 3), block_size 16 -> 8, dropout 0.0 -> 0.1{CHANGE}",
        ),
    ],
)
def test_differing_options_are_named_on_resuming(
    tmp_path: Path, given: dict[str, Any], note: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, max_iters=2)
    run.trainer.train()

    with caplog.at_level(logging.INFO, logger="coregpt"):
        Run(tmp_path, config=CONFIG | given).trainer.restore(load_checkpoint(run.path), exact=True)

    assert caplog.messages == ([f"resume: the options differ from the checkpoint's: {note}"] if note else [])


@pytest.mark.parametrize("moment", ["on_step_begin", "on_step_end"])
def test_a_checkpoint_that_a_callback_requested_resumes_exactly(tmp_path: Path, moment: str) -> None:
    def save(trainer: Trainer, *_: Any) -> None:
        if trainer.iter_num == 2:
            trainer.save()

    saving = Callback()
    setattr(saving, moment, save)
    assert_resumes_exactly(tmp_path, saving)


def assert_resumes_exactly(folder: Path, saving: Callback) -> None:
    """Compare 4 updates with a save, then a resume up to 7 updates, with 7 updates without a resume."""
    torch.manual_seed(1)
    uninterrupted = Run(folder / "uninterrupted", max_iters=6, eval_interval=99)
    uninterrupted.trainer.train()
    torch.manual_seed(1)
    Run(folder / "resumed", [saving], max_iters=3, eval_interval=99).trainer.train()

    resumed = Run(folder / "resumed", max_iters=6, eval_interval=99)
    checkpoint = load_checkpoint(resumed.path.with_name("ckpt-000001.pt"))
    resumed.model.load_state_dict(checkpoint["model"])
    load_optimizer_state(resumed.trainer.step.optimizer, checkpoint["optimizer"])
    resumed.trainer.restore(checkpoint, exact=True)
    resumed.trainer.train()

    assert_same(resumed.model.state_dict(), uninterrupted.model.state_dict())


@pytest.mark.parametrize("key", ["iter_num", "best_val_loss"])
def test_a_checkpoint_that_lacks_a_counter_is_refused(tmp_path: Path, key: str) -> None:
    run = Run(tmp_path, max_iters=2)
    run.trainer.train()
    checkpoint = load_checkpoint(run.path)
    del checkpoint[key]

    with pytest.raises(CheckpointError, match=key):
        run.trainer.restore(checkpoint, exact=True)


# batches of any structure


class Nested(Objective):
    """An objective for a batch of dicts and lists."""

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        assert isinstance(batch["inputs"], list) and batch["seed"].dim() == 0
        return Output(model(batch["inputs"][0], batch["targets"]["numbers"])[1], {})


def nested(split: str) -> Any:
    return {"inputs": [torch.randn(4, 3)], "targets": {"numbers": torch.randn(4, 2)}, "seed": torch.tensor(7)}


def test_a_batch_of_any_structure_is_saved_and_restored(tmp_path: Path) -> None:
    run, batch = Run(tmp_path, objective=Nested()), {"tokens": torch.arange(4), "length": 4, "mask": None}
    run.trainer.step.batch = batch
    run.trainer.save_checkpoint(link=True)

    resumed = Run(tmp_path, objective=Nested()).trainer
    resumed.restore(load_checkpoint(run.path), exact=True)

    assert_same(resumed.step.batch, batch)


def test_batches_of_any_structure_train_and_resume(tmp_path: Path) -> None:
    torch.manual_seed(1)
    uninterrupted = tiny_trainer(tmp_path / "uninterrupted", Nested(), get_batch=nested)
    uninterrupted.train()
    torch.manual_seed(1)
    tiny_trainer(tmp_path / "resumed", Nested(), get_batch=nested, max_iters=3).train()

    resumed = tiny_trainer(tmp_path / "resumed", Nested(), get_batch=nested)
    latest = resumed.checkpointer.checkpoints.load()
    checkpoint = load_checkpoint(latest.path)
    resumed.raw_model.load_state_dict(checkpoint["model"])
    load_optimizer_state(resumed.step.optimizer, checkpoint["optimizer"])
    resumed.restore(checkpoint, exact=True, manifest=latest.manifest)
    resumed.train()

    assert_same(resumed.raw_model.state_dict(), uninterrupted.raw_model.state_dict())
