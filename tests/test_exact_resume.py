"""Stopped anywhere and resumed = never stopped: weights, optimizer, random state, counters and metrics, by one hash."""

import shutil
import signal
from pathlib import Path

import pytest
import torch

import train
from benchmark.soak.campaign import ranks
from core.callback import Callback
from core.checkpoint.manager import CheckpointManager
from core.errors import PreemptedError
from core.trainer import Trainer
from tools.run_hash import run_hash

LAST = 7  # iter_num after the 7 updates of tiny_argv


def cut(whole: Path, sequence: int, folder: Path) -> Path:
    """Copy a run's folder as it was when checkpoint `sequence` had just been written, metrics of later on included."""
    folder.mkdir()
    for file in whole.iterdir():
        number = file.name.removeprefix("ckpt-").split(".")[0]
        if file.name == "metrics.jsonl" or (number.isdigit() and int(number) <= sequence):
            shutil.copy(file, folder / file.name)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ["--eval_interval=1"],  # an evaluation and a save at every iteration
        ["--eval_interval=100"],  # saves without evaluations
        ["--eval_interval=3", "--always_save_checkpoint=False"],
        ["--eval_interval=2", "--eval_rng=isolated", "--async_save=True"],
        ["--gradient_accumulation_steps=1", "--dropout=0.0"],
        ["--spike_threshold=20", "--spike_window=8"],
        ["--grad_clip=0.0", "--log_interval=3"],
    ],
    ids=lambda options: " ".join(options),
)
def test_a_run_resumed_at_any_iteration_ends_like_the_undisturbed_one(
    run_dir: Path, tiny_argv: list[str], options: list[str]
) -> None:
    argv = [*tiny_argv, *options]
    train.main([*argv, "--out_dir=plain"])
    train.main([*argv, "--out_dir=whole", "--save_interval=1", "--keep_last=99"])
    undisturbed = run_hash("plain")
    assert run_hash("whole") == undisturbed  # saving changes nothing

    sequences = sorted(int(path.stem.removeprefix("ckpt-")) for path in Path("whole").glob("ckpt-*.pt"))
    assert len(sequences) == LAST
    for sequence in sequences:
        folder = cut(Path("whole"), sequence, Path(f"cut{sequence}"))
        train.main([*argv, f"--out_dir={folder}", "--init_from=resume"])
        assert run_hash(folder) == undisturbed


def test_resuming_a_finished_run_does_nothing(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    best = train.main(tiny_argv)
    before = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.name != ".lock"}
    capsys.readouterr()

    for start in ("resume", "auto"):
        assert train.main([*tiny_argv, f"--init_from={start}"]) == best

    assert {path.name: path.read_bytes() for path in Path("out").iterdir() if path.name != ".lock"} == before
    assert "iter " not in capsys.readouterr().out.replace("tokens per iteration", "")


def test_a_finished_run_can_be_made_longer(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--out_dir=long", "--max_iters=9"])
    train.main([*tiny_argv, "--out_dir=short"])
    train.main([*tiny_argv, "--out_dir=short", "--max_iters=9", "--init_from=resume"])

    assert run_hash("short") == run_hash("long")


def test_evaluation_settings_change_nothing_in_training_when_evaluations_draw_by_themselves(
    run_dir: Path, tiny_argv: list[str]
) -> None:
    weights = []
    for number, options in enumerate(
        (["--eval_iters=1"], ["--eval_iters=9", "--eval_interval=2"], ["--eval_interval=100"])
    ):
        train.main([*tiny_argv, *options, "--eval_rng=isolated", f"--out_dir=out{number}"])
        found = CheckpointManager(f"out{number}").load()
        weights.append(torch.load(found.path, weights_only=True)["model"])

    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in other)


class StopAt(Callback):
    """Sends the process a signal at the top of an iteration, or in its evaluation."""

    def __init__(self, iter_num: int, event: str = "on_step_begin") -> None:
        self.iter_num = iter_num
        setattr(self, event, self.strike)

    def strike(self, trainer: Trainer, *_: object) -> None:
        if trainer.iter_num == self.iter_num:
            signal.raise_signal(signal.SIGTERM)


STRIKES = [(n, event) for n in (0, 2, 3, 5) for event in ("on_step_begin", "on_step_end")]
STRIKES += [(n, event) for n in (0, 3, 6) for event in ("on_eval_begin", "on_eval_end")]
STRIKES += [(3, "on_checkpoint"), (6, "on_checkpoint")]


@pytest.mark.parametrize(("iter_num", "event"), STRIKES)
def test_a_run_that_was_preempted_goes_on_where_it_was_and_ends_like_the_undisturbed_one(
    run_dir: Path, tiny_argv: list[str], iter_num: int, event: str
) -> None:
    train.main([*tiny_argv, "--out_dir=plain"])
    with pytest.raises(PreemptedError) as error:
        train.main(tiny_argv, [StopAt(iter_num, event)])
    assert error.value.exit_status == 75
    begun = []

    class Begun(Callback):
        def on_train_begin(self, trainer: Trainer) -> None:
            begun.append(trainer.iter_num)

    train.main([*tiny_argv, "--init_from=auto"], [Begun()])

    assert begun == [iter_num + (event == "on_step_end")]  # what would follow was abandoned
    assert run_hash("out") == run_hash("plain")


def test_an_evaluation_that_a_signal_interrupts_is_abandoned_and_repeated(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The state of the top of the iteration is saved: the evaluation's random draws are taken back."""
    train.main([*tiny_argv, "--out_dir=plain"])
    calls = []

    class Watch(Callback):
        def on_eval_begin(self, trainer: Trainer) -> None:
            draw = trainer.evaluator.get_batch

            def interrupted(split: str) -> object:
                calls.append(split)
                if trainer.iter_num == 3 and split == "val":
                    signal.raise_signal(signal.SIGTERM)
                return draw(split)

            trainer.evaluator.get_batch = interrupted  # type: ignore[assignment]

    with pytest.raises(PreemptedError, match="^stopped by SIGTERM at iteration 3; --init_from=resume goes on"):
        train.main(tiny_argv, [Watch()])
    assert calls[-3:] == ["train", "train", "val"]
    capsys.readouterr()
    train.main([*tiny_argv, "--init_from=resume"])

    assert capsys.readouterr().out.split("using fused AdamW: False\n")[1].startswith("step 3: ")
    assert run_hash("out") == run_hash("plain")


def test_two_ranks_resume_exactly_and_one_goes_on_alone_after_saying_what_is_lost(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [*tiny_argv, "--save_interval=1", "--keep_last=99", "--out_dir=whole"]
    assert ranks(lambda: train.main(whole)) == [0, 0]
    for sequence in (2, 5):
        folder = cut(Path("whole"), sequence, Path(f"cut{sequence}"))
        resume = [*tiny_argv, "--init_from=resume", f"--out_dir={folder}"]
        assert ranks(lambda resume=resume: train.main(resume)) == [0, 0]  # type: ignore[misc]
        assert run_hash(folder) == run_hash("whole")

    folder = cut(Path("whole"), 3, Path("alone"))
    saved = torch.load(folder / "ckpt-000003.pt", weights_only=True)
    seen = []

    class First(Callback):
        def on_train_begin(self, trainer: Trainer) -> None:
            seen.append((trainer.iter_num, trainer.raw_model.state_dict()["lm_head.weight"].clone()))

    train.main([*tiny_argv, f"--out_dir={folder}", "--init_from=resume"], [First()])
    assert seen[0][0] == saved["iter_num"]
    assert torch.equal(seen[0][1], saved["model"]["lm_head.weight"])
    message = "the checkpoint has 2 random states, wanted 1; weights, optimizer and counters are exact"
    assert message in capsys.readouterr().err
