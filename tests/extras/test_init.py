"""The list of optional features: absent unless asked for, and never in the way."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import core
import extras
from config.options import Options
from extras.progress_bar import ProgressBar


@pytest.fixture
def run() -> core.Runtime:
    return core.Runtime(device="cpu")


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(out_dir=str(tmp_path))


def close(loggers: list[core.Logger]) -> None:
    for logger in loggers:
        logger.close()


def test_by_default_there_is_nothing_but_nanogpts_way_and_a_file_of_metrics(
    options: Options, run: core.Runtime, tmp_path: Path
) -> None:
    model = torch.nn.Linear(2, 2)
    assert extras.adapt(model, options) is model
    assert type(extras.parallel(options, run)) is core.Replicated
    objective = extras.objective(options)
    assert type(objective) is core.LanguageModeling and objective.loss_modifier is None
    assert extras.callbacks(options) == []

    loggers = extras.loggers(options, run)
    close(loggers)
    (logger,) = loggers
    assert isinstance(logger, core.JsonlLogger) and logger.path == tmp_path / "metrics.jsonl"


def test_only_the_master_has_loggers_and_a_bar(
    options: Options, run: core.Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.is_master = False
    monkeypatch.setattr(sys, "stderr", Terminal())

    assert extras.loggers(options, run) == []
    assert extras.progress(options, run) == []
    assert list(tmp_path.iterdir()) == []


def test_wandb_that_is_not_installed_is_warned_of_and_left_out(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)

    loggers = extras.loggers(options.model_copy(update={"wandb_log": True}), run)
    close(loggers)

    assert [type(logger) for logger in loggers] == [core.JsonlLogger]
    assert caplog.messages == [
        "wandb_log=True, but wandb is not installed: pip install -e '.[wandb]'; going on without it"
    ]


def test_wandb_that_cannot_start_is_warned_of_and_left_out(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        def __init__(self, *_: Any) -> None:
            raise RuntimeError("the service did not start")

    monkeypatch.setattr(core, "WandBLogger", Refusing)

    loggers = extras.loggers(options.model_copy(update={"wandb_log": True}), run)
    close(loggers)

    assert [type(logger) for logger in loggers] == [core.JsonlLogger]
    assert caplog.messages == ["wandb could not be started, going on without it (the service did not start)"]


def test_wandb_gets_nanogpts_names_and_every_option(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    class Keeping(core.Logger):
        def __init__(self, *arguments: Any) -> None:
            given.append(arguments)

        log_step = log_eval = lambda self, metrics: None

    monkeypatch.setattr(core, "WandBLogger", Keeping)
    asked = options.model_copy(update={"wandb_log": True, "wandb_run_name": "mine"})
    loggers = extras.loggers(asked, run)
    close(loggers)

    assert type(loggers[1]) is Keeping
    assert given == [("owt", "mine", asked.model_dump(), options.out_dir, 0)]
    assert json.loads(json.dumps(given[0][2]))["learning_rate"] == 6e-4


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_progress_bar(options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    (bar,) = extras.progress(options, run)

    assert isinstance(bar, ProgressBar) and bar.stream is terminal and bar.max_iters == options.max_iters


def test_a_file_or_pipe_gets_none(options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    assert extras.progress(options, run) == []
