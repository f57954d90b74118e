"""Loggers: nanoGPT's lines to the byte, valid JSON, and no logger that can stop a run."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.logger import CompositeLogger, ConsoleLogger, JsonlLogger, Logger, Metrics, WandBLogger

NAN, INF = float("nan"), float("inf")
STEP = {"iter": 3, "loss": 2.54321, "lr": 6e-4, "time_ms": 12.3456, "grad_norm": 0.5, "mfu": -100.0}
EVAL = {"iter": 250, "train/loss": torch.tensor(2.5), "val/loss": torch.tensor(2.61239), "lr": 6e-4, "mfu": 1.5}


def strict_json(text: str) -> Any:
    """Parse standard JSON, without Python's NaN and Infinity."""

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


MakeLogger = Callable[[str], JsonlLogger]


@pytest.fixture
def jsonl(tmp_path: Path) -> Iterator[MakeLogger]:
    """Return a function that makes loggers of files in tmp_path; they are closed after the test."""
    made: list[JsonlLogger] = []

    def make(name: str) -> JsonlLogger:
        made.append(JsonlLogger(tmp_path / name))
        return made[-1]

    yield make
    for logger in made:
        logger.close()


def logged(path: Path) -> list[int]:
    """Return the iterations in a file; every line must be complete."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [strict_json(line)["iter"] for line in text.splitlines()]


def log_iters(logger: Logger, *iters: int) -> None:
    for number in iters:
        logger.log_step(STEP | {"iter": number})


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Limit files to `size` bytes within the context: a longer write is cut off there."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_event_is_written_with_all_its_fields(jsonl: MakeLogger) -> None:
    logger = jsonl("metrics.jsonl")
    logger.log_event({"history": [{"iter": 7, "loss": NAN}, (1, INF)], "event": "recovery"})
    logger.close()

    record = strict_json(logger.path.read_text())
    assert record == {"event": "recovery", "history": [{"iter": 7, "loss": None}, [1, None]]}
    assert next(iter(record)) == "event"


def test_the_console_does_not_print_events(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ConsoleLogger().log_event({"event": "recovery"})

    assert capfdbinary.readouterr() == (b"", b"")


def test_a_line_that_a_full_disk_cut_off_is_removed_at_once(jsonl: MakeLogger) -> None:
    logger = jsonl("metrics.jsonl")
    log_iters(logger, 0)
    size = logger.path.stat().st_size
    with limited_file_size(size + 20):
        for _ in range(2):
            with pytest.raises(OSError, match="File too large"):
                log_iters(logger, 1)
            assert logged(logger.path) == [0] and logger.state_dict() == {"offset": size}
    log_iters(logger, 2)

    assert logged(logger.path) == [0, 2]


@pytest.mark.parametrize("length", [1, 20, 2**16 - 1, 2**16, 200_000])
@pytest.mark.parametrize("is_open", [True, False])
def test_an_incomplete_line_is_removed_before_the_next_is_written(
    jsonl: MakeLogger, length: int, is_open: bool
) -> None:
    """Written by a process that was killed, or on a full disk where it could not be removed at once."""
    logger = jsonl("metrics.jsonl")
    log_iters(logger, 0, 1)
    with open(logger.path, "ab") as file:
        file.write(b"x" * length)
    if not is_open:
        logger = jsonl("metrics.jsonl")
    log_iters(logger, 2)

    assert logged(logger.path) == [0, 1, 2]
    assert logger.state_dict() == {"offset": logger.path.stat().st_size}


def test_a_file_with_only_an_incomplete_line_is_emptied(jsonl: MakeLogger, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"event": "st')
    logger = jsonl("metrics.jsonl")

    assert logger.state_dict() == {"offset": 0}
    log_iters(logger, 0)
    assert logged(logger.path) == [0]


def test_a_folder_removed_during_the_run_is_made_again(jsonl: MakeLogger, tmp_path: Path) -> None:
    logger = jsonl("a/out/metrics.jsonl")
    log_iters(logger, 0)
    shutil.rmtree(tmp_path / "a")

    assert logger.state_dict() == {"offset": 0}
    log_iters(logger, 1, 2)
    assert logged(logger.path) == [1, 2]
    assert logger.state_dict() == {"offset": logger.path.stat().st_size}


def test_a_file_replaced_during_the_run_is_appended_to(jsonl: MakeLogger, tmp_path: Path) -> None:
    """Also a file of the same length: an editor writes a new file and renames it."""
    logger = jsonl("metrics.jsonl")
    log_iters(logger, 0)
    (tmp_path / "new").write_bytes(logger.path.read_bytes().replace(b'"iter": 0', b'"iter": 8'))
    os.replace(tmp_path / "new", logger.path)
    log_iters(logger, 1)

    assert logged(logger.path) == [8, 1]


def test_a_file_truncated_during_the_run_is_continued(jsonl: MakeLogger) -> None:
    logger = jsonl("metrics.jsonl")
    log_iters(logger, 0, 1)
    os.truncate(logger.path, 30)
    log_iters(logger, 2)

    assert logged(logger.path) == [2]


def test_a_resume_continues_the_file_and_repeats_no_line(jsonl: MakeLogger) -> None:
    first = jsonl("metrics.jsonl")
    assert first.state_dict() == {"offset": 0} and not first.path.exists()
    log_iters(first, 0, 1)
    saved = first.state_dict()
    assert saved == {"offset": first.path.stat().st_size}
    log_iters(first, 2, 3)  # killed here

    second = jsonl("metrics.jsonl")
    second.load_state_dict(saved)
    assert logged(first.path) == [0, 1] and second.state_dict() == saved
    log_iters(second, 2, 3, 4)
    assert logged(first.path) == [0, 1, 2, 3, 4]


def test_the_lines_that_a_state_counts_are_flushed_to_disk(jsonl: MakeLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, flushed = jsonl("metrics.jsonl"), []
    log_iters(logger, 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))

    logger.state_dict()

    assert flushed == [logger.path.stat().st_ino]


def test_a_rollback_removes_the_lines_after_the_checkpoint(jsonl: MakeLogger) -> None:
    logger = jsonl("metrics.jsonl")
    log_iters(logger, 0)
    saved = logger.state_dict()
    log_iters(logger, 1, 2)
    logger.load_state_dict(saved)
    log_iters(logger, 1)
    logger.load_state_dict({"offset": 0})
    log_iters(logger, 5)

    assert logged(logger.path) == [5]


RUN = {"event": "run", "run": "abc", "options": {"seed": 1}}


def events(path: Path) -> list[Any]:
    """Return what is in a file: the iterations of updates, the name of another event."""
    lines = map(json.loads, path.read_text().splitlines())
    return [line["iter"] if line["event"] == "step" else line["event"] for line in lines]


def test_the_record_of_the_run_comes_before_its_first_report(jsonl: MakeLogger) -> None:
    """A run that reports nothing leaves no record; a resume adds one."""
    logger = jsonl("metrics.jsonl")
    logger.log_event(RUN)
    assert not logger.path.exists()
    log_iters(logger, 0, 1)
    assert json.loads(logger.path.read_text().splitlines()[0]) == RUN
    logger.close()
    second = jsonl("metrics.jsonl")
    second.log_event(RUN)
    log_iters(second, 2, 3)

    assert events(logger.path) == ["run", 0, 1, "run", 2, 3]


def test_a_rollback_to_the_start_keeps_the_record_of_the_run(jsonl: MakeLogger) -> None:
    logger = jsonl("metrics.jsonl")
    log_iters(logger, 0)
    beginning = logger.state_dict()
    logger.log_event(RUN)
    log_iters(logger, 1)
    saved = logger.state_dict()
    log_iters(logger, 2)

    logger.load_state_dict(saved)
    log_iters(logger, 3)
    assert events(logger.path) == [0, "run", 1, 3]
    logger.load_state_dict(beginning)
    log_iters(logger, 4)
    assert events(logger.path) == [0, "run", 4]
    logger.load_state_dict({"offset": 0})
    log_iters(logger, 5)
    assert events(logger.path) == ["run", 5]


def test_a_file_removed_during_the_run_gets_the_record_again(jsonl: MakeLogger) -> None:
    logger = jsonl("metrics.jsonl")
    logger.log_event(RUN)
    log_iters(logger, 0)
    logger.path.unlink()
    log_iters(logger, 1)

    assert events(logger.path) == ["run", 1]


@pytest.mark.parametrize("exists", [True, False])
def test_a_file_shorter_than_the_saved_offset_is_not_changed(
    jsonl: MakeLogger, exists: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = jsonl("metrics.jsonl")
    if exists:
        log_iters(logger, 0)
    size = logger.state_dict()["offset"]
    with caplog.at_level("INFO", logger="coregpt"):
        logger.load_state_dict({"offset": 5000})
    log_iters(logger, 9)

    assert logged(logger.path) == [0, 9][not exists :]
    assert caplog.messages == [
        f"{logger.path} has {size} bytes, had 5000 when the checkpoint was saved: lines are missing"
    ]


def test_an_offset_within_a_line_keeps_complete_lines_only(jsonl: MakeLogger) -> None:
    logger = jsonl("metrics.jsonl")
    log_iters(logger, 0, 1)
    logger.load_state_dict({"offset": logger.path.stat().st_size - 3})
    log_iters(logger, 2)

    assert logged(logger.path) == [0, 2]


def test_a_closed_logger_can_log_again(jsonl: MakeLogger) -> None:
    logger = jsonl("metrics.jsonl")
    log_iters(logger, 0)
    logger.close()
    logger.close()
    log_iters(logger, 1)
    logger.close()

    assert logged(logger.path) == [0, 1]


# several loggers


class CallRecorder(Logger):
    """Records every call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def log_step(self, metrics: Metrics) -> None:
        self.calls.append(("step", metrics))

    def log_eval(self, metrics: Metrics) -> None:
        self.calls.append(("eval", metrics))

    def log_info(self, text: str) -> None:
        self.calls.append(("info", text))

    def log_checkpoint(self, text: str) -> None:
        self.calls.append(("checkpoint", text))

    def log_event(self, record: Metrics) -> None:
        self.calls.append(("event", record))

    def close(self) -> None:
        self.calls.append("close")


class Broken(CallRecorder):
    """Raises the next of the given errors at every update."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = iter(errors)

    def log_step(self, metrics: Metrics) -> None:
        raise next(self.errors)


def call_every_method(logger: Logger) -> None:
    logger.log_info("hello")
    logger.log_step(STEP)
    logger.log_eval(EVAL)
    logger.log_checkpoint("saving")
    logger.log_event({"event": "recovery"})
    logger.close()


EVERY_CALL = [
    ("info", "hello"),
    ("step", STEP),
    ("eval", EVAL),
    ("checkpoint", "saving"),
    ("event", {"event": "recovery"}),
    "close",
]


def test_every_logger_gets_every_call_in_order() -> None:
    recorders = [CallRecorder(), CallRecorder()]
    call_every_method(CompositeLogger(recorders))

    assert [recorder.calls for recorder in recorders] == [EVERY_CALL, EVERY_CALL]


def test_a_composite_logger_without_loggers_does_nothing() -> None:
    call_every_method(CompositeLogger())


def test_a_logger_must_define_only_log_step_and_log_eval() -> None:
    class Minimal(Logger):
        log_step = log_eval = lambda self, metrics: None

    call_every_method(Minimal())
    with pytest.raises(TypeError, match="log_eval"):
        Logger()  # type: ignore[abstract]


def test_a_failing_logger_is_reported_once_per_cause_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    full, lost = OSError(28, "No space left on device"), ConnectionError("no network")
    broken, recorder = Broken(full, full, lost, full, lost), CallRecorder()
    logger = CompositeLogger([broken, recorder])
    for _ in range(5):
        logger.log_step(STEP)
    logger.log_eval(EVAL)

    assert recorder.calls == [("step", STEP)] * 5 + [("eval", EVAL)]
    assert broken.calls == [("eval", EVAL)]  # called again after its failures
    assert caplog.messages == [
        "logging failed, training goes on (Broken: OSError: [Errno 28] No space left on device)",
        "logging failed, training goes on (Broken: ConnectionError: no network)",
    ]


def test_a_keyboard_interrupt_in_a_logger_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt):
        CompositeLogger([Broken(KeyboardInterrupt())]).log_step(STEP)  # type: ignore[arg-type]


class Stateful(CallRecorder):
    """Has its recorded calls as its state."""

    def state_dict(self) -> dict[str, Any]:
        return {"calls": list(self.calls)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = list(state["calls"])


class BrokenState(Stateful):
    """Raises when its state is read or loaded."""

    def state_dict(self) -> dict[str, Any]:
        raise OSError("gone")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise OSError("gone")


class WithoutLoad(CallRecorder):
    """Has a state, but no `load_state_dict` of its own."""

    def state_dict(self) -> dict[str, Any]:
        return {"step": 3}


def test_states_are_saved_and_restored_by_class_name() -> None:
    first, second, recorder = Stateful(), Stateful(), CallRecorder()
    logger = CompositeLogger([recorder, first, WithoutLoad(), second])
    first.log_info("one")
    second.log_info("two")
    states = logger.state_dict()

    assert states == {
        "Stateful": {"calls": [("info", "one")]},
        "WithoutLoad": {"step": 3},
        "Stateful-2": {"calls": [("info", "two")]},
    }
    resumed = CompositeLogger([Stateful(), CallRecorder(), Stateful(), WithoutLoad()])
    resumed.load_state_dict(states)
    assert [other.calls for other in resumed.loggers] == [[("info", "one")], [], [("info", "two")], []]  # type: ignore[attr-defined]


def test_a_missing_state_changes_nothing() -> None:
    logger = CompositeLogger([stateful := Stateful()])
    stateful.log_info("one")
    logger.load_state_dict({"Other": {}})

    assert stateful.calls == [("info", "one")]
    assert CompositeLogger().state_dict() == {}


def test_a_state_that_fails_is_reported_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    broken, stateful = BrokenState(), Stateful()
    logger = CompositeLogger([broken, stateful])

    assert logger.state_dict() == {"Stateful": {"calls": []}}
    logger.load_state_dict({"BrokenState": {"calls": []}, "Stateful": {"calls": ["one"]}})
    assert stateful.calls == ["one"]
    assert caplog.messages == ["logging failed, training goes on (BrokenState: OSError: gone)"]


def test_the_state_of_loggers_can_be_loaded_with_weights_only(tmp_path: Path) -> None:
    logger = CompositeLogger([ConsoleLogger(), JsonlLogger(tmp_path / "metrics.jsonl")])
    torch.save(logger.state_dict(), tmp_path / "state.pt")

    assert torch.load(tmp_path / "state.pt", weights_only=True) == {"JsonlLogger": {"offset": 0}}


# Weights & Biases


class Server:
    """Replaces the wandb package and its server; `runs` holds the records of every run."""

    def __init__(self, online: bool = True) -> None:
        self.online = online
        self.runs: dict[str, list[Any]] = {}
        self.init_settings: dict[str, Any] = {}
        self.api = SimpleNamespace(api_key="key" if online else None)
        self.errors = SimpleNamespace(UsageError=ValueError)

    def login(self, prompt: bool, verify: bool) -> bool:
        return self.online

    def Settings(self, **settings: Any) -> None:
        pass

    def init(self, **settings: Any) -> Any:
        self.init_settings = settings
        records = self.runs.setdefault(settings.get("id", f"run-{len(self.runs)}"), [])
        name = next(name for name, kept in self.runs.items() if kept is records)
        starting_step = len(records) if settings["mode"] != "offline" else 0
        return SimpleNamespace(id=name, starting_step=starting_step, log=records.append, finish=lambda: None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fake = Server()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    return fake


def wandb_logger(saved: dict[str, Any] | None = None) -> WandBLogger:
    return WandBLogger("owt", "gpt2-124M", {}, "out", step_interval=2, saved=saved)


def test_wandb_starts_a_new_run_unless_there_is_a_saved_one(server: Server) -> None:
    logger = wandb_logger()

    assert {"id", "resume"} & set(server.init_settings) == set()
    assert logger.state_dict() == {"run_id": "run-0", "step": 0}


def test_a_resumed_wandb_run_gets_every_record_once(server: Server) -> None:
    first = wandb_logger()
    log_iters(first, 0, 1, 2)  # of which 1 is not sent
    saved = first.state_dict()
    assert saved == {"run_id": "run-0", "step": 2}
    log_iters(first, 4, 6)  # killed here

    second = wandb_logger(saved)
    assert (server.init_settings["id"], server.init_settings["resume"]) == ("run-0", "allow")
    assert second.state_dict() == saved
    log_iters(second, 4)
    assert second.state_dict() == {"run_id": "run-0", "step": 3}
    log_iters(second, 6, 8)
    second.log_eval(STEP | {"iter": 9})
    assert [record["iter"] for record in server.runs["run-0"]] == [0, 2, 4, 6, 8, 9]
    assert list(server.runs) == ["run-0"]


def test_wandb_gets_second_names_and_the_last_metrics_of_modifiers(server: Server) -> None:
    names = {"loss": "train/loss", "loss_modifiers/A.x": "x"}
    logger = WandBLogger("owt", "gpt2-124M", {}, "out", step_interval=2, also=names)
    logger.log_step(STEP | {"iter": 2, "loss": 3.0})
    logger.log_step(STEP | {"iter": 3, "loss_modifiers/A.x": 0.5})  # not sent itself
    logger.log_eval({"iter": 4, "train/loss": 2.0, "val/loss": 2.5})

    logger.log_step(STEP | {"iter": 5})
    logger.log_eval({"iter": 6, "train/loss": 1.0, "val/loss": 1.5})

    step, evaluation, later = server.runs["run-0"]
    assert later == {"iter": 6, "train/loss": 1.0, "val/loss": 1.5}  # modifiers reported nothing in between
    assert (step["loss"], step["train/loss"]) == (3.0, 3.0) and "x" not in step
    assert evaluation == {"iter": 4, "train/loss": 2.0, "val/loss": 2.5, "loss_modifiers/A.x": 0.5, "x": 0.5}


def test_wandb_gets_nanogpts_keys_only(server: Server) -> None:
    logger = wandb_logger()
    ours = {"mean_loss": 1.0, "elapsed_s": 2.0, "tokens": 3, "tokens_per_s": 4.0}
    logger.log_event(RUN)
    logger.log_step(STEP | {"iter": 2} | ours)
    logger.log_eval({"iter": 4, "val/loss": 2.5} | ours)

    assert server.runs["run-0"] == [STEP | {"iter": 2}, {"iter": 4, "val/loss": 2.5}]
    assert logger.state_dict()["step"] == 2


def test_wandb_gets_the_numbers_of_events(server: Server) -> None:
    logger = wandb_logger()
    logger.log_event({"event": "unfreezing", "iter": 8, "old_lr": 0.1, "new_lr": 0.01})
    logger.log_event({"event": "recovery", "history": [{"iter": 3}]})

    assert server.runs["run-0"] == [{"iter": 8, "unfreezing_iteration": 8, "old_lr": 0.1, "new_lr": 0.01}]
    assert logger.state_dict()["step"] == 1


def test_a_wandb_server_with_fewer_records_gets_every_new_record(server: Server) -> None:
    wandb_logger()
    second = wandb_logger({"run_id": "run-0", "step": 7})
    log_iters(second, 8)

    assert [record["iter"] for record in server.runs["run-0"]] == [8]
    assert second.state_dict()["step"] == 8


def test_a_wandb_run_continued_by_environment_variables_loses_no_record(server: Server) -> None:
    """With WANDB_RUN_ID and WANDB_RESUME, the server has records of earlier runs of the program."""
    server.runs["run-0"] = [{"iter": 0}, {"iter": 1}]
    server.init = lambda init=server.init, **settings: init(id="run-0", **settings)  # type: ignore[method-assign]
    logger = wandb_logger()
    log_iters(logger, 2)

    assert [record["iter"] for record in server.runs["run-0"]] == [0, 1, 2]
    assert logger.state_dict()["step"] == 3


def test_wandb_offline_keeps_the_id_and_gets_every_record(server: Server) -> None:
    server.online = False
    logger = wandb_logger({"run_id": "abc", "step": 2})
    log_iters(logger, 4)

    assert (server.init_settings["mode"], server.init_settings["id"]) == ("offline", "abc")
    assert [record["iter"] for record in server.runs["abc"]] == [4]


def test_a_record_that_wandb_refused_does_not_count(server: Server) -> None:
    def refuse(record: Any) -> None:
        raise OSError("no network")

    logger = wandb_logger()
    logger.run.log = refuse
    with pytest.raises(OSError, match="no network"):
        logger.log_eval(EVAL)

    assert logger.state_dict()["step"] == 0


def test_wandb_without_a_key_logs_offline_into_the_run_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Uses the real package with a temporary home, and searches the file that it writes."""
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
    state = logger.state_dict()
    sent, config = {key: logger.run.summary[key] for key in EVAL}, dict(logger.run.config)
    logger.close()
    wandb.teardown()

    assert caplog.messages == ["wandb: no API key; logging offline to out/wandb (send it later with `wandb sync`)"]
    assert sent == EVAL | {"train/loss": 2.5, "val/loss": torch.tensor(2.61239).item()}
    assert config == {"learning_rate": 6e-4}
    assert state == {"run_id": logger.run.id, "step": 1}
    (stored,) = (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"gpt2-124M" in stored.read_bytes()
    assert set(os.listdir(tmp_path)) <= {"home", "out"}
    assert capfd.readouterr().out == ""
    assert not [name for name in os.environ if name.startswith("WANDB_")]
