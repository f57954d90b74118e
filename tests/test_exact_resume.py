"""A resumed run equals an undisturbed one in weights, optimizer, RNG state, counters and metrics, compared by hash."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import train
import wiring
from benchmark.soak.campaign import ranks
from core.callback import Callback
from core.checkpoint.format import load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.errors import PreemptedError
from core.logger import Logger
from core.trainer import Trainer
from tests.comparing import assert_same
from tools.run_hash import run_hash

LAST = 7  # iter_num after the 7 updates of tiny_argv


def copy_until_checkpoint(undisturbed: Path, sequence: int, folder: Path) -> Path:
    """Copy the folder of a run up to checkpoint `sequence`; metrics.jsonl is copied with its later records."""
    folder.mkdir()
    for file in undisturbed.iterdir():
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
    train.main([*argv, "--out_dir=undisturbed", "--save_interval=1", "--keep_last=99"])
    expected = run_hash("plain")
    assert run_hash("undisturbed") == expected  # saving changes nothing

    sequences = sorted(int(path.stem.removeprefix("ckpt-")) for path in Path("undisturbed").glob("ckpt-*.pt"))
    assert len(sequences) == LAST
    for sequence in sequences:
        folder = copy_until_checkpoint(Path("undisturbed"), sequence, Path(f"from{sequence}"))
        train.main([*argv, f"--out_dir={folder}", "--init_from=resume"])
        assert run_hash(folder) == expected


def test_resuming_a_finished_run_does_nothing(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    best = train.main(tiny_argv)
    before = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.name != ".lock"}
    capsys.readouterr()

    for start in ("resume", "auto"):
        assert train.main([*tiny_argv, f"--init_from={start}"]) == best

    assert {path.name: path.read_bytes() for path in Path("out").iterdir() if path.name != ".lock"} == before
    out, err = capsys.readouterr()
    assert "iter " not in out.replace("tokens per iteration", "")
    assert err.count("nothing to do: the run has finished with iteration 6, its max_iters; to go on, give") == 2


def test_a_finished_run_can_be_made_longer(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--out_dir=long", "--max_iters=9"])
    train.main([*tiny_argv, "--out_dir=short"])
    train.main([*tiny_argv, "--out_dir=short", "--max_iters=9", "--init_from=resume"])

    assert run_hash("short") == run_hash("long")


def test_isolated_evaluations_change_nothing_in_training(run_dir: Path, tiny_argv: list[str]) -> None:
    weights = []
    for number, options in enumerate(
        (["--eval_iters=1"], ["--eval_iters=9", "--eval_interval=2"], ["--eval_interval=100"])
    ):
        train.main([*tiny_argv, *options, "--eval_rng=isolated", f"--out_dir=out{number}"])
        checkpoint_file = CheckpointManager(f"out{number}").load()
        weights.append(torch.load(checkpoint_file.path, weights_only=True)["model"])

    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in other)


class StopAt(Callback):
    """Sends SIGTERM to the process at an event of one iteration."""

    def __init__(self, iter_num: int, event: str = "on_step_begin") -> None:
        self.iter_num = iter_num
        setattr(self, event, self.send_signal)

    def send_signal(self, trainer: Trainer, *_: object) -> None:
        if trainer.iter_num == self.iter_num:
            signal.raise_signal(signal.SIGTERM)


STOPS = [(n, event) for n in (0, 2, 3, 5) for event in ("on_step_begin", "on_step_end")]
STOPS += [(n, event) for n in (0, 3, 6) for event in ("on_eval_begin", "on_eval_end")]
STOPS += [(3, "on_checkpoint"), (6, "on_checkpoint")]


@pytest.mark.parametrize(("iter_num", "event"), STOPS)
def test_a_preempted_run_resumes_and_ends_like_the_undisturbed_one(
    run_dir: Path, tiny_argv: list[str], iter_num: int, event: str
) -> None:
    train.main([*tiny_argv, "--out_dir=plain"])
    with pytest.raises(PreemptedError) as error:
        train.main(tiny_argv, [StopAt(iter_num, event)])
    assert error.value.exit_status == 75
    starts = []

    class RecordsStart(Callback):
        def on_train_begin(self, trainer: Trainer) -> None:
            starts.append(trainer.iter_num)

    train.main([*tiny_argv, "--init_from=auto"], [RecordsStart()])

    assert starts == [iter_num + (event == "on_step_end")]  # the rest of the iteration was abandoned
    assert run_hash("out") == run_hash("plain")


def test_an_evaluation_that_a_signal_interrupts_is_abandoned_and_repeated(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The state from the start of the iteration is saved, with the RNG state before the evaluation."""
    train.main([*tiny_argv, "--out_dir=plain"])
    calls = []

    class InterruptsEvaluation(Callback):
        def on_eval_begin(self, trainer: Trainer) -> None:
            draw = trainer.evaluator.get_batch

            def interrupted(split: str) -> object:
                calls.append(split)
                if trainer.iter_num == 3 and split == "val":
                    signal.raise_signal(signal.SIGTERM)
                return draw(split)

            trainer.evaluator.get_batch = interrupted  # type: ignore[assignment]

    with pytest.raises(PreemptedError, match="^stopped by SIGTERM at iteration 3; to go on: .*train.py --init"):
        train.main(tiny_argv, [InterruptsEvaluation()])
    assert calls[-3:] == ["train", "train", "val"]
    capsys.readouterr()
    train.main([*tiny_argv, "--init_from=resume"])

    assert capsys.readouterr().out.split("using fused AdamW: False\n")[1].startswith("step 3: ")
    assert run_hash("out") == run_hash("plain")


def test_two_ranks_resume_exactly_and_one_rank_warns_about_rng_states(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = [*tiny_argv, "--save_interval=1", "--keep_last=99", "--out_dir=undisturbed"]
    assert ranks(lambda: train.main(undisturbed)) == [0, 0]
    for sequence in (2, 5):
        folder = copy_until_checkpoint(Path("undisturbed"), sequence, Path(f"from{sequence}"))
        resume = [*tiny_argv, "--init_from=resume", f"--out_dir={folder}"]
        assert ranks(lambda resume=resume: train.main(resume)) == [0, 0]  # type: ignore[misc]
        assert run_hash(folder) == run_hash("undisturbed")

    folder = copy_until_checkpoint(Path("undisturbed"), 3, Path("one-rank"))
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


# within one process, step by step


def lines(text: str) -> list[str]:
    """Return the lines of evaluations and updates, without the times."""
    return [line.split(", time")[0] for line in text.splitlines() if line.startswith(("step", "iter"))]


@pytest.mark.parametrize("stopped_at", [3, 4, 5])
def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(
    run_dir: Path, tiny_argv: list[str], stopped_at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, optimizer, RNG state, prefetched batch and losses are equal, with dropout and gradient accumulation."""
    train.main([*tiny_argv, "--out_dir=undisturbed"])
    undisturbed = lines(capsys.readouterr().out)
    train.main([*tiny_argv, "--out_dir=halves", f"--max_iters={stopped_at}"])
    first = lines(capsys.readouterr().out)
    torch.rand(99)  # a new process starts with another RNG state
    best = train.main([*tiny_argv, "--out_dir=halves", "--init_from=resume"])
    second = lines(capsys.readouterr().out)

    ours, theirs = (load_checkpoint(CheckpointManager(folder).load().path) for folder in ("halves", "undisturbed"))
    assert ours["iter_num"] == 7
    for checkpoint in (ours, theirs):
        for key in ("config", "run", "loggers"):  # they depend on times and folders
            del checkpoint[key]
    assert_same(ours, theirs)
    assert first + second == undisturbed
    assert best == theirs["lowest_val_loss"]


def test_resume_rng_reseed_gives_every_resume_the_same_first_batch(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As in nanoGPT, the batches follow from the seed and not from the checkpoint."""
    train.main([*tiny_argv, "--max_iters=3"])
    capsys.readouterr()
    seen = []

    class FirstBatch(Callback):
        def on_step_begin(self, trainer: Trainer) -> None:
            if trainer.step.updates == 0:
                seen.append(trainer.step.batch)

    train.main([*tiny_argv, "--init_from=resume", "--resume_rng=reseed"], [FirstBatch()])

    assert [line.split(":")[0] for line in lines(capsys.readouterr().out)][:3] == ["iter 4", "iter 5", "step 6"]
    saved = load_checkpoint("out/ckpt.pt")
    assert not torch.equal(seen[0][0], saved["ranks"][0]["batch"][0])
    train.main([*tiny_argv, "--init_from=resume", "--resume_rng=reseed"], [FirstBatch()])
    assert torch.equal(seen[0][0], seen[1][0])


def test_a_checkpoint_of_nanogpt_is_resumed_with_an_evaluation(
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


def test_a_checkpoint_without_an_optimizer_is_resumed_with_fresh_moments(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*tiny_argv, "--max_iters=3"])
    checkpoint = torch.load("out/ckpt.pt", weights_only=True)
    del checkpoint["optimizer"]
    shutil.rmtree("out")
    os.mkdir("out")
    torch.save(checkpoint, "out/ckpt.pt")

    train.main([*tiny_argv, "--init_from=resume"])

    assert "resume: the checkpoint lacks optimizer (its moments start at zero)\n" in capsys.readouterr().err
    moments = torch.load("out/ckpt-000002.pt", weights_only=True)["optimizer"]["state"]
    assert {int(saved["step"]) for saved in moments.values()} == {4}  # of iterations 3 to 6


def test_loggers_are_closed_when_resuming_fails(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing(Logger):
        open = False
        log_step = log_eval = lambda self, metrics: None

        def close(self) -> None:
            self.open = False

    class RefusesState(Callback):
        def state_dict(self) -> dict[str, int]:
            return {}

        def load_state_dict(self, state: dict[str, int]) -> None:
            raise RuntimeError("saved by another version")

    logger = Closing()

    def loggers(*_: Any) -> list[Logger]:
        logger.open = True
        return [logger]

    train.main([*tiny_argv, "--max_iters=3"], [RefusesState()])
    monkeypatch.setattr(wiring, "loggers", loggers)
    with pytest.raises(RuntimeError, match="saved by another version"):
        train.main([*tiny_argv, "--init_from=resume"], [RefusesState()])

    assert not logger.open


def test_an_attention_type_that_stays_as_saved_is_not_logged_as_changed(
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


def test_other_data_reset_the_best_loss_and_relink_ckpt_pt(
    run_dir: Path, tiny_argv: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Random tokens cannot be learnt as well as the walk through the alphabet: the old best loss would stay."""
    argv = [*tiny_argv, "--always_save_checkpoint=False", "--lr_decay_iters=100"]
    best = train.main([*argv, "--max_iters=60", "--eval_interval=20"])
    shutil.copytree("data/tiny", "data/noise")
    for split in ("train", "val"):
        (torch.rand(2000) * 17).to(torch.int16).numpy().tofile(f"data/noise/{split}.bin")
    caplog.set_level("INFO")
    argv = [*argv, "--dataset=noise", "--init_from=resume", "--max_iters=63", "--eval_interval=1"]
    after = train.main(argv)

    linked = torch.load("out/ckpt.pt", weights_only=True)
    assert after > best + 0.1 and linked["config"]["dataset"] == "noise" and linked["lowest_val_loss"] > best + 0.1
    assert "resume: the data are not those of the checkpoint; the best loss is reset" in caplog.text
    assert caplog.text.count("best loss is reset") == 1
    train.main([*argv, "--max_iters=64"])  # the same data again
    assert caplog.text.count("best loss is reset") == 1


def test_another_spelling_of_the_data_set_resets_nothing(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--out_dir=a", "--max_iters=9"])
    train.main([*tiny_argv, "--out_dir=b"])
    train.main([*tiny_argv, "--out_dir=b", "--max_iters=9", "--init_from=resume", f"--dataset={run_dir}/data/tiny"])

    assert run_hash("a") == run_hash("b")
