"""train.py end to end: what it prints and where, what it leaves behind, and how it goes on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import core
import extras
import train
from config.options import Options
from configurator import configure
from core import Callback, CheckpointError, Trainer

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


def checkpoint(folder: str = "out") -> dict[str, Any]:
    return torch.load(f"{folder}/ckpt.pt", weights_only=True)


def records(folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


class StopAt(Callback):
    """Ends the run after one iteration, as a callback of a user's would."""

    def __init__(self, iter_num: int) -> None:
        self.iter_num = iter_num

    def on_step_end(self, trainer: Trainer, result: Any) -> None:
        if trainer.iter_num == self.iter_num:
            trainer.stop("enough")


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
    assert sorted(os.listdir("new/out")) == ["ckpt.pt", "metrics.jsonl"]


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
    assert os.listdir("best") == ["metrics.jsonl"]
    assert checkpoint("last")["iter_num"] == 6 and checkpoint("last")["best_val_loss"].item() == losses[2]


def test_learning_happens(run_dir: Path, argv: list[str]) -> None:
    train.main([*argv, "--max_iters=60", "--lr_decay_iters=60", "--eval_interval=30", "--eval_iters=20", "--dropout=0"])

    losses = [record["val/loss"] for record in records() if record["event"] == "eval"]
    assert losses[0] > 2.8 and losses[2] < 1.5  # three equally likely steps: 1.1 at best


# going on


def test_a_resumed_run_ends_on_the_bits_of_an_undisturbed_one(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*argv, "--out_dir=whole"])
    train.main([*argv, "--out_dir=cut"], [StopAt(4)])
    assert checkpoint("cut")["iter_num"] == 3
    capsys.readouterr()

    resume = [*argv, "--out_dir=cut", "--init_from=resume"]
    train.main(resume)

    out, err = capsys.readouterr()
    match(
        out,
        [
            *introduction(resume, "Resuming training from cut"),
            *(iteration(i, UNTRUSTED) for i in (3, 4, 5)),
            evaluation(6),
            "saving checkpoint to cut",
            iteration(6, UNTRUSTED),
        ],
    )
    assert err == ""
    whole, cut = checkpoint("whole"), checkpoint("cut")
    assert all(torch.equal(whole["model"][name], cut["model"][name]) for name in whole["model"])
    for number, state in whole["optimizer"]["state"].items():
        assert all(torch.equal(state[key], cut["optimizer"]["state"][number][key]) for key in state)
    assert whole["best_val_loss"] == cut["best_val_loss"] and whole["lowest_val_loss"] == cut["lowest_val_loss"]
    seen = [(record["iter"], record["loss"]) for record in records("cut") if record["event"] == "step"]
    assert (
        seen[5:] == [(record["iter"], record["loss"]) for record in records("whole") if record["event"] == "step"][3:]
    )


def test_resuming_with_a_fresh_seed_repeats_the_evaluation(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As nanoGPT does, and as a checkpoint of nanoGPT's is resumed."""
    train.main([*argv, "--max_iters=3"])
    ours, theirs = checkpoint(), checkpoint()
    for key in ("ranks", "scaler", "callbacks", "lowest_val_loss"):
        theirs.pop(key)
    theirs["model"] = {f"_orig_mod.{name}": tensor for name, tensor in theirs["model"].items()}
    Path("theirs").mkdir()
    torch.save(theirs, "theirs/ckpt.pt")
    capsys.readouterr()

    train.main([*argv, "--init_from=resume", "--resume_rng=reseed", "--max_iters=4"])
    out, err = capsys.readouterr()
    train.main([*argv, "--init_from=resume", "--out_dir=theirs", "--max_iters=4"])
    their_out, their_err = capsys.readouterr()

    def numbers(text: str) -> list[str]:
        return re.findall(rf"^(?:step|iter) .*?loss {FLOAT}(?:, val loss {FLOAT})?", text, re.MULTILINE)

    assert [line.split(":")[0] for line in numbers(out)] == ["step 3", "iter 3", "iter 4"]
    assert numbers(out) == numbers(their_out)
    assert "no random state" not in err and "no random state; reseeding" in their_err
    assert ours["iter_num"] == 3


def test_what_differs_on_resume_is_said_in_one_line(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*argv, "--max_iters=3"])
    capsys.readouterr()

    train.main(
        [*argv, "--init_from=resume", "--max_iters=4", "--n_layer=3", "--weight_decay=0.5", "--learning_rate=0.002"]
    )

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("resume: the options differ from the checkpoint's: ")
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
    assert os.listdir("out") == ["metrics.jsonl"] and 2 < loss < 4


def test_eval_only_after_a_resume_leaves_the_checkpoint_alone(
    run_dir: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """nanoGPT would train on."""
    train.main([*argv, "--max_iters=4"])
    before = Path("out/ckpt.pt").read_bytes()
    capsys.readouterr()

    train.main([*argv, "--init_from=resume", "--eval_only=True"])

    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(evaluation(3), lines[-1]) and not any(line.startswith("iter ") for line in lines)
    assert Path("out/ckpt.pt").read_bytes() == before


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


# the wiring


def test_every_part_is_wired(run_dir: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each seam is asked for its part, and each part gets what the runtime and the options say."""
    flags = ["--dtype=bfloat16", "--cpu_autocast=True", "--attention=manual", "--grad_clip=0.5", "--eval_iters=3"]
    options = configure(Options, [*argv, *flags])
    asked: list[str] = []

    def watch(name: str) -> None:
        real = getattr(extras, name)
        monkeypatch.setattr(extras, name, lambda *given: asked.append(name) or real(*given))

    for name in ("adapt", "parallel", "objective", "callbacks", "loggers", "progress"):
        watch(name)
    with core.Runtime(device="cpu", dtype="bfloat16", cpu_autocast=True) as run:
        trainer = train.build(options, run)
        step, evaluator = trainer.step, trainer.evaluator
        trainer.logger.close()

    assert sorted(asked) == ["adapt", "callbacks", "loggers", "objective", "parallel", "progress"]
    assert step.autocast is evaluator.autocast is run.autocast
    assert step.scaler is run.scaler and step.objective is evaluator.objective
    assert step.get_batch == evaluator.get_batch
    assert (step.grad_clip, evaluator.eval_iters) == (0.5, 3)
    assert trainer.detector.any_rank == run.any_rank and trainer.runtime is run
    assert trainer.raw_model.config.attention == "manual" and "attention" not in trainer.model_args
    assert trainer.config == options.model_dump()
