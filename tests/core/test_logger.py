"""Loggers: nanoGPT's lines to the byte, valid JSON, and no logger that can stop a run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from core.logger import CompositeLogger, ConsoleLogger, JsonlLogger, Logger, Metrics, WandBLogger

NAN, INF = float("nan"), float("inf")
STEP = {"iter": 3, "loss": 2.54321, "lr": 6e-4, "time_ms": 12.3456, "grad_norm": 0.5, "mfu": -100.0}
EVAL = {"iter": 250, "train/loss": torch.tensor(2.5), "val/loss": torch.tensor(2.61239), "lr": 6e-4, "mfu": 1.5}


def strict_json(text: str) -> Any:
    """Read JSON as the standard has it, without Python's NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


# the console


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ({}, "iter 3: loss 2.5432, time 12.35ms, mfu -100.00%\n"),
        ({"loss": 10.82994, "time_ms": 0.004, "mfu": 45.678}, "iter 3: loss 10.8299, time 0.00ms, mfu 45.68%\n"),
        (
            {"iter": 600000, "loss": 0.00004, "time_ms": 12345.678},
            "iter 600000: loss 0.0000, time 12345.68ms, mfu -100.00%\n",
        ),
        ({"loss": NAN}, "iter 3: loss nan, time 12.35ms, mfu -100.00%\n"),
    ],
)
def test_console_prints_nanogpts_line_of_an_update(
    metrics: Metrics, line: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ConsoleLogger().log_step(STEP | metrics)

    assert capfdbinary.readouterr() == (line.encode(), b"")


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ({}, "step 250: train loss 2.5000, val loss 2.6124\n"),
        ({"train/loss": torch.tensor(NAN)}, "step 250: train loss nan, val loss 2.6124\n"),
        ({"val/loss": 1.00004, "iter": 0}, "step 0: train loss 2.5000, val loss 1.0000\n"),
    ],
)
def test_console_prints_nanogpts_line_of_an_evaluation(
    metrics: Metrics, line: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ConsoleLogger().log_eval(EVAL | metrics)

    assert capfdbinary.readouterr() == (line.encode(), b"")


def test_console_prints_other_lines_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    console = ConsoleLogger()
    console.log_info("number of parameters: 0.03M")
    console.log_checkpoint("saving checkpoint to out")
    console.close()

    assert capfdbinary.readouterr() == (b"number of parameters: 0.03M\nsaving checkpoint to out\n", b"")


# the file


def test_file_gets_one_json_object_per_report(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.log_info("not a report")
    logger.log_step(STEP)
    logger.log_eval(EVAL)
    logger.log_checkpoint("saving checkpoint to out")
    logger.close()

    assert [strict_json(line) for line in logger.path.read_text().splitlines()] == [
        {"event": "step", **STEP},
        {"event": "eval", **EVAL, "train/loss": 2.5, "val/loss": torch.tensor(2.61239).item()},
        {"event": "checkpoint", "text": "saving checkpoint to out"},
    ]


@pytest.mark.parametrize("value", [NAN, INF, -INF, torch.tensor(NAN), torch.tensor(-INF)])
def test_numbers_that_are_not_finite_become_null(tmp_path: Path, value: Any) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.log_step(STEP | {"loss": value})
    logger.close()

    assert strict_json(logger.path.read_text()) == {"event": "step", **STEP, "loss": None}


def test_a_report_is_on_disk_at_once_and_a_second_run_appends(tmp_path: Path) -> None:
    for count in (1, 2):
        logger = JsonlLogger(str(tmp_path / "metrics.jsonl"))
        logger.log_step(STEP)
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == count
        logger.close()


# several


class Keeper(Logger):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def log_step(self, metrics: Metrics) -> None:
        self.told.append(("step", metrics))

    def log_eval(self, metrics: Metrics) -> None:
        self.told.append(("eval", metrics))

    def log_info(self, text: str) -> None:
        self.told.append(("info", text))

    def log_checkpoint(self, text: str) -> None:
        self.told.append(("checkpoint", text))

    def close(self) -> None:
        self.told.append("close")


class Broken(Keeper):
    """Fails at every update, with the error it is given next."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = iter(errors)

    def log_step(self, metrics: Metrics) -> None:
        raise next(self.errors)


def tell_everything(logger: Logger) -> None:
    logger.log_info("hello")
    logger.log_step(STEP)
    logger.log_eval(EVAL)
    logger.log_checkpoint("saving")
    logger.close()


EVERYTHING = [("info", "hello"), ("step", STEP), ("eval", EVAL), ("checkpoint", "saving"), "close"]


def test_every_logger_hears_everything_in_order() -> None:
    keepers = [Keeper(), Keeper()]
    tell_everything(CompositeLogger(keepers))

    assert [keeper.told for keeper in keepers] == [EVERYTHING, EVERYTHING]


def test_no_logger_at_all_is_enough() -> None:
    tell_everything(CompositeLogger())


def test_a_logger_may_leave_out_all_but_updates_and_evaluations() -> None:
    class Short(Logger):
        log_step = log_eval = lambda self, metrics: None

    tell_everything(Short())
    with pytest.raises(TypeError, match="log_eval"):
        Logger()  # type: ignore[abstract]


def test_a_failing_logger_is_warned_of_once_per_cause_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    full, lost = OSError(28, "No space left on device"), ConnectionError("no network")
    broken, keeper = Broken(full, full, lost, full, lost), Keeper()
    logger = CompositeLogger([broken, keeper])
    for _ in range(5):
        logger.log_step(STEP)
    logger.log_eval(EVAL)

    assert keeper.told == [("step", STEP)] * 5 + [("eval", EVAL)]
    assert broken.told == [("eval", EVAL)]  # it is asked again
    assert caplog.messages == [
        "logging failed, training goes on (Broken: OSError: [Errno 28] No space left on device)",
        "logging failed, training goes on (Broken: ConnectionError: no network)",
    ]


def test_an_interrupt_is_not_a_failing_logger() -> None:
    with pytest.raises(KeyboardInterrupt):
        CompositeLogger([Broken(KeyboardInterrupt())]).log_step(STEP)  # type: ignore[arg-type]


# Weights & Biases


def test_wandb_without_a_key_logs_offline_into_the_run_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The real package, with a home of its own; what it stores is looked for in its file."""
    wandb = pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)

    with caplog.at_level("INFO", logger="coregpt"):
        logger = WandBLogger("owt", "gpt2-124M", {"learning_rate": 6e-4}, "out")
    logger.log_step(STEP)
    logger.log_eval(EVAL)
    sent, config = {key: logger.run.summary[key] for key in EVAL}, dict(logger.run.config)
    logger.close()
    wandb.teardown()

    assert caplog.messages == ["wandb: no API key; logging offline to out/wandb (send it later with `wandb sync`)"]
    assert sent == EVAL | {"train/loss": 2.5, "val/loss": torch.tensor(2.61239).item()}
    assert config == {"learning_rate": 6e-4}
    (stored,) = (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"gpt2-124M" in stored.read_bytes()
    assert set(os.listdir(tmp_path)) <= {"home", "out"}
    assert capfd.readouterr().out == ""
    assert not [name for name in os.environ if name.startswith("WANDB_")]
