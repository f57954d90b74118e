"""The list of optional features: absent unless asked for, and never in the way."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import core
import extras
from config.options import Options
from core.checkpoint.manager import CheckpointFile
from extras.freezing import freeze_transformer
from extras.progress_bar import ProgressBar
from model import GPT, GPTConfig

TINY_SCORER: dict[str, Any] = dict(
    n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=20, mode="sequence_scorer", cls_token_id=19,
    attention_type="bidirectional",
)  # fmt: skip


@pytest.fixture
def run() -> Iterator[core.Runtime]:
    with core.Runtime(device="cpu") as run:
        yield run


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
    initializer = core.ModelInitializer(None, None, run.device)
    assert extras.adapt(model, options, initializer, None) is model
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert type(extras.parallel(options, run)) is core.Replicated
    assert extras.callbacks(options, extras.scheduler(options)) == []
    assert extras.eval_rng(options, run) is nullcontext

    loggers = extras.loggers(options, run, {})
    close(loggers)
    (logger,) = loggers
    assert isinstance(logger, core.JsonlLogger) and logger.path == tmp_path / "metrics.jsonl"


def test_only_the_master_has_loggers_and_a_bar(
    options: Options, run: core.Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.is_master = False
    monkeypatch.setattr(sys, "stderr", Terminal())

    assert extras.loggers(options, run, {}) == []
    assert extras.progress(options, run) == []
    assert list(tmp_path.iterdir()) == []


def test_wandb_that_is_not_installed_is_warned_of_and_left_out(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)

    loggers = extras.loggers(options.model_copy(update={"wandb_log": True}), run, {})
    close(loggers)

    assert [type(logger) for logger in loggers] == [core.JsonlLogger]
    assert caplog.messages == [
        "wandb_log=True, but wandb is not installed: pip install -e '.[wandb]'; going on without it"
    ]


def test_wandb_that_cannot_start_is_warned_of_and_left_out(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("the service did not start")

    monkeypatch.setattr(core, "WandBLogger", Refusing)

    loggers = extras.loggers(options.model_copy(update={"wandb_log": True}), run, {})
    close(loggers)

    assert [type(logger) for logger in loggers] == [core.JsonlLogger]
    assert caplog.messages == ["wandb could not be started, going on without it (the service did not start)"]


@pytest.mark.parametrize("state", [None, {"run_id": "abc", "step": 3}])
def test_wandb_gets_nanogpts_names_every_option_and_the_run_to_go_on_with(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any] | None
) -> None:
    given = []

    class Keeping(core.Logger):
        def __init__(self, *arguments: Any, saved: dict[str, Any] | None, also: dict[str, str]) -> None:
            given.append((*arguments, saved))
            assert also["loss"] == "train/loss" and "entropy_penalty" in also.values()

        log_step = log_eval = lambda self, metrics: None

    monkeypatch.setattr(core, "WandBLogger", Keeping)
    asked = options.model_copy(update={"wandb_log": True, "wandb_run_name": "mine"})
    loggers = extras.loggers(asked, run, {"JsonlLogger": {"offset": 7}} | ({"WandBLogger": state} if state else {}))
    close(loggers)

    assert type(loggers[1]) is Keeping
    assert given == [("owt", "mine", asked.model_dump(), options.out_dir, 0, state)]
    assert json.loads(json.dumps(given[0][2]))["learning_rate"] == 6e-4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"freeze_transformer": True}, ["transfer: 4 of 13 tensors train, the others stay frozen"]),
        (
            {"freeze_transformer": True, "unfreeze_at_iteration": 5},
            ["transfer: 4 of 13 tensors train, the others from iteration 5 on"],
        ),
        ({"trainable": "ln_f"}, ["transfer: 5 of 13 tensors train, the others stay frozen"]),
        ({}, []),
    ],
)
def test_how_much_trains_is_said(
    run: core.Runtime, given: dict[str, Any], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, initializer = GPT(GPTConfig(**TINY_SCORER, bias=False)), core.ModelInitializer(GPT, GPTConfig, run.device)
    with caplog.at_level("INFO", logger="coregpt"):
        extras.adapt(model, Options(training_type="sequence_scoring", **given), initializer, None)

    assert caplog.messages == said


def test_second_names_are_those_of_both_lines() -> None:
    assert extras.WANDB_NAMES == {
        "loss": "train/loss",
        "loss_modifiers/EntropyPenaltyModifier.entropy_penalty": "entropy_penalty",
        "loss_modifiers/EntropyPenaltyModifier.multiplier_ema": "entropy_multiplier_ema",
    }


def test_evaluations_have_a_random_stream_of_their_own_where_asked(options: Options, run: core.Runtime) -> None:
    assert extras.eval_rng(options.model_copy(update={"eval_rng": "isolated"}), run) == run.isolated_rng


# the run folder


@pytest.fixture
def checkpoints(options: Options) -> core.CheckpointManager:
    return core.CheckpointManager(options.out_dir)


def saved(checkpoints: core.CheckpointManager) -> CheckpointFile:
    """Leave a former run in its folder, and return its checkpoint."""
    notes = {"iter_num": 3, "val_loss": 2.0, "healthy": True}
    checkpoints.save(lambda path: torch.save({"model": {}, "model_args": {}}, path), notes)
    return checkpoints.load()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_run_has_its_folder_to_itself_until_it_ends(options: Options, tmp_path: Path) -> None:
    with core.Runtime(device="cpu") as run:
        extras.enter(options, extras.find_start(options, run))
        assert names(tmp_path) == [".lock"]
        assert not free(tmp_path)
    assert free(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_nobody_else_writes_in_the_folder_once_it_is_looked_at(options: Options, tmp_path: Path) -> None:
    """Else another run could save and end between the look and the lock, and its work would be moved aside."""
    asked = options.model_copy(update={"init_from": "auto"})
    with core.Runtime(device="cpu") as run:
        assert extras.find_start(asked, run)[:2] == ("scratch", None)
        assert not free(tmp_path)


def test_a_look_makes_no_folder(options: Options, run: core.Runtime, tmp_path: Path) -> None:
    asked = options.model_copy(update={"out_dir": str(tmp_path / "out")})

    assert extras.find_start(asked, run)[:2] == ("scratch", None)
    assert not (tmp_path / "out").exists()


def free(folder: Path) -> bool:
    """Ask from another process, as locks are between processes."""
    program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    done = subprocess.run([sys.executable, "-c", program, folder / ".lock"], capture_output=True, text=True)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_start_afresh_moves_the_former_run_aside(
    options: Options, checkpoints: core.CheckpointManager, tmp_path: Path
) -> None:
    saved(checkpoints)
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "notes.txt").touch()

    extras.enter(options, extras.Start("scratch", None, core.RunFolder(tmp_path), checkpoints))

    former = ["ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt", "metrics.jsonl"]
    assert names(tmp_path) == [".lock", "notes.txt", *(f"previous-1/{name}" for name in former)]


def test_a_start_afresh_leaves_what_it_needs(
    options: Options, checkpoints: core.CheckpointManager, tmp_path: Path
) -> None:
    file = saved(checkpoints).path

    with pytest.raises(core.ConfigError, match="which a new run clears"):
        extras.enter(options, extras.Start("scratch", None, core.RunFolder(tmp_path), checkpoints), [file])
    assert names(tmp_path) == [".lock", "ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt"]


@pytest.mark.parametrize("frozen_then", [False, True])
def test_a_run_that_froze_other_parameters_is_not_resumed(frozen_then: bool) -> None:
    def made(frozen: bool) -> tuple[Any, torch.optim.Optimizer]:
        model = GPT(GPTConfig(**TINY_SCORER))
        if frozen:
            freeze_transformer(model)
        return model, model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")

    _, then = made(frozen_then)
    config = {"training_type": "sequence_scoring", "freeze_transformer": frozen_then, "trainable": ""}
    model, optimizer = made(not frozen_then)
    given = Options(training_type="sequence_scoring", freeze_transformer=not frozen_then, out_dir="mine")

    with pytest.raises(core.CheckpointError) as error:
        extras.prepare_optimizer(optimizer, model, {"optimizer": then.state_dict(), "config": config}, given)
    assert str(error.value).endswith(
        f" tensors, this model's has {[len(group['params']) for group in optimizer.param_groups]}: it was saved for "
        f"another model; its run had freeze_transformer={frozen_then}: resume it with that, or begin a new run from it "
        "with init_from_checkpoint=mine and another out_dir"
    )


def test_the_optimizer_of_another_model_is_told_as_such() -> None:
    model = GPT(GPTConfig(**TINY_SCORER))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]).state_dict()

    with pytest.raises(core.CheckpointError, match="it was saved for another model"):
        extras.prepare_optimizer(optimizer, model, {"optimizer": other, "config": {}}, Options())


def test_a_resume_leaves_the_former_run_where_it_is_and_ckpt_pt_what_it_was_to_be(
    options: Options, checkpoints: core.CheckpointManager, tmp_path: Path
) -> None:
    found = saved(checkpoints)
    checkpoints.path.unlink()  # as if the process had been killed before it made that name

    extras.enter(options, extras.Start("resume", found, core.RunFolder(tmp_path), checkpoints))

    assert names(tmp_path) == [".lock", "ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt"]
    assert checkpoints.path.samefile(found.path)


def test_an_evaluation_alone_touches_no_folder_and_keeps_no_metrics(
    options: Options, run: core.Runtime, tmp_path: Path
) -> None:
    asked = options.model_copy(update={"eval_only": True, "out_dir": str(tmp_path / "out")})

    extras.enter(asked, extras.find_start(asked, run))

    assert extras.loggers(asked, run, {}) == []
    assert list(tmp_path.iterdir()) == []


# the progress bar


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


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [  # at iterations 0, 4, 10 and 20; peak 1, floor 0.1, warm-up 4, decay until 10
        ("cosine", [0.2, 1.0, 0.1, 0.1]),
        ("linear", [0.2, 1.0, 0.1, 0.1]),
        ("constant", [0.2, 1.0, 1.0, 1.0]),
        ("inverse_sqrt", [0.2, 1.0, (5 / 11) ** 0.5, (5 / 21) ** 0.5]),
        ("wsd", [0.2, 1.0, 0.1, 0.1]),
        ("warmup_only", [0.2, 1.0, 0.1 + 0.9 * 100 / 102, 0.1 + 0.9 * 100 / 112]),
        ("adaptive", [0.2, 1.0, 1.0, 1.0]),
    ],
)
def test_each_schedule_gets_its_options(schedule: str, rates: list[float]) -> None:
    flags = dict(lr_schedule=schedule, learning_rate=1.0, min_lr=0.1, warmup_iters=4, lr_decay_iters=10)

    made = extras.scheduler(Options(**flags))  # type: ignore[arg-type]

    assert [made.get_lr(iter_num) for iter_num in (0, 4, 10, 20)] == pytest.approx(rates)


def test_a_transfer_schedule_tells_heads_apart_and_brings_its_own_drop(run: core.Runtime) -> None:
    options = Options(lr_schedule="transfer", learning_rate=1.0, warmup_iters=0, freeze_transformer=True,
                      unfreeze_at_iteration=5, unfreeze_lr_multiplier=0.5, head_lr_multiplier=3.0)  # fmt: skip
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=11, mode="token_classifier",
                          attention_type="bidirectional"))  # fmt: skip
    optimizer = model.configure_optimizers(0.1, 1.0, (0.9, 0.95), "cpu")
    extras.prepare_optimizer(optimizer, model, None, options)
    schedule = extras.scheduler(options)
    (unfreezing,) = extras.callbacks(options, schedule)

    schedule.set_lr(optimizer.param_groups, 2)
    rates = {group.get("is_head", False): group["lr"] for group in optimizer.param_groups}

    assert rates == {False: 0.0, True: 3.0}
    assert schedule.get_lr(5) == 0.5 and unfreezing.lr_multiplier == 1.0  # type: ignore[attr-defined]


def test_what_is_not_frozen_is_not_unfrozen() -> None:
    options = Options(unfreeze_at_iteration=5)

    assert extras.callbacks(options, extras.scheduler(options)) == []
