"""train.py end to end: what it prints and where, what it leaves behind, and how it goes on."""

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
from tools.run_hash import run_hash

ROOT = Path(__file__).parents[1]
FLOAT = r"\d+\.\d{4}"
UNTRUSTED = r"-100\.00%"  # the mfu of the first five iterations
MFU = r"\d+\.\d\d%"


def introduction(argv: list[str], origin: str) -> list[str]:
    """The lines, as patterns, of a run on data/tiny, up to its first evaluation."""
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
    """The tiny run, with its learning rate echoed as it was given."""
    return [argument.replace("1e-2", "0.01").replace("1e-3", "0.001") for argument in tiny_argv]


def checkpoint(folder: str = "out", name: str = "ckpt.pt") -> dict[str, Any]:
    return torch.load(f"{folder}/{name}", weights_only=True)


def manifests(folder: str = "out") -> list[dict[str, Any]]:
    """Those of all checkpoints that are there, the oldest first."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("ckpt-*.json"))]


def as_nanogpt_saves(content: dict[str, Any], path: str, **changes: Any) -> None:
    """Save a checkpoint with nanoGPT's six keys alone."""
    keys = ("model", "optimizer", "model_args", "iter_num", "best_val_loss", "config")
    torch.save({**{key: content[key] for key in keys}, **changes}, path)


def names(folder: str = "out") -> list[str]:
    return sorted(os.listdir(folder))


def contents(folder: str = "out") -> dict[str, bytes]:
    """All files, but for the lock, which every run writes its own number into."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in paths}


def records(folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


class At(Callback):
    """Does something after the update of one iteration, once."""

    def __init__(self, iter_num: int, what: Callable[[Trainer], None]) -> None:
        self.iter_num = iter_num
        self.what = what

    def on_step_end(self, trainer: Trainer, result: Any) -> None:
        if trainer.iter_num == self.iter_num:
            self.what(trainer)


# what is printed


def test_stdout_is_nanogpts_in_its_order(run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    train.main(argv)

    out, err = capsys.readouterr()
    saving = "saving checkpoint to out"
    match(
        out,
        [
            *introduction(argv, "Initializing a new model from scratch"),
            evaluation(0),
            *(iteration(i, UNTRUSTED) for i in (0, 1, 2)),
            evaluation(3),
            saving,
            *(iteration(i, UNTRUSTED) for i in (3, 4)),
            iteration(5, MFU),
            evaluation(6),
            saving,
            iteration(6, MFU),
        ],
    )
    assert err == ""


def test_the_program_in_a_process_of_its_own(run_dir: Path, tiny_argv: list[str]) -> None:
    """With the default device, where the only line of ours goes to stderr and CUDA may be absent."""
    flags = [argument for argument in tiny_argv if not argument.startswith("--device")]
    if torch.cuda.is_available():
        flags.append("--device=cpu")
    command = [sys.executable, ROOT / "train.py", *flags, "--max_iters=1", "--eval_interval=1", "--out_dir=new/out"]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0
    said = [line for line in done.stderr.splitlines() if not re.match(r"device: no CUDA device here, using \w+", line)]
    assert said == []
    kinds = [re.sub(r"[ :].*", "", line) for line in done.stdout.splitlines() if not line.startswith("Overriding: ")]
    assert kinds == ["tokens", "found", "Initializing", "number", "num", "num", "using",
                     "step", "iter", "step", "saving", "iter"]  # fmt: skip
    numbered = [f"ckpt-00000{number}.{end}" for number in (1, 2) for end in ("json", "pt")]
    assert names("new/out") == [".lock", *numbered, "ckpt.pt", "metrics.jsonl"]


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


def test_log_interval(run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    train.main([*argv, "--log_interval=3"])

    assert re.findall(r"^iter (\d+):", capsys.readouterr().out, re.MULTILINE) == ["0", "3", "6"]


# what is left behind


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


def test_when_training_ends_all_of_it_is_kept_beside_ckpt_pt(run_dir: Path, argv: list[str]) -> None:
    """ckpt.pt stays what nanoGPT would have written last: the state before the update of iteration 6."""
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


def test_what_is_saved_in_the_background_is_the_same(run_dir: Path, argv: list[str]) -> None:
    for folder, flag in (("plain", "False"), ("behind", "True")):
        train.main([*argv, f"--out_dir={folder}", "--save_interval=1", "--keep_last=9", f"--async_save={flag}"])

    plain, behind = manifests("plain"), manifests("behind")
    assert [manifest["iter_num"] for manifest in behind] == [manifest["iter_num"] for manifest in plain]
    assert names("behind") == names("plain") and run_hash("behind") == run_hash("plain")


def test_only_so_many_checkpoints_are_kept(run_dir: Path, argv: list[str]) -> None:
    """The newest, and the best that is older; ckpt.pt is one of them."""
    ruin = ["--decay_lr=False", "--learning_rate=1", "--eval_iters=10", "--eval_interval=2"]

    train.main([*argv, *ruin, "--save_interval=1", "--keep_last=3", "--keep_best=1"])

    kept = {manifest["iter_num"]: manifest["val_loss"] for manifest in manifests()}
    evaluations = {record["iter"]: record["val/loss"] for record in records() if record["event"] == "eval"}
    best = min((2, 4, 6), key=evaluations.__getitem__)
    assert list(kept) == sorted({best, 5, 6, 7}) and kept[best] == evaluations[best]


def test_a_start_in_a_used_folder_moves_what_was_there_aside(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--max_iters=3"])
    former, files = run_hash("out"), names()

    train.main(argv)
    train.main(argv)

    assert run_hash("out/previous-1") == former and run_hash("out/previous-2") == run_hash("out") != former
    assert names("out/previous-1") == [name for name in files if name != ".lock"]
    assert [record["iter"] for record in records() if record["event"] == "step"] == list(range(7))


def test_metrics_are_kept_as_json_lines(run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lowest = train.main(argv)

    out, found = capsys.readouterr().out, records()
    steps = [record for record in found if record["event"] == "step"]
    evaluations = [record for record in found if record["event"] == "eval"]
    order = [(record["event"], record.get("iter")) for record in found]
    assert order == [("eval", 0), ("step", 0), ("step", 1), ("step", 2), ("eval", 3), ("checkpoint", None), ("step", 3),
                     ("step", 4), ("step", 5), ("eval", 6), ("checkpoint", None), ("step", 6)]  # fmt: skip
    assert [f"{record['loss']:.4f}" for record in steps] == re.findall(r"iter \d+: loss ([\d.]+)", out)
    assert [f"{record['val/loss']:.4f}" for record in evaluations] == re.findall(r"val loss ([\d.]+)", out)
    assert [f"{record['train/loss']:.4f}" for record in evaluations] == re.findall(r"train loss ([\d.]+)", out)
    assert min(record["val/loss"] for record in evaluations) == lowest
    assert [round(record["lr"], 6) for record in steps[:3]] == [0.003333, 0.006667, 0.01] and steps[6]["lr"] == 0.001
    assert all(record["grad_norm"] > 0 and record["time_ms"] > 0 for record in steps)
    assert [record["mfu"] for record in steps[:5]] == [-100.0] * 5 and steps[5]["mfu"] > 0


def test_clipping_off_means_no_gradient_norm(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--grad_clip=0", "--max_iters=0"])

    assert [list(record) for record in records() if record["event"] == "step"] == [
        ["event", "iter", "loss", "lr", "time_ms", "mfu"]
    ]


def test_a_worse_evaluation_is_not_saved_unless_always(run_dir: Path, argv: list[str]) -> None:
    """A learning rate that ruins the model after the first evaluation."""
    ruin = ["--decay_lr=False", "--learning_rate=1", "--eval_iters=10"]

    lowest = train.main([*argv, *ruin, "--out_dir=best", "--always_save_checkpoint=False"])
    train.main([*argv, *ruin, "--out_dir=last"])

    losses = [record["val/loss"] for record in records("best") if record["event"] == "eval"]
    assert lowest == losses[0] < min(losses[1:])
    assert names("best") == [".lock", "ckpt-000001.json", "ckpt-000001.pt", "metrics.jsonl"]  # the one at the end
    assert checkpoint("last")["iter_num"] == 6 and checkpoint("last")["best_val_loss"].item() == losses[2]


def test_learning_happens(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--max_iters=60", "--lr_decay_iters=60", "--eval_interval=30", "--eval_iters=20", "--dropout=0"])

    losses = [record["val/loss"] for record in records() if record["event"] == "eval"]
    assert losses[0] > 2.8 and losses[2] < 1.5  # three equally likely steps: 1.1 at best


# going on


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


class Killed(Exception):
    """What nobody catches: the process is gone."""


ENDS = {
    # how the run is ended after iteration 4, the iteration at which it goes on, and from what
    "stopped": (stopped, 5, "ckpt-000002.pt"),
    "signalled": (signalled, 5, "ckpt-000002.pt"),
    "killed": (killed, 3, "ckpt-000001.pt"),
}


@pytest.mark.parametrize("origin", ["resume", "auto"])
@pytest.mark.parametrize("end", ENDS)
def test_a_resumed_run_ends_on_the_bits_of_an_undisturbed_one(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str], end: str, origin: str
) -> None:
    how, first, name = ENDS[end]
    train.main([*argv, "--out_dir=whole"])
    with contextlib.suppress(PreemptedError, Killed):
        train.main([*argv, "--out_dir=cut"], [At(4, how)])
    assert checkpoint("cut")["iter_num"] == 3
    assert [record["iter"] for record in records("cut") if record["event"] == "step"][-1] >= 3
    capsys.readouterr()

    resume = [*argv, "--out_dir=cut", f"--init_from={origin}"]
    train.main(resume)

    out, err = capsys.readouterr()
    match(
        out,
        [
            *introduction(resume, "Resuming training from cut"),
            *(iteration(i, UNTRUSTED) for i in range(first, 6)),
            evaluation(6),
            "saving checkpoint to cut",
            iteration(6, UNTRUSTED),
        ],
    )
    assert err == f"resume: iteration {first} from {name}, checksum and next batch verified\n"
    whole, cut = checkpoint("whole"), checkpoint("cut")
    assert all(torch.equal(whole["model"][name], cut["model"][name]) for name in whole["model"])
    for number, state in whole["optimizer"]["state"].items():
        assert all(torch.equal(state[key], cut["optimizer"]["state"][number][key]) for key in state)
    assert whole["best_val_loss"] == cut["best_val_loss"] and whole["lowest_val_loss"] == cut["lowest_val_loss"]
    assert run_hash("whole") == run_hash("cut")
    seen = [[(r["iter"], r["loss"]) for r in records(folder) if r["event"] == "step"] for folder in ("whole", "cut")]
    assert seen[0] == seen[1] and [number for number, _ in seen[1]] == list(range(7))


def test_a_signal_ends_the_run_with_all_of_it_saved(run_dir: Path, argv: list[str]) -> None:
    former = signal.getsignal(signal.SIGTERM)

    with pytest.raises(
        PreemptedError, match=r"^stopped by SIGTERM at iteration 5; --init_from=resume goes on"
    ) as caught:
        train.main(argv, [At(4, signalled)])

    assert caught.value.exit_status == 75
    assert manifests()[-1]["iter_num"] == 5 and not manifests()[-1]["finished"]
    assert signal.getsignal(signal.SIGTERM) == former


@pytest.mark.parametrize("resumes", ["", "exact", "reseed"])
@pytest.mark.parametrize("reason", ["SIGTERM", "the time limit of 1e-09 hours"])
def test_a_stop_before_the_first_batch_changes_no_checkpoint(
    run_dir: Path, argv: list[str], reason: str, resumes: str
) -> None:
    """The first draw of a batch, which the stop interrupts, is not tried again and again."""
    if resumes:
        train.main([*argv, "--max_iters=3"])
        argv = [*argv, "--init_from=resume", f"--resume_rng={resumes}"]
    before = contents() if resumes else {}

    with pytest.raises(PreemptedError, match=f"^stopped by {reason} (before the first update|at iteration 4;)"):
        if reason == "SIGTERM":
            train.main(argv, [SignalledAtBegin()])
        else:
            train.main([*argv, "--time_limit=1e-9"])

    before.pop("out/metrics.jsonl", None)
    after = contents()
    after.pop("out/metrics.jsonl", None)
    assert after == before


def test_auto_starts_where_there_is_nothing_to_resume(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*argv, "--out_dir=whole"])
    capsys.readouterr()

    train.main([*argv, "--init_from=auto"])

    out, err = capsys.readouterr()
    assert "Initializing a new model from scratch\n" in out and run_hash("out") == run_hash("whole")
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
    assert err == "resume: iteration 7 from ckpt-000003.pt, checksum and next batch verified\n"
    assert contents() == before
    assert lowest == min(record["val/loss"] for record in records() if record["event"] == "eval")


def test_a_finished_run_given_more_iterations_ends_as_the_longer_run(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--max_iters=9", "--out_dir=whole"])
    train.main(argv)

    train.main([*argv, "--max_iters=9", "--init_from=resume"])

    assert run_hash("out") == run_hash("whole")


def test_resuming_with_a_fresh_seed_repeats_the_evaluation(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As nanoGPT does, and as a checkpoint of nanoGPT's is resumed: a ckpt.pt in a folder of its own."""
    train.main([*argv, "--max_iters=3"])
    for folder in ("ours", "theirs"):
        Path(folder).mkdir()
    shutil.copy("out/ckpt.pt", "ours")
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in checkpoint()["model"].items()}
    as_nanogpt_saves(checkpoint(), "theirs/ckpt.pt", model=compiled)
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


def test_what_another_program_wrote_last_is_what_a_resume_goes_on_from(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """nanoGPT's train.py went on in our folder; it writes ckpt.pt in place, whatever other names the file has."""
    train.main([*argv, "--max_iters=3"])
    as_nanogpt_saves(checkpoint(), "out/ckpt.pt", iter_num=5)
    capsys.readouterr()

    train.main([*argv, "--init_from=resume"])

    out, err = capsys.readouterr()
    assert re.findall(r"^iter \d+", out, re.MULTILINE) == ["iter 5", "iter 6"]
    assert re.match(
        r"out/ckpt\.pt has no manifest \(.*another program.* after the last save\): loaded after a check", err
    )
    assert manifests()[-1]["iter_num"] == 7 and "ckpt.pt.foreign" in names()


def test_a_run_begun_with_a_foreign_checkpoint_goes_on_after_a_signal(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no evaluation has beaten that program's best, so that ckpt.pt is not ours yet."""
    train.main([*argv, "--max_iters=3"])
    Path("theirs").mkdir()
    as_nanogpt_saves(checkpoint(), "theirs/ckpt.pt", best_val_loss=torch.tensor(0.1))
    resume = [*argv, "--out_dir=theirs", "--init_from=resume", "--always_save_checkpoint=False"]
    with pytest.raises(PreemptedError):
        train.main(resume, [At(4, signalled)])
    capsys.readouterr()

    train.main(resume)

    assert re.findall(r"^iter \d+", capsys.readouterr().out, re.MULTILINE) == ["iter 5", "iter 6"]


def test_auto_starts_afresh_where_all_is_damaged(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(argv)
    whole = run_hash("out")
    for path in Path("out").glob("ckpt*.pt"):
        os.truncate(path, 1000)
    capsys.readouterr()

    train.main([*argv, "--init_from=auto"])

    err = capsys.readouterr().err
    assert "init_from=auto: starting afresh (no good checkpoint in out: " in err
    assert "could not be saved" not in err
    assert run_hash("out") == whole and checkpoint()["iter_num"] == 6
    assert "ckpt.pt" in names("out/previous-1")


def test_a_checkpoint_of_another_program_is_kept_when_ours_takes_its_name(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--max_iters=3"])
    Path("theirs").mkdir()
    content = Path("out/ckpt.pt").read_bytes()
    Path("theirs/ckpt.pt").write_bytes(content)

    train.main([*argv, "--init_from=resume", "--out_dir=theirs"])

    numbered = [f"ckpt-00000{number}.{end}" for number in (1, 2) for end in ("json", "pt")]
    assert names("theirs") == [".lock", *numbered, "ckpt.pt", "ckpt.pt.foreign", "metrics.jsonl"]
    assert Path("theirs/ckpt.pt.foreign").read_bytes() == content
    assert Path("theirs/ckpt.pt").samefile("theirs/ckpt-000001.pt") and checkpoint("theirs")["iter_num"] == 6


def test_what_differs_on_resume_is_said_in_one_line(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*argv, "--max_iters=3"])
    capsys.readouterr()

    train.main(
        [*argv, "--init_from=resume", "--max_iters=4", "--n_layer=3", "--weight_decay=0.5", "--learning_rate=0.002"]
    )

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("resume: the options differ from the checkpoint's: ")
    assert lines[1] == "resume: iteration 4 from ckpt-000002.pt, checksum and next batch verified"
    differences = set(lines[0].partition("checkpoint's: ")[2].split(", "))
    assert differences == {
        "max_iters 3 -> 4",
        "n_layer stays 2 (not 3)",
        "weight_decay stays 0.1 (not 0.5)",
        "learning_rate 0.01 -> 0.002",
    }


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
def test_a_smaller_block_on_resume(run_dir: Path, argv: list[str], positions: str) -> None:
    """The position embeddings are cropped, and the optimizer's moments with them."""
    argv = [*argv, f"--position_encoding={positions}"]
    train.main([*argv, "--max_iters=3"])

    train.main([*argv, "--init_from=resume", "--block_size=8"])

    saved = checkpoint()
    assert saved["iter_num"] == 6 and saved["model_args"]["block_size"] == 8
    if positions == "absolute":
        assert saved["model"]["transformer.wpe.weight"].shape == (8, 32)
        assert saved["optimizer"]["state"][1]["exp_avg"].shape == (8, 32)


def test_a_smaller_batch_on_resume_is_small_from_the_start(run_dir: Path, argv: list[str]) -> None:
    """The batch that was waiting in the checkpoint has the old size."""
    train.main([*argv, "--max_iters=3"])
    sizes: list[int] = []

    class Sizes(Callback):
        def on_step_begin(self, trainer: Trainer) -> None:
            if trainer.step.batch is not None:
                sizes.append(len(trainer.step.batch[0]))

    train.main([*argv, "--init_from=resume", "--batch_size=3", "--max_iters=4"], [Sizes()])

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
def test_eval_only_after_a_resume_leaves_the_folder_alone(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str], max_iters: int
) -> None:
    """nanoGPT would train on."""
    train.main([*argv, "--max_iters=4"])
    Path("out/.lock").unlink()
    before = contents()
    capsys.readouterr()

    train.main([*argv, "--init_from=resume", "--eval_only=True", f"--max_iters={max_iters}"])

    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(evaluation(5), lines[-1]) and not any(line.startswith("iter ") for line in lines)
    assert contents() == before and not Path("out/.lock").exists()


def test_nothing_to_resume(run_dir: Path, argv: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at out/ckpt\.pt: set out_dir .* or train one"):
        train.main([*argv, "--init_from=resume"])


# what a run does not change


def test_two_runs_are_the_same_run(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--out_dir=one"])
    torch.rand(100)
    train.main([*argv, "--out_dir=two"])
    train.main([*argv, "--out_dir=three", "--seed=1"])

    one, two, three = (checkpoint(name)["model"] for name in ("one", "two", "three"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], three["lm_head.weight"])


@pytest.mark.parametrize("fails_from", [0, 2])  # the header; the model that a rollback to the start makes anew
def test_a_console_that_fails_does_not_stop_the_run(
    fails_from: int, run_dir: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_gone = fails_from == 0
    log_info = core.ConsoleLogger.log_info

    def print_line(logger: core.ConsoleLogger, text: str) -> None:
        if is_gone:
            raise BrokenPipeError("stdout is closed")
        log_info(logger, text)

    class Breaks(Callback):
        recoveries = -1

        def on_step_begin(self, trainer: Trainer) -> None:
            nonlocal is_gone
            if trainer.iter_num == 2 and fails_from == 2 and not is_gone:
                is_gone = True
                with torch.no_grad():
                    next(trainer.raw_model.parameters())[0, 0] = float("nan")

        def on_train_end(self, trainer: Trainer) -> None:
            self.recoveries = len(trainer.monitor.history)

    monkeypatch.setattr(core.ConsoleLogger, "log_info", print_line)
    breaks = Breaks()
    train.main([*argv, "--max_iters=4", "--eval_interval=9"], [breaks])

    assert breaks.recoveries == (fails_from == 2)
    assert sum("stdout is closed" in message for message in caplog.messages) == 1  # warned of once


def test_loggers_end_after_the_last_save(run_dir: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    def watch(part: Any) -> None:
        close = part.close
        monkeypatch.setattr(part, "close", lambda self: closed.append(part.__name__) or close(self))

    watch(core.Checkpointer)
    watch(core.CompositeLogger)
    train.main([*argv, "--max_iters=1"])

    assert closed == ["Checkpointer", "CompositeLogger"]


# the wiring


def test_every_part_is_wired(run_dir: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each seam is asked for its part, and each part gets what the runtime and the options say."""
    flags = ["--dtype=bfloat16", "--cpu_autocast=True", "--attention=manual", "--grad_clip=0.5", "--eval_iters=3",
             "--eval_rng=isolated", "--keep_last=4", "--keep_best=3", "--save_interval=5", "--save_minutes=2",
             "--async_save=True", "--on_instability=skip", "--max_recoveries=9", "--recovery_skip=2",
             "--recovery_lr_factor=0.5", "--spike_threshold=7", "--spike_window=20"]  # fmt: skip
    options = configure(Options, [*argv, *flags])
    asked: list[str] = []

    def watch(name: str) -> None:
        real = getattr(wiring, name)
        monkeypatch.setattr(wiring, name, lambda *given, **named: asked.append(name) or real(*given, **named))

    seams = [
        "loop_numbers", "open_data", "find_start", "console", "print_header", "make_initializer",
        "find_transfer_source", "model_maker", "check_task", "make_objective", "enter_folder", "make_parallel",
        "make_optimizer", "step_settings", "evaluation_settings", "non_cosine_schedule", "make_checkpointer",
        "make_monitor", "loggers", "callbacks",
    ]  # fmt: skip
    for name in seams:
        watch(name)
    preemption = core.Preemption()
    with core.Runtime(device="cpu", dtype="bfloat16", cpu_autocast=True) as run:
        trainer = train.build(options, run, preemption)
        step, evaluator, checkpointer, monitor = trainer.step, trainer.evaluator, trainer.checkpointer, trainer.monitor

        assert asked == seams  # in the order in which things happen
        assert {name for name in wiring.__all__ if name[0].islower()} == set(seams)
        assert step.autocast is evaluator.autocast is run.autocast
        assert step.scaler is run.scaler and step.objective is evaluator.objective
        assert step.get_batch == evaluator.get_batch
        assert (step.grad_clip, evaluator.eval_iters, evaluator.rng) == (0.5, 3, run.isolated_rng)
        assert monitor.flags.any_rank == run.any_rank and trainer.runtime is checkpointer.runtime is run
        assert trainer.raw_model is checkpointer.raw_model and checkpointer.step is step
        assert trainer.raw_model.config.attention == "manual" and "attention" not in checkpointer.notes.model_args
        assert checkpointer.notes.config == options.model_dump()
        # what keeps the run
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


def test_a_signal_drops_the_wait_for_data(run_dir: Path, argv: list[str]) -> None:
    """Where one process trains; of several, the others would wait for this one."""
    preemption = core.Preemption()
    with core.Runtime(device="cpu") as run, preemption:
        trainer = train.build(configure(Options, argv), run, preemption)
        signal.raise_signal(signal.SIGTERM)

        with pytest.raises(core.Interrupted):
            trainer.step.get_batch("train")
