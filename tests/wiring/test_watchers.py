"""Loggers and callbacks: added only by options, and skipped with a warning if they cannot start."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import core
import wiring
import wiring.watchers
from config.options import Options
from extras.early_stopping import EarlyStopping
from extras.epoch_meter import EpochMeter
from extras.event_callbacks import EventCallback
from extras.objective_lines import ObjectiveLines
from extras.progress_bar import ProgressBar
from extras.run_record import RunRecord
from extras.run_summary import RunSummary
from loss_modifiers import LossModifierPipeline
from wiring.data import open_data
from wiring.model import adapt
from wiring.start import RunStart


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(out_dir=str(tmp_path / "out"), dataset="tiny", block_size=16)


def made_callbacks(options: Options, run: core.Runtime, console: Any = (), of_user: Any = ()) -> list[core.Callback]:
    data = open_data(options, run, core.Preemption())
    return wiring.callbacks(options, run, data, None, core.ConstantLRScheduler(1.0, 0), console, of_user)


class EpochCounter:
    """A callback of the C line."""

    def on_epoch_end(self, epoch: int) -> None: ...


def test_only_callbacks_that_need_it_get_an_adapter_and_a_meter(options: Options, run: core.Runtime) -> None:
    ours, other = EarlyStopping(), EpochCounter()
    run.world_size = 2

    assert made_callbacks(options, run, of_user=[ours])[1:] == [ours]
    _, meter, first, last = made_callbacks(options, run, of_user=[other, ours])
    assert isinstance(meter, EpochMeter) and isinstance(first, EventCallback)
    assert first.listener is other and first.meter is meter and last is ours
    assert (meter.tokens_per_iter, meter.train_tokens) == (12 * 40 * 16, 2000)


def close(loggers: list[core.Logger]) -> None:
    for logger in loggers:
        logger.close()


def test_by_default_there_is_only_a_file_of_metrics(options: Options, run: core.Runtime, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    assert adapt(model, options) is model
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert type(wiring.make_parallel(options, run)) is core.Replicated
    assert [type(callback) for callback in made_callbacks(options, run)] == [RunRecord]

    loggers = wiring.loggers(options, run, None, None)
    close(loggers)
    (logger,) = loggers
    assert isinstance(logger, core.JsonlLogger) and logger.path == tmp_path / "out" / "metrics.jsonl"


def test_only_rank_0_has_loggers_and_a_progress_bar(
    options: Options, run: core.Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.is_master = False
    monkeypatch.setattr(sys, "stderr", Terminal())

    assert wiring.loggers(options, run, None, None) == []
    assert wiring.console(options, run) == []
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_header_counts_the_tokens_of_all_ranks(
    options: Options, run: core.Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    data, start = open_data(options, run, core.Preemption()), RunStart("scratch", None, core.RunFolder("out"))
    run.world_size = 4
    wiring.print_header(options, run, data, start, core.ConsoleLogger())

    tokens = options.batch_size * options.gradient_accumulation_steps * 16
    assert capsys.readouterr().out.startswith(f"tokens per iteration will be: {tokens:,}\n")


def test_a_language_model_with_modifiers_has_objective_lines(options: Options, run: core.Runtime) -> None:
    loggers = wiring.loggers(options, run, LossModifierPipeline(), None)
    close(loggers)

    assert [type(logger) for logger in loggers] == [ObjectiveLines, core.JsonlLogger]


def test_wandb_is_skipped_with_a_warning_if_it_is_not_installed(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)

    loggers = wiring.loggers(options.model_copy(update={"wandb_log": True}), run, None, None)
    close(loggers)

    assert [type(logger) for logger in loggers] == [core.JsonlLogger]
    assert caplog.messages == [
        "wandb_log=True, but wandb is not installed: pip install -e '.[wandb]'; going on without it"
    ]


def test_wandb_is_skipped_with_a_warning_if_it_cannot_start(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("the service did not start")

    monkeypatch.setattr(wiring.watchers, "WandBLogger", Refusing)

    loggers = wiring.loggers(options.model_copy(update={"wandb_log": True}), run, None, None)
    close(loggers)

    assert [type(logger) for logger in loggers] == [core.JsonlLogger]
    assert caplog.messages == ["wandb could not be started, going on without it (the service did not start)"]


@pytest.mark.parametrize("state", [None, {"run_id": "abc", "step": 3}])
def test_wandb_gets_nanogpts_names_all_options_and_the_id_of_a_resumed_run(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any] | None
) -> None:
    calls = []

    class RecordsArguments(core.Logger):
        def __init__(self, *arguments: Any, saved: dict[str, Any] | None, also: dict[str, str], place: Any) -> None:
            calls.append((*arguments, saved))
            assert place == {"entity": None, "group": "runs", "tags": []}
            assert also["loss"] == "train/loss" and "entropy_penalty" in also.values()

        log_step = log_eval = lambda self, metrics: None

    monkeypatch.setattr(wiring.watchers, "WandBLogger", RecordsArguments)
    wandb_options = options.model_copy(update={"wandb_log": True, "wandb_run_name": "mine", "wandb_group": "runs"})
    states = {"JsonlLogger": {"offset": 7}} | ({"WandBLogger": state} if state else {})
    loggers = wiring.loggers(wandb_options, run, None, {"loggers": states})
    close(loggers)

    assert type(loggers[1]) is RecordsArguments
    assert calls == [("owt", "mine", wandb_options.model_dump(), options.out_dir, 0, state)]
    assert json.loads(json.dumps(calls[0][2]))["learning_rate"] == 6e-4


def test_wandb_also_gets_the_metric_names_of_the_legacy_lines() -> None:
    assert wiring.watchers.WANDB_NAMES == {
        "loss": "train/loss",
        "loss_modifiers/EntropyPenaltyModifier.entropy_penalty": "entropy_penalty",
        "loss_modifiers/EntropyPenaltyModifier.multiplier_ema": "entropy_multiplier_ema",
    }


# the progress bar


class Terminal(io.StringIO):
    """A stream whose isatty() returns True."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_progress_bar(options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    bar, summary, lines = wiring.console(options, run)

    assert isinstance(bar, ProgressBar) and bar.stream is terminal and bar.max_iters == options.max_iters
    assert isinstance(summary, RunSummary) and isinstance(lines, core.ConsoleLogger)
    assert made_callbacks(options, run, [bar, summary, lines])[:2] == [bar, summary]


def test_a_file_or_pipe_gets_no_progress_bar(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    assert [type(logger) for logger in wiring.console(options, run)] == [RunSummary, core.ConsoleLogger]


def test_an_evaluation_without_training_has_no_summary(run: core.Runtime) -> None:
    assert [type(logger) for logger in wiring.console(Options(eval_only=True), run)] == [core.ConsoleLogger]


def test_the_summary_names_the_device_only_if_the_user_did(run: core.Runtime) -> None:
    made = [wiring.console(options, run)[0] for options in (Options(), Options(device="cpu"))]

    assert [summary.device for summary in made if isinstance(summary, RunSummary)] == [None, "cpu"]


@pytest.mark.parametrize("eval_only", [False, True])
def test_only_an_evaluation_without_training_checks_its_losses(run: core.Runtime, eval_only: bool) -> None:
    """Training has a detector."""
    made = made_callbacks(Options(eval_only=eval_only, dataset="tiny", block_size=16), run)

    assert [type(callback).__name__ for callback in made] == (["FiniteLosses"] if eval_only else ["RunRecord"])


def test_a_run_without_frozen_parameters_has_no_unfreezing_callback(run: core.Runtime) -> None:
    made = made_callbacks(Options(unfreeze_at_iteration=5, dataset="tiny", block_size=16), run)

    assert [type(callback) for callback in made] == [RunRecord]
