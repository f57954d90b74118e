"""train.py end to end: its output, its files, and resumed runs."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import core
import train
import wiring
from config.options import Options
from configurator import configure
from core import Callback, CheckpointError, PreemptedError, Trainer
from tests.summary_lines import without_summary
from tools.run_hash import run_hash

ROOT = Path(__file__).parents[1]
FLOAT = r"\d+\.\d{4}"
NO_MFU = r"-100\.00%"  # the mfu of the first five iterations
MFU = r"\d+\.\d\d%"


def introduction(argv: list[str], origin: str) -> list[str]:
    """Return patterns of the lines that a run on data/tiny prints before its first evaluation."""
    echo = ["Overriding: " + re.escape(argument.removeprefix("--").replace("=", " = ", 1)) for argument in argv]
    return [
        *echo,
        "tokens per iteration will be: 128",
        r"found vocab_size = 17 \(inside data/tiny/meta\.pkl\)",
        origin,
        r"number of parameters: 0\.03M",
        "num decayed parameter tensors: 10, with 25,632 parameters",
        "num non-decayed parameter tensors: 5, with 160 parameters",
        "using fused AdamW: False",
    ]


def evaluation(iter_num: int) -> str:
    return rf"step {iter_num}: train loss {FLOAT}, val loss {FLOAT}"


def iteration(iter_num: int, mfu: str) -> str:
    return rf"iter {iter_num}: loss {FLOAT}, time \d+\.\d\dms, mfu {mfu}"


def match(text: str, patterns: list[str]) -> None:
    lines = text.splitlines()
    for line, pattern in zip(lines, patterns, strict=False):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"
    assert len(lines) == len(patterns)


@pytest.fixture
def argv(tiny_argv: list[str]) -> list[str]:
    """Return tiny_argv with learning rates in the form in which the program echoes them."""
    return [argument.replace("1e-2", "0.01").replace("1e-3", "0.001") for argument in tiny_argv]


def checkpoint(folder: str = "out", name: str = "ckpt.pt") -> dict[str, Any]:
    return torch.load(f"{folder}/{name}", weights_only=True)


def manifests(folder: str = "out") -> list[dict[str, Any]]:
    """Return the manifests of all checkpoints, the oldest first."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("ckpt-*.json"))]


def save_as_nanogpt(content: dict[str, Any], path: str, **changes: Any) -> None:
    """Save a checkpoint with only nanoGPT's six keys."""
    keys = ("model", "optimizer", "model_args", "iter_num", "best_val_loss", "config")
    torch.save({**{key: content[key] for key in keys}, **changes}, path)


def names(folder: str = "out") -> list[str]:
    return sorted(os.listdir(folder))


def contents(folder: str = "out") -> dict[str, bytes]:
    """Return the content of all files except the lock file, which contains the process id of the run."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in paths}


def records(folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


class AtIteration(Callback):
    """Calls a function after the update of one iteration."""

    def __init__(self, iter_num: int, action: Callable[[Trainer], None]) -> None:
        self.iter_num = iter_num
        self.action = action

    def on_step_end(self, trainer: Trainer, result: Any) -> None:
        if trainer.iter_num == self.iter_num:
            self.action(trainer)


# output


def test_stdout_has_nanogpts_lines_in_nanogpts_order(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(argv)

    out, err = capsys.readouterr()
    saving = "saving checkpoint to out"
    match(
        out,
        [
            *introduction(argv, "Initializing a new model from scratch"),
            evaluation(0),
            *(iteration(i, NO_MFU) for i in (0, 1, 2)),
            evaluation(3),
            saving,
            *(iteration(i, NO_MFU) for i in (3, 4)),
            iteration(5, MFU),
            evaluation(6),
            saving,
            iteration(6, MFU),
        ],
    )
    assert without_summary(err) == "" and len(err.splitlines()) == 6


def test_the_program_runs_in_a_separate_process(run_dir: Path, tiny_argv: list[str]) -> None:
    """The device is the default one; without CUDA, stderr has one line that names the device."""
    flags = [argument for argument in tiny_argv if not argument.startswith("--device")]
    if torch.cuda.is_available():
        flags.append("--device=cpu")
    command = [sys.executable, ROOT / "train.py", *flags, "--max_iters=1", "--eval_interval=1", "--out_dir=new/out"]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0
    messages = [
        line
        for line in without_summary(done.stderr).splitlines()
        if not re.match(r"device: no CUDA device here, using \w+", line)
    ]
    assert messages == []
    kinds = [re.sub(r"[ :].*", "", line) for line in done.stdout.splitlines() if not line.startswith("Overriding: ")]
    assert kinds == ["tokens", "found", "Initializing", "number", "num", "num", "using",
                     "step", "iter", "step", "saving", "iter"]  # fmt: skip
    numbered = [f"ckpt-00000{number}.{end}" for number in (1, 2) for end in ("json", "pt")]
    assert names("new/out") == [".lock", *numbered, "ckpt.pt", "config.yaml", "metrics.jsonl"]


def test_without_meta_the_vocabulary_is_gpt2s(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/tiny/meta.pkl").unlink()

    train.main([*argv, "--eval_only=True", "--eval_iters=1", "--n_embd=4"])

    assert (
        "Initializing a new model from scratch\n"
        "defaulting to vocab_size of GPT-2 to 50304 (50257 rounded up for efficiency)\n"
        "number of parameters: 0.20M\n"
    ) in capsys.readouterr().out


def test_iterations_are_logged_every_log_interval(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*argv, "--log_interval=3"])

    assert re.findall(r"^iter (\d+):", capsys.readouterr().out, re.MULTILINE) == ["0", "3", "6"]


# files


def test_the_checkpoint_has_nanogpts_keys(run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lowest = train.main(argv)

    saved, last = checkpoint(), re.findall(r"val loss (.*)", capsys.readouterr().out)[-1]
    nanogpt = ["model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"]
    assert list(saved)[:6] == nanogpt
    assert saved["iter_num"] == 6
    assert saved["model_args"] == dict(
        n_layer=2, n_head=2, n_embd=32, block_size=16, bias=False, vocab_size=17, dropout=0.2
    )
    assert saved["config"]["dataset"] == "tiny" and saved["config"]["learning_rate"] == 0.01
    assert f"{saved['best_val_loss']:.4f}" == last and lowest <= saved["best_val_loss"]
    assert saved["optimizer"]["state"][0]["step"] == 6 and len(saved["optimizer"]["state"]) == 15


def test_the_end_of_training_is_saved_in_a_file_other_than_ckpt_pt(run_dir: Path, argv: list[str]) -> None:
    """ckpt.pt is the checkpoint that nanoGPT would write last: the state before the update of iteration 6."""
    train.main(argv)

    before, last = manifests()
    assert Path("out/ckpt.pt").samefile(Path("out", before["file"]))
    assert (before["iter_num"], before["linked"], before["finished"]) == (6, True, False)
    assert (last["iter_num"], last["linked"], last["finished"], last["val_loss"]) == (7, False, True, None)
    assert before["val_loss"] == [record["val/loss"] for record in records() if record["event"] == "eval"][-1]
    final = checkpoint(name=last["file"])
    assert final["iter_num"] == 7 and final["optimizer"]["state"][0]["step"] == 7
    assert not torch.equal(final["model"]["lm_head.weight"], checkpoint()["model"]["lm_head.weight"])


def test_saving_more_often_changes_neither_ckpt_pt_nor_the_run(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*argv, "--out_dir=plain"])
    capsys.readouterr()

    train.main([*argv, "--save_interval=2", "--save_minutes=1e-9", "--keep_last=9"])

    assert re.findall("^saving.*", capsys.readouterr().out, re.MULTILINE) == ["saving checkpoint to out"] * 2
    saved = manifests()
    assert [manifest["iter_num"] for manifest in saved] == [1, 2, 3, 4, 5, 6, 7]
    assert [manifest["iter_num"] for manifest in saved if manifest["linked"]] == [3, 6]
    assert checkpoint()["iter_num"] == 6 and run_hash("out") == run_hash("plain")


def test_background_saves_write_the_same_checkpoints(run_dir: Path, argv: list[str]) -> None:
    for folder, flag in (("plain", "False"), ("background", "True")):
        train.main([*argv, f"--out_dir={folder}", "--save_interval=1", "--keep_last=9", f"--async_save={flag}"])

    plain, background = manifests("plain"), manifests("background")
    assert [manifest["iter_num"] for manifest in background] == [manifest["iter_num"] for manifest in plain]
    assert names("background") == names("plain") and run_hash("background") == run_hash("plain")


def test_keep_last_and_keep_best_limit_the_number_of_checkpoints(run_dir: Path, argv: list[str]) -> None:
    """The three newest checkpoints are kept, and the best older one; ckpt.pt is one of them."""
    high_lr = ["--decay_lr=False", "--learning_rate=1", "--eval_iters=10", "--eval_interval=2"]

    train.main([*argv, *high_lr, "--save_interval=1", "--keep_last=3", "--keep_best=1"])

    kept = {manifest["iter_num"]: manifest["val_loss"] for manifest in manifests()}
    evaluations = {record["iter"]: record["val/loss"] for record in records() if record["event"] == "eval"}
    best = min((2, 4, 6), key=evaluations.__getitem__)
    assert list(kept) == sorted({best, 5, 6, 7}) and kept[best] == evaluations[best]


def test_a_new_run_moves_the_previous_run_to_a_subfolder(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--max_iters=3"])
    previous, files = run_hash("out"), names()

    train.main(argv)
    train.main(argv)

    assert run_hash("out/previous-1") == previous and run_hash("out/previous-2") == run_hash("out") != previous
    assert names("out/previous-1") == [name for name in files if name != ".lock"]
    assert [record["iter"] for record in records() if record["event"] == "step"] == list(range(7))


def test_metrics_are_logged_as_json_lines(run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lowest = train.main(argv)

    out, logged = capsys.readouterr().out, records()
    steps = [record for record in logged if record["event"] == "step"]
    evaluations = [record for record in logged if record["event"] == "eval"]
    order = [(record["event"], record.get("iter")) for record in logged]
    assert order == [("run", None), ("eval", 0), ("step", 0), ("step", 1), ("step", 2), ("eval", 3),
                     ("checkpoint", None), ("step", 3), ("step", 4), ("step", 5), ("eval", 6), ("checkpoint", None),
                     ("step", 6)]  # fmt: skip
    assert [f"{record['loss']:.4f}" for record in steps] == re.findall(r"iter \d+: loss ([\d.]+)", out)
    assert [f"{record['val/loss']:.4f}" for record in evaluations] == re.findall(r"val loss ([\d.]+)", out)
    assert [f"{record['train/loss']:.4f}" for record in evaluations] == re.findall(r"train loss ([\d.]+)", out)
    assert min(record["val/loss"] for record in evaluations) == lowest
    assert [round(record["lr"], 6) for record in steps[:3]] == [0.003333, 0.006667, 0.01] and steps[6]["lr"] == 0.001
    assert all(record["grad_norm"] > 0 and record["time_ms"] > 0 for record in steps)
    assert [record["mfu"] for record in steps[:5]] == [-100.0] * 5 and steps[5]["mfu"] > 0


def test_without_clipping_no_gradient_norm_is_logged(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--grad_clip=0", "--max_iters=0"])

    assert [list(record) for record in records() if record["event"] == "step"] == [
        ["event", "iter", "loss", "lr", "time_ms", "mfu", "elapsed_s", "tokens", "tokens_per_s", "mean_loss"]
    ]


def test_a_worse_evaluation_is_saved_only_if_always_save_checkpoint(run_dir: Path, argv: list[str]) -> None:
    """A learning rate that ruins the model after the first evaluation."""
    high_lr = ["--decay_lr=False", "--learning_rate=1", "--eval_iters=10"]

    lowest = train.main([*argv, *high_lr, "--out_dir=best", "--always_save_checkpoint=False"])
    train.main([*argv, *high_lr, "--out_dir=last"])

    losses = [record["val/loss"] for record in records("best") if record["event"] == "eval"]
    assert lowest == losses[0] < min(losses[1:])
    # the only checkpoint is the one at the end of training
    assert names("best") == [".lock", "ckpt-000001.json", "ckpt-000001.pt", "config.yaml", "metrics.jsonl"]
    assert checkpoint("last")["iter_num"] == 6 and checkpoint("last")["best_val_loss"].item() == losses[2]


def test_the_validation_loss_falls(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--max_iters=60", "--lr_decay_iters=60", "--eval_interval=30", "--eval_iters=20", "--dropout=0"])

    losses = [record["val/loss"] for record in records() if record["event"] == "eval"]
    assert losses[0] > 2.8 and losses[2] < 1.5  # at least ln 3 = 1.1, as three next tokens are equally likely


# resuming


def stopped(trainer: Trainer) -> None:
    trainer.stop("enough")


def signalled(trainer: Trainer) -> None:
    signal.raise_signal(signal.SIGTERM)


class SignalledAtBegin(Callback):
    """Sends SIGTERM to the process in `on_train_begin`."""

    def on_train_begin(self, trainer: Trainer) -> None:
        signalled(trainer)


def killed(trainer: Trainer) -> None:
    raise Killed


class Killed(KeyboardInterrupt):
    """Stands for a kill: as after a second Ctrl-C, nothing is saved."""


ENDS = {
    # the function that ends the run after iteration 4, the iteration of the resume, and its checkpoint
    "stopped": (stopped, 5, "ckpt-000002.pt"),
    "signalled": (signalled, 5, "ckpt-000002.pt"),
    "killed": (killed, 3, "ckpt-000001.pt"),
}


@pytest.mark.parametrize("origin", ["resume", "auto"])
@pytest.mark.parametrize("end", ENDS)
def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str], end: str, origin: str
) -> None:
    end_run, first, name = ENDS[end]
    train.main([*argv, "--out_dir=undisturbed"])
    with contextlib.suppress(PreemptedError, Killed):
        train.main([*argv, "--out_dir=resumed"], [AtIteration(4, end_run)])
    assert checkpoint("resumed")["iter_num"] == 3
    assert [record["iter"] for record in records("resumed") if record["event"] == "step"][-1] >= 3
    capsys.readouterr()

    resume = [*argv, "--out_dir=resumed", f"--init_from={origin}"]
    train.main(resume)

    out, err = capsys.readouterr()
    match(
        out,
        [
            *introduction(resume, "Resuming training from resumed"),
            *(iteration(i, NO_MFU) for i in range(first, 6)),
            evaluation(6),
            "saving checkpoint to resumed",
            iteration(6, NO_MFU),
        ],
    )
    assert without_summary(err) == f"resume: iteration {first} from {name}, checksum and next batch verified\n"
    expected, resumed = checkpoint("undisturbed"), checkpoint("resumed")
    assert all(torch.equal(expected["model"][name], resumed["model"][name]) for name in expected["model"])
    for number, state in expected["optimizer"]["state"].items():
        assert all(torch.equal(state[key], resumed["optimizer"]["state"][number][key]) for key in state)
    assert (
        expected["best_val_loss"] == resumed["best_val_loss"]
        and expected["lowest_val_loss"] == resumed["lowest_val_loss"]
    )
    assert run_hash("undisturbed") == run_hash("resumed")
    losses = [
        [(r["iter"], r["loss"]) for r in records(folder) if r["event"] == "step"]
        for folder in ("undisturbed", "resumed")
    ]
    assert losses[0] == losses[1] and [number for number, _ in losses[1]] == list(range(7))


def test_a_signal_saves_and_ends_the_run(run_dir: Path, argv: list[str]) -> None:
    previous = signal.getsignal(signal.SIGTERM)

    with pytest.raises(
        PreemptedError,
        match=r"^stopped by SIGTERM at iteration 5; to go on: .*train.py --init_from=resume --out_dir=out",
    ) as caught:
        train.main(argv, [AtIteration(4, signalled)])

    assert caught.value.exit_status == 75
    assert manifests()[-1]["iter_num"] == 5 and not manifests()[-1]["finished"]
    assert signal.getsignal(signal.SIGTERM) == previous


@pytest.mark.parametrize(
    ("resumes", "when"),
    [("", "before the first update"), ("exact", "at iteration 4;"), ("reseed", "before the first update")],
)
@pytest.mark.parametrize("reason", ["SIGTERM", "the time limit of 1e-09 hours"])
def test_a_stop_before_the_first_batch_changes_no_checkpoint(
    run_dir: Path, argv: list[str], reason: str, resumes: str, when: str
) -> None:
    """The first draw of a batch, which the stop interrupts, is not tried again and again."""
    if resumes:
        train.main([*argv, "--max_iters=3"])
        argv = [*argv, "--init_from=resume", f"--resume_rng={resumes}"]
    before = contents() if resumes else {}

    with pytest.raises(PreemptedError, match=f"^stopped by {reason} {when}"):
        if reason == "SIGTERM":
            train.main(argv, [SignalledAtBegin()])
        else:
            train.main([*argv, "--time_limit=1e-9"])

    after = contents()
    for name in ("out/metrics.jsonl", "out/config.yaml"):
        before.pop(name, None)
        after.pop(name, None)
    assert after == before


def test_auto_starts_a_new_run_if_there_is_no_checkpoint(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*argv, "--out_dir=undisturbed"])
    capsys.readouterr()

    train.main([*argv, "--init_from=auto"])

    out, err = capsys.readouterr()
    assert "Initializing a new model from scratch\n" in out and run_hash("out") == run_hash("undisturbed")
    err = without_summary(err)
    assert err.startswith("init_from=auto: starting afresh (no checkpoint at out/ckpt.pt") and err.count("\n") == 1


def test_resuming_a_finished_run_makes_no_update(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(argv)
    before = contents()
    capsys.readouterr()

    lowest = train.main([*argv, "--init_from=resume"])

    out, err = capsys.readouterr()
    match(out, introduction([*argv, "--init_from=resume"], "Resuming training from out"))
    verified = "resume: iteration 7 from ckpt-000003.pt, checksum and next batch verified\n"
    finished = (
        "nothing to do: the run has finished with iteration 6, its max_iters; to go on, give the run's config and a "
        "larger max_iters\n"
    )
    assert err == verified + finished
    assert contents() == before
    assert lowest == min(record["val/loss"] for record in records() if record["event"] == "eval")


def test_a_finished_run_can_be_resumed_with_more_iterations(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--max_iters=9", "--out_dir=undisturbed"])
    train.main(argv)

    train.main([*argv, "--max_iters=9", "--init_from=resume"])

    assert run_hash("out") == run_hash("undisturbed")


def test_resuming_with_a_fresh_seed_repeats_the_evaluation(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """nanoGPT does so too. A ckpt.pt of nanoGPT, which has no RNG state, is resumed in the same way."""
    train.main([*argv, "--max_iters=3"])
    for folder in ("ours", "theirs"):
        Path(folder).mkdir()
    shutil.copy("out/ckpt.pt", "ours")
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in checkpoint()["model"].items()}
    save_as_nanogpt(checkpoint(), "theirs/ckpt.pt", model=compiled)
    capsys.readouterr()

    train.main([*argv, "--init_from=resume", "--out_dir=ours", "--resume_rng=reseed", "--max_iters=4"])
    out, err = capsys.readouterr()
    train.main([*argv, "--init_from=resume", "--out_dir=theirs", "--max_iters=4"])
    their_out, their_err = capsys.readouterr()

    def numbers(text: str) -> list[str]:
        return re.findall(rf"^(?:step|iter) .*?loss {FLOAT}(?:, val loss {FLOAT})?", text, re.MULTILINE)

    assert [line.split(":")[0] for line in numbers(out)] == ["step 3", "iter 3", "iter 4"]
    assert numbers(out) == numbers(their_out)
    foreign = r"/ckpt\.pt has no manifest \(nanoGPT's, .*\): loaded after a check of its own"
    assert re.match(f"ours{foreign}", err) and re.match(f"theirs{foreign}", their_err)
    assert "no random state" not in err and "the checkpoint has no random state; weights" in their_err


def test_a_resume_uses_the_newer_ckpt_pt_of_another_program(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """nanoGPT's train.py continued the run in our folder; it overwrites ckpt.pt in place, with all its hard links."""
    train.main([*argv, "--max_iters=3"])
    save_as_nanogpt(checkpoint(), "out/ckpt.pt", iter_num=5)
    capsys.readouterr()

    train.main([*argv, "--init_from=resume"])

    out, err = capsys.readouterr()
    assert re.findall(r"^iter \d+", out, re.MULTILINE) == ["iter 5", "iter 6"]
    assert re.match(
        r"out/ckpt\.pt has no manifest \(.*another program.* after the last save\): loaded after a check", err
    )
    assert manifests()[-1]["iter_num"] == 7 and "ckpt.pt.foreign" in names()


def test_a_run_from_a_foreign_checkpoint_can_be_stopped_and_resumed(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """No evaluation improves on that program's best loss, so ckpt.pt is still the file of that program."""
    train.main([*argv, "--max_iters=3"])
    Path("theirs").mkdir()
    save_as_nanogpt(checkpoint(), "theirs/ckpt.pt", best_val_loss=torch.tensor(0.1))
    resume = [*argv, "--out_dir=theirs", "--init_from=resume", "--always_save_checkpoint=False"]
    with pytest.raises(PreemptedError):
        train.main(resume, [AtIteration(4, signalled)])
    capsys.readouterr()

    train.main(resume)

    assert re.findall(r"^iter \d+", capsys.readouterr().out, re.MULTILINE) == ["iter 5", "iter 6"]


def test_auto_starts_a_new_run_if_all_checkpoints_are_damaged(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(argv)
    expected = run_hash("out")
    for path in Path("out").glob("ckpt*.pt"):
        os.truncate(path, 1000)
    capsys.readouterr()

    train.main([*argv, "--init_from=auto"])

    err = capsys.readouterr().err
    assert "init_from=auto: starting afresh (no good checkpoint in out: " in err
    assert "could not be saved" not in err
    assert run_hash("out") == expected and checkpoint()["iter_num"] == 6
    assert "ckpt.pt" in names("out/previous-1")


def test_another_programs_ckpt_pt_is_renamed_and_kept(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--max_iters=3"])
    Path("theirs").mkdir()
    content = Path("out/ckpt.pt").read_bytes()
    Path("theirs/ckpt.pt").write_bytes(content)

    train.main([*argv, "--init_from=resume", "--out_dir=theirs"])

    numbered = [f"ckpt-00000{number}.{end}" for number in (1, 2) for end in ("json", "pt")]
    assert names("theirs") == [".lock", *numbered, "ckpt.pt", "ckpt.pt.foreign", "config.yaml", "metrics.jsonl"]
    assert Path("theirs/ckpt.pt.foreign").read_bytes() == content
    assert Path("theirs/ckpt.pt").samefile("theirs/ckpt-000001.pt") and checkpoint("theirs")["iter_num"] == 6


def test_options_that_differ_on_resume_are_logged_in_one_line(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*argv, "--max_iters=3"])
    capsys.readouterr()

    train.main(
        [*argv, "--init_from=resume", "--max_iters=4", "--n_layer=3", "--weight_decay=0.5", "--learning_rate=0.002"]
    )

    lines = without_summary(capsys.readouterr().err).splitlines()
    assert len(lines) == 2 and lines[0].startswith("resume: the options differ from the checkpoint's: ")
    assert lines[1] == "resume: iteration 4 from ckpt-000002.pt, checksum and next batch verified"
    changes = "n_layer stays 2 (not 3), weight_decay stays 0.1 (not 0.5), max_iters 3 -> 4, learning_rate 0.01 -> 0.002"
    assert lines[0].partition("checkpoint's: ")[2].startswith(changes + "; to change what stays, ")


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
def test_block_size_can_be_reduced_on_resume(run_dir: Path, argv: list[str], positions: str) -> None:
    """The position embeddings are cropped, and the optimizer's moments with them."""
    argv = [*argv, f"--position_encoding={positions}"]
    train.main([*argv, "--max_iters=3"])

    train.main([*argv, "--init_from=resume", "--block_size=8"])

    saved = checkpoint()
    assert saved["iter_num"] == 6 and saved["model_args"]["block_size"] == 8
    if positions == "absolute":
        assert saved["model"]["transformer.wpe.weight"].shape == (8, 32)
        assert saved["optimizer"]["state"][1]["exp_avg"].shape == (8, 32)


def test_a_smaller_batch_size_applies_to_the_first_batch_after_a_resume(run_dir: Path, argv: list[str]) -> None:
    """The prefetched batch in the checkpoint has the old size."""
    train.main([*argv, "--max_iters=3"])
    sizes: list[int] = []

    class RecordsSizes(Callback):
        def on_step_begin(self, trainer: Trainer) -> None:
            if trainer.step.batch is not None:
                sizes.append(len(trainer.step.batch[0]))

    train.main([*argv, "--init_from=resume", "--batch_size=3", "--max_iters=4"], [RecordsSizes()])

    assert set(sizes) == {3}


# evaluation only


def test_eval_only_stops_after_one_evaluation_and_saves_nothing(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*argv, "--eval_only=True"]

    loss = train.main(flags)

    match(
        capsys.readouterr().out,
        [*introduction(flags, "Initializing a new model from scratch"), evaluation(0)],
    )
    assert not Path("out").exists() and 2 < loss < 4


@pytest.mark.parametrize(
    "max_iters",
    [
        pytest.param(4, id="finished"),
        pytest.param(6, id="unfinished"),
    ],
)
def test_eval_only_after_a_resume_changes_no_file(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str], max_iters: int
) -> None:
    """nanoGPT would continue to train."""
    train.main([*argv, "--max_iters=4"])
    Path("out/.lock").unlink()
    before = contents()
    capsys.readouterr()

    train.main([*argv, "--init_from=resume", "--eval_only=True", f"--max_iters={max_iters}"])

    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(evaluation(5), lines[-1]) and not any(line.startswith("iter ") for line in lines)
    assert contents() == before and not Path("out/.lock").exists()


def test_a_resume_without_a_checkpoint_is_refused(run_dir: Path, argv: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at out/ckpt\.pt: set out_dir .* or train one"):
        train.main([*argv, "--init_from=resume"])


# reproducibility and failing parts


def test_the_seed_determines_the_run(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--out_dir=one"])
    torch.rand(100)
    train.main([*argv, "--out_dir=two"])
    train.main([*argv, "--out_dir=three", "--seed=1"])

    one, two, three = (checkpoint(name)["model"] for name in ("one", "two", "three"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], three["lm_head.weight"])


# stdout fails from the header on, or from a rollback on, which initializes the model again
@pytest.mark.parametrize("fails_from", [0, 2])
def test_a_console_that_fails_does_not_stop_the_run(
    fails_from: int, run_dir: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_closed = fails_from == 0
    log_info = core.ConsoleLogger.log_info

    def print_line(logger: core.ConsoleLogger, text: str) -> None:
        if is_closed:
            raise BrokenPipeError("stdout is closed")
        log_info(logger, text)

    class ClosesStdout(Callback):
        recoveries = -1

        def on_step_begin(self, trainer: Trainer) -> None:
            nonlocal is_closed
            if trainer.iter_num == 2 and fails_from == 2 and not is_closed:
                is_closed = True
                with torch.no_grad():
                    next(trainer.raw_model.parameters())[0, 0] = float("nan")

        def on_train_end(self, trainer: Trainer) -> None:
            self.recoveries = len(trainer.monitor.history)

    monkeypatch.setattr(core.ConsoleLogger, "log_info", print_line)
    callback = ClosesStdout()
    train.main([*argv, "--max_iters=4", "--eval_interval=9"], [callback])

    assert callback.recoveries == (fails_from == 2)
    assert sum("stdout is closed" in message for message in caplog.messages) == 1  # the warning is logged once


def test_loggers_are_closed_after_the_checkpointer(
    run_dir: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    def watch(part: Any) -> None:
        close = part.close
        monkeypatch.setattr(part, "close", lambda self: closed.append(part.__name__) or close(self))

    watch(core.Checkpointer)
    watch(core.CompositeLogger)
    train.main([*argv, "--max_iters=1"])

    assert closed == ["Checkpointer", "CompositeLogger"]


# the wiring


def test_every_function_of_wiring_is_called_and_its_values_arrive(
    run_dir: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each function is called once and in this order; each part gets the values of the runtime and the options."""
    flags = ["--dtype=bfloat16", "--cpu_autocast=True", "--attention=manual", "--grad_clip=0.5", "--eval_iters=3",
             "--eval_rng=isolated", "--keep_last=4", "--keep_best=3", "--save_interval=5", "--save_minutes=2",
             "--async_save=True", "--on_instability=skip", "--max_recoveries=9", "--recovery_skip=2",
             "--recovery_lr_factor=0.5", "--spike_threshold=7", "--spike_window=20"]  # fmt: skip
    options = configure(Options, [*argv, *flags])
    called: list[str] = []

    def watch(name: str) -> None:
        real = getattr(wiring, name)
        monkeypatch.setattr(wiring, name, lambda *args, **kwargs: called.append(name) or real(*args, **kwargs))

    functions = [
        "runtime_settings", "find_start", "open_fitting_data", "with_run_length", "console", "print_header",
        "make_initializer",
        "find_transfer_source", "model_maker", "check_task", "make_objective", "enter_folder", "make_parallel",
        "make_optimizer", "step_settings", "evaluation_settings", "non_cosine_schedule", "make_checkpointer",
        "make_monitor", "loggers", "callbacks",
    ]  # fmt: skip
    for name in functions:
        watch(name)
    preemption = core.Preemption()
    with core.Runtime(**wiring.runtime_settings(options, preemption)) as run:
        trainer = train.build(options, run, preemption)
        step, evaluator, checkpointer, monitor = trainer.step, trainer.evaluator, trainer.checkpointer, trainer.monitor

        assert called == functions
        before_build = {"read_options", "given_callbacks", "user_callbacks"}
        assert {name for name in wiring.__all__ if name[0].islower()} - before_build == set(functions)
        assert step.autocast is evaluator.autocast is run.autocast
        assert step.scaler is run.scaler and step.objective is evaluator.objective
        assert step.get_batch == evaluator.get_batch
        assert (step.grad_clip, evaluator.eval_iters, evaluator.rng) == (0.5, 3, run.isolated_rng)
        assert monitor.flags.any_rank == run.any_rank and trainer.runtime is checkpointer.runtime is run
        assert trainer.raw_model is checkpointer.raw_model and checkpointer.step is step
        assert trainer.raw_model.config.attention == "manual" and "attention" not in checkpointer.notes.model_args
        assert checkpointer.notes.config == options.model_dump()
        # checkpoints and recovery
        checkpoints, schedule = checkpointer.checkpoints, checkpointer.schedule
        assert (str(checkpoints.folder), checkpoints.keep_last, checkpoints.keep_best) == ("out", 4, 3)
        assert (schedule.interval, schedule.seconds) == (5, 120)
        fingerprint = checkpointer.data.fingerprint()
        assert checkpointer.snapshot is not None and checkpointer.notes.provenance["data_fingerprint"] == fingerprint
        recovery, detector = monitor.recovery, monitor.detector
        assert trainer.preemption is preemption and recovery.on_instability == "skip"
        assert (recovery.max_recoveries, recovery.skip, recovery.lr_factor) == (9, 2, 0.5)
        assert checkpointer.detector is detector
        assert (detector.spike_threshold, detector.spike_window, detector.warmup_iters) == (7, 20, 2)


def test_a_signal_abandons_the_wait_for_data(run_dir: Path, argv: list[str]) -> None:
    """This holds for one process; with several, the others would wait for this one."""
    preemption = core.Preemption()
    with core.Runtime(device="cpu") as run, preemption:
        trainer = train.build(configure(Options, argv), run, preemption)
        signal.raise_signal(signal.SIGTERM)

        with pytest.raises(core.Interrupted):
            trainer.step.get_batch("train")
