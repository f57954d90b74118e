"""The loop: what happens when, what is saved, and that nothing is lost on the way."""

import copy
import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import core.trainer
import extras
import train
from core.callback import Callback
from core.checkpoint.checkpointer import Archive
from core.checkpoint.format import load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.checkpoint.save_schedule import SaveSchedule
from core.checkpoint.snapshot import Snapshot
from core.errors import CheckpointError, DivergedError, SaveError
from core.evaluator import Evaluator
from core.logger import CompositeLogger, Logger, Metrics
from core.objective import LanguageModeling, Objective, Output
from core.optimizer import load_optimizer_state
from core.parallel import Replicated
from core.preemption import Preemption
from core.runtime import Runtime
from core.scheduler import CosineLRScheduler
from core.stability.detector import InstabilityDetector
from core.stability.flags import Answers, Ballot
from core.stability.recovery import Recovery
from core.trainer import Trainer
from core.training_step import TrainingStep

NAN = float("nan")
CONFIG = {
    "learning_rate": 0.1,
    "n_layer": 2,
    "block_size": 16,
    "dropout": 0.0,
    "out_dir": "out",
    "init_from": "scratch",
}


class Line(nn.Module):
    """A model of 8 numbers with nanoGPT's contract; its `mfu` counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.asked: list[tuple[float, float]] = []

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.linear(inputs)
        return outputs, (outputs - targets).square().mean()

    def estimate_mfu(self, fwdbwd_per_iter: float, dt: float) -> float:
        self.asked.append((fwdbwd_per_iter, dt))
        return float(len(self.asked))


class Recorder(Logger, Callback):
    """Keeps all that is reported, and the order of everything in `events`."""

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
    """A trainer of real parts on a Line, and what there is to see of it."""

    def __init__(self, out_dir: Path, callbacks: Sequence[Any] = (), objective: Any = None, **changes: Any) -> None:
        self.recorder, self.model = Recorder(), Line()
        self.drawn: list[Any] = []
        fresh = copy.deepcopy(self.model)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=123.0)
        parallel, runtime = Replicated(False, torch.device("cpu")), Runtime(device="cpu")
        checkpoints = CheckpointManager(out_dir, keep_last=changes.pop("keep_last", 2))
        saves = SaveSchedule(changes.pop("save_interval", 0))
        config = CONFIG | changes.pop("config", {})
        detector = InstabilityDetector()
        objective = objective or LanguageModeling()
        step = TrainingStep(
            self.model,
            objective,
            optimizer,
            self.get_batch,
            scaler=runtime.scaler,
            autocast=runtime.autocast,
            grad_sync=parallel.grad_sync(self.model),
            clip=parallel.clip,
            norm=parallel.norm,
            gradient_accumulation_steps=changes.pop("gradient_accumulation_steps", 2),
            grad_clip=changes.pop("grad_clip", 1.0),
        )
        evaluator = Evaluator(self.model, objective, self.get_batch, eval_iters=2, autocast=nullcontext())
        scheduler = CosineLRScheduler(changes.pop("learning_rate", 0.1), 2, 10, 0.01)
        settings: dict[str, Any] = dict(
            max_iters=6,
            eval_interval=2,
            log_interval=1,
            eval_only=False,
            always_save_checkpoint=True,
            sequences_per_iter=8,
            config=config,
        )
        archive = Archive(
            self.model,
            step,
            runtime,
            parallel,
            checkpoints,
            saves,
            detector,
            data=None,
            remake=lambda: (fresh, None),
            model_args={"n": 1},
            config=config,
            provenance={"world_size": 1},
        )
        recovery = Recovery(changes.pop("on_instability", "stop"), changes.pop("max_recoveries", 3))
        self.trainer = Trainer(
            self.model,
            step,
            scheduler,
            evaluator,
            archive,
            recovery,
            Preemption(),
            CompositeLogger([self.recorder]),
            runtime,
            [self.recorder, *callbacks],
            **settings | changes,
        )
        self.path = checkpoints.path

    def get_batch(self, split: str) -> Any:
        self.recorder.events.append(split)
        self.drawn.append((torch.randn(4, 3), torch.randn(4, 2)))
        return self.drawn[-1]

    def script_losses(self, losses: Sequence[float]) -> None:
        """Let evaluations find these validation losses, one after the other."""
        remaining = iter(losses)
        self.trainer.evaluator.evaluate_splits = lambda: {  # type: ignore[method-assign]
            "train": torch.tensor(1.0),
            "val": torch.tensor(next(remaining)),
        }


# when things happen


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
    trainer.evaluated_at = evaluated_at

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
    assert trainer.stop_reason == reason


def test_loop_keeps_nanogpts_order(tmp_path: Path) -> None:
    """The first batch is drawn before the first evaluation, and every update draws for the one that follows."""
    run = Run(tmp_path / "out", max_iters=2)
    run.trainer.train()

    evaluation = ["eval_begin", "train", "train", "val", "val", "log_eval", "eval_end"]
    update = ["step_begin", "train", "train", "step_end", "log_step"]
    saving = [f"saving checkpoint to {tmp_path}/out", "checkpoint ckpt-000001.pt"]
    assert run.recorder.events == [
        *["train", "train_begin"],
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


def test_a_run_that_is_past_its_end_makes_no_update(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.trainer.iter_num = 7

    assert run.trainer.train() == math.inf
    assert run.recorder.events == ["train", "train_begin", "train_end"]


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


def test_a_group_of_parameters_may_have_a_factor_of_its_own(tmp_path: Path) -> None:
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
    run.trainer.iter_num = run.trainer.evaluated_at = begin
    before = {name: value.clone() for name, value in run.model.state_dict().items()}

    loss = run.trainer.train()

    evaluation = ["eval_begin", "train", "train", "val", "val", "log_eval", "eval_end"]
    assert run.recorder.events == ["train", "train_begin", *evaluation, "train_end"]
    assert loss == run.recorder.evals[0]["val/loss"].item()
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    assert not run.path.exists()


def test_stop_ends_the_run_after_the_iteration_at_hand(tmp_path: Path) -> None:
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
    """Divided by the number of micro-batches in float32 and multiplied back by Python, as nanoGPT prints it."""
    run = Run(tmp_path, max_iters=0, gradient_accumulation_steps=accumulation, eval_interval=9)
    start = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.trainer.iter_num = 0
    run.trainer.train()

    run.model.load_state_dict(start)
    drawn_for_training = [run.drawn[0], *run.drawn[5:]]  # between them the evaluation's
    loss = run.model(*drawn_for_training[accumulation - 1])[1]
    (step,) = run.recorder.steps
    assert step["loss"] == (loss / accumulation).item() * accumulation
    assert step["time_ms"] > 0


def test_gradient_norm_is_reported_where_it_is_known(tmp_path: Path) -> None:
    clipped, free = Run(tmp_path, max_iters=0), Run(tmp_path, max_iters=0, grad_clip=0.0)
    clipped.trainer.train()
    free.trainer.train()

    assert clipped.recorder.steps[0]["grad_norm"] > 0
    assert "grad_norm" not in free.recorder.steps[0]


@pytest.mark.parametrize(
    ("log_interval", "expected"),
    [
        (1, [-100, -100, -100, -100, -100, 100, 90 + 20, 0.9 * 110 + 30]),
        (2, [-100, -100, -100, 100]),
        (5, [-100, 100]),
    ],
)
@pytest.mark.parametrize("begin", [0, 100])
def test_mfu_is_trusted_after_five_iterations_of_this_process(
    tmp_path: Path, begin: int, log_interval: int, expected: list[float]
) -> None:
    """Then it is the running mean of the logged iterations, nine parts old and one part new."""
    run = Run(tmp_path, max_iters=begin + 7, log_interval=log_interval)
    run.trainer.iter_num = begin
    run.trainer.train()

    assert [step["mfu"] for step in run.recorder.steps] == pytest.approx(expected)
    assert {sequences for sequences, _ in run.model.asked} == {8}
    times = [step["time_ms"] / 1000 for step in run.recorder.steps[-len(run.model.asked) :]]
    assert [seconds for _, seconds in run.model.asked] == pytest.approx(times)


def test_time_of_an_update_is_that_since_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations and saving count with the update that follows, as in nanoGPT."""
    readings = iter([100.0, 101.0, 103.0, 107.0])
    monkeypatch.setattr(core.trainer, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    run = Run(tmp_path, max_iters=2)
    run.trainer.train()

    assert [step["time_ms"] for step in run.recorder.steps] == [1000, 2000, 4000]


def test_evaluation_is_reported_under_nanogpts_names(tmp_path: Path) -> None:
    run = Run(tmp_path, max_iters=6)
    run.trainer.train()

    assert [list(metrics) for metrics in run.recorder.evals] == [["iter", "train/loss", "val/loss", "lr", "mfu"]] * 4
    assert [metrics["iter"] for metrics in run.recorder.evals] == [0, 2, 4, 6]
    assert [metrics["mfu"] for metrics in run.recorder.evals] == [-100, -100, -100, 100]
    assert [metrics["mfu"] for metrics in run.recorder.steps][5] == 100


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


def test_only_the_master_writes(tmp_path: Path) -> None:
    run = Run(tmp_path, max_iters=2)
    run.trainer.runtime.is_master = False
    losses = {"train": torch.tensor(1.0), "val": torch.tensor(1.0)}
    answers = iter([losses, losses, (run.path, None), (run.path, None)])  # what the master would broadcast

    run.trainer.runtime.on_master = lambda compute: next(answers)  # type: ignore[method-assign]
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


def test_a_loss_that_is_not_finite_stops_the_run_before_anything_is_saved(tmp_path: Path) -> None:
    run = Run(tmp_path, objective=BreaksAt(8, NAN))  # the second micro-batch of iteration 3

    with pytest.raises(DivergedError) as error:
        run.trainer.train()

    assert error.value.exit_status == 3
    assert str(error.value).startswith("iteration 3: the loss is not finite and the gradient is not finite; stopped, ")
    assert [step["iter"] for step in run.recorder.steps] == [0, 1, 2]
    checkpoint = load_checkpoint(run.path)
    assert checkpoint["iter_num"] == 2
    assert all(bool(value.isfinite().all()) for value in checkpoint["model"].values())


def test_a_gradient_that_is_not_finite_stops_the_run_as_well(tmp_path: Path) -> None:
    """The first micro-batch's loss is not the one reported, but its gradient is part of the update."""
    run = Run(tmp_path, objective=BreaksAt(1, NAN))

    with pytest.raises(DivergedError, match="^iteration 0: the loss is not finite and the gradient is not finite; sto"):
        run.trainer.train()
    assert not run.path.exists()


def test_on_request_there_is_a_warning_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, objective=BreaksAt(8, NAN), on_instability="warn", max_iters=4)
    with pytest.raises(SaveError, match="a weight or a moment of the optimizer is not finite"):
        run.trainer.train()

    assert caplog.messages[0] == "iteration 3: the loss is not finite and the gradient is not finite"
    assert run.trainer.iter_num == 5


@pytest.mark.parametrize(("val", "stops"), [(NAN, True), (math.inf, True), (9.0, False)])
def test_an_evaluation_that_is_not_finite_stops_the_run_before_it_is_saved(
    tmp_path: Path, val: float, stops: bool
) -> None:
    run = Run(tmp_path, max_iters=2)
    run.script_losses([1.0, val])

    if stops:
        with pytest.raises(DivergedError, match="^iteration 1: the evaluation after it is not finite; stopped"):
            run.trainer.train()
    else:
        run.trainer.train()
    assert run.path.exists() is not stops
    assert run.trainer.best_val_loss == 1.0


class Late(Ballot):
    """Answers one update late, as on a GPU."""

    answers: Answers | None = None

    def cast(self, iter_num: int, flags: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Answers | None]:
        agreed, answers = super().cast(iter_num, flags)
        answers, self.answers = self.answers, answers
        return agreed, answers

    def settle(self) -> Answers | None:
        answers, self.answers = self.answers, None
        return answers

    def clear(self) -> None:
        self.answers = None


def test_a_verdict_that_is_still_on_its_way_is_awaited_before_saving(tmp_path: Path) -> None:
    """As on a GPU, where the verdict on an update comes with the next one."""

    run = Run(tmp_path, objective=BreaksAt(4, NAN))  # the last update before the first checkpoint
    run.trainer.ballot = Late()
    run.script_losses([1.0, 1.0])

    with pytest.raises(DivergedError, match="^iteration 1: the loss is not finite"):
        run.trainer.train()
    assert not run.path.exists()


# going back


class BreaksOn(Objective):
    """An objective whose loss is not finite for certain batches, wherever they turn up."""

    def __init__(self) -> None:
        self.poisoned: list[torch.Tensor] = []

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        output = LanguageModeling()(model, batch, train)
        bad = train and any(torch.equal(batch[0], inputs) for inputs in self.poisoned)
        return Output(output.loss * NAN, {}) if bad else output


class PoisonAt(Callback):
    """Makes the batch that waits at the top of an iteration one that breaks."""

    def __init__(self, objective: BreaksOn, iter_num: int) -> None:
        self.objective, self.iter_num, self.met = objective, iter_num, 0

    def on_step_begin(self, trainer: Trainer) -> None:
        if trainer.iter_num == self.iter_num:
            self.met += 1
            if self.met == 1:
                assert trainer.step.batch is not None
                self.objective.poisoned.append(trainer.step.batch[0].clone())


def recovering(folder: Path, *iterations: int, **changes: Any) -> Run:
    objective = BreaksOn()
    callbacks = [PoisonAt(objective, iter_num) for iter_num in iterations]
    torch.manual_seed(4)
    return Run(
        folder, callbacks, objective, **{"on_instability": "recover", "gradient_accumulation_steps": 1} | changes
    )


def test_a_run_that_breaks_goes_back_to_the_last_checkpoint_and_leaves_that_batch_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
    assert load_checkpoint(run.trainer.archive.checkpoints.load().path)["recovery"]["history"] == history
    assert run.recorder.recoveries == [history]


def test_before_the_first_checkpoint_the_run_starts_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = recovering(tmp_path, 1)

    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert run.recorder.steps[0]["loss"] == run.recorder.steps[1]["loss"]
    assert run.recorder.evals[0]["val/loss"] == run.recorder.evals[1]["val/loss"]
    assert "going on from iteration 0 (the beginning)" in caplog.messages[0]


def test_a_recovery_can_be_replayed_to_the_bit(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        runs.append(recovering(tmp_path / name, 3, 5))
        runs[-1].trainer.train()

    assert_same(*(run.model.state_dict() for run in runs))
    assert [step["loss"] for step in runs[0].recorder.steps] == [step["loss"] for step in runs[1].recorder.steps]


def test_the_budget_ends_in_a_diagnosis(tmp_path: Path) -> None:
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


def test_every_recovery_can_slow_the_run_down(tmp_path: Path) -> None:
    run = recovering(tmp_path, 5)
    run.trainer.recovery.lr_factor = 0.5

    run.trainer.train()

    rates = [run.trainer.scheduler.get_lr(iter_num) for iter_num in range(7)]
    assert [step["lr"] for step in run.recorder.steps] == [*rates[:5], *(rate / 2 for rate in rates[4:])]


def test_an_update_can_be_left_out_instead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = recovering(tmp_path, 3, on_instability="skip", max_iters=4)
    weights = []

    class Weights(Callback):
        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            weights.append(run.model.linear.weight.detach().clone())

    run.trainer.callbacks.callbacks.append(Weights())
    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps] == [0, 1, 2, 3, 4]
    assert [torch.equal(old, new) for old, new in pairwise(weights)] == [False, False, True, False]
    assert caplog.messages[0].endswith("this update is left out")


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """However they came to be: here a bit flips in memory after the last update before a save."""

    class Flip(Callback):
        struck = False

        def on_eval_end(self, trainer: Trainer, losses: Any) -> None:
            if trainer.iter_num == 4 and not self.struck:
                self.struck = True
                with torch.no_grad():
                    trainer.raw_model.linear.bias[0] = math.inf

    run = Run(tmp_path, [Flip()], on_instability="recover", keep_last=9)
    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps] == [0, 1, 2, 3, 2, 3, 4, 5, 6]
    for path in tmp_path.glob("ckpt-*.pt"):
        assert all(bool(value.isfinite().all()) for value in load_checkpoint(path)["model"].values())
    (recovery,) = run.trainer.recovery.history
    assert recovery == {"iter": 3, "cause": "a weight or a moment of the optimizer is not finite", "back_to": 2}


def test_a_run_whose_last_update_was_unsound_goes_on_to_its_end(tmp_path: Path) -> None:
    """A GPU tells of the last update when the loop is over: the run then has to go on once more."""

    run = recovering(tmp_path, 6)
    run.trainer.ballot = Late()
    run.trainer.train()

    assert [step["iter"] for step in run.recorder.steps][-2:] == [6, 6]
    assert run.trainer.iter_num == 7 and len(run.trainer.recovery.history) == 1
    assert math.isfinite(run.recorder.steps[-1]["loss"])


# saving beside evaluations, and in a hostile world


def saved_iterations(folder: Path) -> list[int]:
    return [load_checkpoint(path)["iter_num"] for path in sorted(folder.glob("ckpt-*.pt"))]


@pytest.mark.parametrize(
    ("interval", "expected"), [(0, [2, 4, 6, 7]), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [2, 3, 4, 6, 7]), (7, [2, 4, 6, 7])]
)
def test_saves_by_interval_come_beside_those_of_evaluations_and_the_final_one(
    tmp_path: Path, interval: int, expected: list[int]
) -> None:
    run = Run(tmp_path, save_interval=interval, keep_last=99)
    run.trainer.train()

    assert saved_iterations(tmp_path) == expected
    assert load_checkpoint(run.path)["iter_num"] == 6  # nanoGPT's file at nanoGPT's times


def test_a_clock_that_says_so_has_the_next_iteration_saved(tmp_path: Path) -> None:
    run = Run(tmp_path, keep_last=99, eval_interval=100)
    overdue = iter([False, False, True, False, False, False, False])
    run.trainer.saves.is_overdue = lambda: next(overdue)  # type: ignore[method-assign]
    run.trainer.train()

    assert saved_iterations(tmp_path) == [3, 7]


def test_only_a_save_of_these_very_weights_counts_as_measured(tmp_path: Path) -> None:
    run = Run(tmp_path, save_interval=1, keep_last=99, max_iters=2)
    run.trainer.train()

    manifests = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("ckpt-*.json"))]
    assert [manifest["val_loss"] is not None for manifest in manifests] == [False, True, False]
    assert [manifest["finished"] for manifest in manifests] == [False, False, True]
    assert [manifest["linked"] for manifest in manifests] == [False, True, False]
    assert all(manifest["healthy"] for manifest in manifests)


def test_a_save_after_an_update_is_not_of_the_weights_that_were_evaluated_before_it(tmp_path: Path) -> None:
    class Save(Callback):
        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            trainer.save()

    Run(tmp_path, [Save()], keep_last=99, max_iters=2).trainer.train()

    manifests = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("ckpt-*.json"))]
    assert [manifest["iter_num"] for manifest in manifests] == [1, 2, 2, 3]
    assert [manifest["val_loss"] is not None for manifest in manifests] == [False, False, True, False]
    assert [manifest["finished"] for manifest in manifests] == [False, False, False, True]


def test_training_goes_on_when_a_save_fails(
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


def test_an_evaluation_whose_save_failed_is_not_the_one_to_beat(
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


def test_what_a_callback_saves_while_an_evaluation_ends_is_saved_with_it(tmp_path: Path) -> None:
    """Else a kill right after it would lose the link that the evaluation makes."""

    class Save(Callback):
        def on_eval_end(self, trainer: Trainer, losses: Any) -> None:
            assert trainer.save()

    run = Run(tmp_path, [Save()], keep_last=99, always_save_checkpoint=False, max_iters=4)
    run.script_losses([5.0, 4.0, 6.0])
    run.trainer.train()

    manifests = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("ckpt-*.json"))]
    assert [(manifest["iter_num"], manifest["linked"]) for manifest in manifests] == [
        (0, False), (2, True), (4, False), (5, False)
    ]  # fmt: skip


def test_a_final_save_in_the_background_that_fails_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, save_interval=7, max_iters=6, eval_interval=100)
    run.trainer.archive.snapshot = Snapshot()
    fails, replace = iter([True] + [False] * 99), os.replace

    def full(*names: Any) -> None:
        if next(fails):
            raise OSError(28, "No space left on device")
        replace(*names)

    class Last(Callback):
        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            if trainer.iter_num == 6:
                monkeypatch.setattr(os, "replace", full)
                trainer.save()

    run.trainer.callbacks.callbacks.append(Last())
    run.trainer.train()

    assert saved_iterations(tmp_path) == [7]


def test_a_final_save_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*names: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)

    with pytest.raises(SaveError, match="could not be saved in .*No space left on device") as error:
        Run(tmp_path, max_iters=1).trainer.train()
    assert error.value.exit_status == 4


def test_a_run_in_the_background_saves_the_same(tmp_path: Path) -> None:
    for name, in_background in (("a", False), ("b", True)):
        torch.manual_seed(3)
        run = Run(tmp_path / name, save_interval=1, keep_last=99)
        if in_background:
            run.trainer.archive.snapshot = Snapshot()
        run.trainer.train()
    ours, theirs = (
        [load_checkpoint(path) for path in sorted((tmp_path / name).glob("ckpt-*.pt"))] for name in ("a", "b")
    )

    assert len(ours) == 7
    for one, other in zip(ours, theirs, strict=True):
        del one["run"], other["run"]
        assert_same(one, other)
    assert sum("checkpoint ckpt" in event for event in run.recorder.events) == 7


# resuming


def lines(text: str) -> list[str]:
    """Return the lines of evaluations and updates, without the times."""
    return [line.split(", time")[0] for line in text.splitlines() if line.startswith(("step", "iter"))]


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare nested values; tensors to the bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for our_part, their_part in zip(ours, theirs, strict=True):
            assert_same(our_part, their_part)
    elif torch.is_tensor(ours):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize("stopped_at", [3, 4, 5])
def test_a_resumed_run_ends_on_the_bits_of_an_uninterrupted_one(
    run_dir: Path, tiny_argv: list[str], stopped_at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, optimizer, random state, waiting batch and losses: with dropout and accumulation, from iteration 3."""
    train.main([*tiny_argv, "--out_dir=whole"])
    whole = lines(capsys.readouterr().out)
    train.main([*tiny_argv, "--out_dir=halves", f"--max_iters={stopped_at}"])
    first = lines(capsys.readouterr().out)
    torch.rand(99)  # a new process starts from another state
    best = train.main([*tiny_argv, "--out_dir=halves", "--init_from=resume"])
    second = lines(capsys.readouterr().out)

    ours, theirs = (load_checkpoint(CheckpointManager(folder).load().path) for folder in ("halves", "whole"))
    assert ours["iter_num"] == 7
    for checkpoint in (ours, theirs):
        for key in ("config", "run", "loggers"):  # the times in metrics.jsonl are not the same
            del checkpoint[key]
    assert_same(ours, theirs)
    assert first + second == whole
    assert best == theirs["lowest_val_loss"]


def test_on_request_a_resumed_run_reseeds_and_evaluates_again(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """nanoGPT's way: the batches of the beginning once more."""
    train.main([*tiny_argv, "--max_iters=3"])
    capsys.readouterr()
    seen = []

    class FirstBatch(Callback):
        def on_train_begin(self, trainer: Trainer) -> None:
            seen.append(trainer.step.batch)

    train.main([*tiny_argv, "--init_from=resume", "--resume_rng=reseed"], [FirstBatch()])

    assert [line.split(":")[0] for line in lines(capsys.readouterr().out)][:3] == ["iter 4", "iter 5", "step 6"]
    saved = load_checkpoint("out/ckpt.pt")
    assert not torch.equal(seen[0][0], saved["ranks"][0]["batch"][0])
    train.main([*tiny_argv, "--init_from=resume", "--resume_rng=reseed"], [FirstBatch()])
    assert torch.equal(seen[0][0], seen[1][0])


def test_a_checkpoint_of_nanogpts_is_continued_as_nanogpt_does(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*tiny_argv, "--max_iters=3"])
    checkpoint = torch.load("out/ckpt.pt", weights_only=True)
    shutil.rmtree("out")
    os.mkdir("out")
    nanogpts = ("model", "optimizer", "model_args", "iter_num", "best_val_loss", "config")
    torch.save({key: checkpoint[key] for key in nanogpts}, "out/ckpt.pt")
    capsys.readouterr()

    best = train.main([*tiny_argv, "--init_from=resume", "--max_iters=3"])

    out, err = capsys.readouterr()
    assert lines(out)[0].startswith("step 3: ")
    assert "resume: the checkpoint has no random state; weights, optimizer and counters are exact, but other" in err
    assert best <= float(checkpoint["best_val_loss"])


def test_a_checkpoint_of_more_processes_is_continued_with_other_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, max_iters=2)
    run.trainer.train()
    checkpoint = load_checkpoint(run.path)
    checkpoint["ranks"] *= 4

    resumed = Run(tmp_path).trainer
    with caplog.at_level(logging.INFO, logger="coregpt"):
        resumed.restore(checkpoint, exact=True)

    assert caplog.messages == [
        "resume: the checkpoint has 4 random states, wanted 1; weights, optimizer and counters are exact, but other "
        "batches follow, as with --resume_rng=reseed"
    ]
    assert resumed.iter_num == 2 and resumed.step.batch is None and resumed.evaluated_at is None


def test_resumed_counters_follow_the_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, max_iters=2)
    run.script_losses([1.0, 3.0])
    run.trainer.train()

    resumed = Run(tmp_path).trainer
    resumed.restore(load_checkpoint(run.path), exact=True)

    assert (resumed.iter_num, resumed.evaluated_at, resumed.local_iter_num) == (2, 2, 0)
    assert (resumed.best_val_loss, float(resumed.saved_val_loss)) == (1.0, 3.0)


def test_state_of_callbacks_is_saved_and_restored(tmp_path: Path) -> None:
    class Counter(Callback):
        count = 0

        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    class Newcomer(Counter):
        count = 50

    run = Run(tmp_path, [Counter()], max_iters=2)
    run.trainer.train()

    old, new = Counter(), Newcomer()
    Run(tmp_path, [old, new]).trainer.restore(load_checkpoint(run.path), exact=True)

    assert (old.count, new.count) == (2, 50)


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({}, None),
        ({"out_dir": "elsewhere", "init_from": "resume"}, None),
        ({"learning_rate": 0.2}, "learning_rate 0.1 -> 0.2"),
        ({"n_layer": 3}, "n_layer stays 2 (not 3)"),
        ({"block_size": 8}, "block_size 16 -> 8"),
        ({"an_option_of_ours": 1}, None),
        (
            {"n_layer": 3, "dropout": 0.1, "block_size": 8},
            "n_layer stays 2 (not 3), block_size 16 -> 8, dropout 0.0 -> 0.1",
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


@pytest.mark.parametrize(
    "moment",
    ["on_step_begin", "on_step_end"],
)
def test_a_checkpoint_that_a_callback_saves_resumes_exactly(tmp_path: Path, moment: str) -> None:
    def save(trainer: Trainer, *_: Any) -> None:
        if trainer.iter_num == 3:
            trainer.save()

    saving = Callback()
    setattr(saving, moment, save)
    assert_resumes_exactly(tmp_path, saving)


def assert_resumes_exactly(folder: Path, saving: Callback) -> None:
    """Train 4 updates, saving within the fourth, resume, train on to 7, and compare with 7 in one go."""
    torch.manual_seed(1)
    whole = Run(folder / "whole", max_iters=6, eval_interval=99)
    whole.trainer.train()
    torch.manual_seed(1)
    Run(folder / "halves", [saving], max_iters=3, eval_interval=99).trainer.train()

    resumed = Run(folder / "halves", max_iters=6, eval_interval=99)
    checkpoint = load_checkpoint(resumed.path.with_name("ckpt-000001.pt"))
    resumed.model.load_state_dict(checkpoint["model"])
    load_optimizer_state(resumed.trainer.step.optimizer, checkpoint["optimizer"])
    resumed.trainer.restore(checkpoint, exact=True)
    resumed.trainer.train()

    assert_same(resumed.model.state_dict(), whole.model.state_dict())


def test_a_batch_that_only_the_objective_understands_is_saved_and_restored(tmp_path: Path) -> None:
    run, batch = Run(tmp_path), {"tokens": torch.arange(4), "length": 4, "mask": None}
    run.trainer.step.batch = batch
    run.trainer.save(link=True)

    resumed = Run(tmp_path).trainer
    resumed.restore(load_checkpoint(run.path), exact=True)

    assert_same(resumed.step.batch, batch)


def test_a_checkpoint_without_an_optimizer_is_not_resumed(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--max_iters=3"])
    checkpoint = torch.load("out/ckpt.pt", weights_only=True)
    del checkpoint["optimizer"]
    shutil.rmtree("out")
    os.mkdir("out")
    torch.save(checkpoint, "out/ckpt.pt")

    with pytest.raises(CheckpointError, match="optimizer"):
        train.main([*tiny_argv, "--init_from=resume"])


@pytest.mark.parametrize("key", ["iter_num", "best_val_loss"])
def test_a_checkpoint_that_lacks_a_counter_is_refused(tmp_path: Path, key: str) -> None:
    run = Run(tmp_path, max_iters=2)
    run.trainer.train()
    checkpoint = load_checkpoint(run.path)
    del checkpoint[key]

    with pytest.raises(CheckpointError, match=key):
        run.trainer.restore(checkpoint, exact=True)


def test_loggers_are_closed_when_resuming_fails(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing(Recorder):
        open = False

        def close(self) -> None:
            self.open = False

    class Picky(Callback):
        def state_dict(self) -> dict[str, int]:
            return {}

        def load_state_dict(self, state: dict[str, int]) -> None:
            raise RuntimeError("saved by another version")

    logger = Closing()

    def loggers(*_: Any) -> list[Logger]:
        logger.open = True
        return [logger]

    train.main([*tiny_argv, "--max_iters=3"], [Picky()])
    monkeypatch.setattr(extras, "loggers", loggers)
    with pytest.raises(RuntimeError, match="saved by another version"):
        train.main([*tiny_argv, "--init_from=resume"], [Picky()])

    assert not logger.open


def test_attention_that_stays_as_saved_is_not_announced_as_changed(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    types = []

    class Types(Callback):
        def on_train_begin(self, trainer: Trainer) -> None:
            types.append(trainer.raw_model.config.attention_type)

    train.main([*tiny_argv, "--max_iters=3", "--attention_type=bidirectional"], [Types()])
    train.main([*tiny_argv, "--init_from=resume"], [Types()])

    assert types == ["bidirectional", "bidirectional"]
    assert "attention_type bidirectional -> causal" not in capsys.readouterr().err
