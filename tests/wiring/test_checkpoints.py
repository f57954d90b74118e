"""The checkpointer and the monitor get the values of the options and the data."""

from typing import Any

import pytest
import torch

import core
import wiring
from core.errors import DivergedError
from tests.wiring.tiny_task import TEXT, task


def make_parts(run: core.Runtime, **options: Any) -> tuple[core.Checkpointer, core.StabilityMonitor]:
    tiny_task = task(run, **options)
    model, detector = torch.nn.Linear(2, 2), core.InstabilityDetector()
    step = core.TrainingStep(
        model, core.LanguageModeling(), torch.optim.SGD(model.parameters()), tiny_task.run_data.draw
    )
    manager = core.CheckpointManager(tiny_task.options.out_dir)
    make_model: Any = lambda: (core.LoadedModel(model, {}), None)  # noqa: E731
    parts = model, {"n_layer": 1}, make_model, step, manager, detector
    checkpointer = wiring.make_checkpointer(tiny_task.options, run, tiny_task.run_data, *parts)
    return checkpointer, wiring.make_monitor(tiny_task.options, run, model, step, detector)


def test_checkpoints_carry_options_arguments_and_provenance(run: core.Runtime) -> None:
    checkpointer, _ = make_parts(run, save_interval=7, save_minutes=2, async_save=True)

    notes = checkpointer.notes
    assert notes.model_args == {"n_layer": 1} and notes.config["save_interval"] == 7 and "meta" not in notes.config
    assert notes.provenance["data_fingerprint"] == checkpointer.data.fingerprint()
    assert notes.provenance["torch"] == str(torch.__version__)
    assert (checkpointer.schedule.interval, checkpointer.schedule.seconds) == (7, 120)
    assert checkpointer.snapshot is not None and make_parts(run)[0].snapshot is None


def test_checkpoints_contain_the_special_ids(run: core.Runtime) -> None:
    checkpointer, _ = make_parts(run, training_type="unmasking")

    assert checkpointer.notes.config["meta"]["mask_token_id"] == TEXT


def test_the_monitor_has_the_values_of_the_options(run: core.Runtime) -> None:
    _, monitor = make_parts(run, on_instability="skip", max_recoveries=2, recovery_skip=1, recovery_lr_factor=0.5)

    recovery = monitor.recovery
    assert (recovery.on_instability, recovery.max_recoveries) == ("skip", 2)
    assert (recovery.skip, recovery.lr_factor) == (1, 0.5)
    assert "the batch: no update was made yet" in monitor.diagnosis(0)


def test_check_every_step_reports_logits_of_the_default_objective(
    run: core.Runtime, tiny_argv: list[str], initializer: core.ModelInitializer
) -> None:
    plain, checked = task(run), task(run, check_every_step=True)
    model = initializer.create_model_from_scratch(plain.model_args()).model
    batch = plain.run_data.draw("train")
    assert plain.objective(initializer)(model, batch, train=True).metrics == {}
    assert checked.objective(initializer)(model, batch, train=True).metrics["finite"]
    with torch.no_grad():
        model.transformer["ln_f"].weight[0] = float("nan")
    assert not checked.objective(initializer)(model, batch, train=True).metrics["finite"]


def test_check_every_step_detects_a_non_finite_weight_in_its_iteration(run_dir: Any, tiny_argv: list[str]) -> None:
    import train

    class SetsNaN(core.Callback):
        """Sets a weight to NaN in the last update before an evaluation."""

        def on_step_begin(self, trainer: core.Trainer) -> None:
            if trainer.iter_num == 1:
                trainer.step.optimizer.register_step_post_hook(self.set_nan)

        def set_nan(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].view(-1)[0] = float("nan")

    argv = [*tiny_argv, "--on_instability=stop", "--check_every_step=True"]
    with pytest.raises(DivergedError, match="^iteration 1: a weight or a moment of the optimizer is not finite; stop"):
        train.main(argv, [SetsNaN()])
