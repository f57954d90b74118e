"""Resuming without the config: the saved options are used, unless the command line says more."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from config.options import Options
from configurator import configure
from core import CheckpointManager, ConfigError
from tools.run_hash import run_hash
from wiring.saved_options import as_saved


def options_of(*argv: str) -> Options:
    return as_saved(configure(Options, argv), argv)


def test_a_run_goes_on_as_it_was_started(
    run_dir: Path, tiny_argv: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*tiny_argv, "--out_dir=whole", "--max_iters=5", "--eval_interval=2"])
    train.main(
        [*tiny_argv, "--out_dir=part", "--max_iters=5", "--eval_interval=2", "--save_interval=1", "--keep_last=9"]
    )
    for path in [*Path("part").glob("ckpt-00000[3-9].*"), Path("part/ckpt.pt")]:
        path.unlink()
    with caplog.at_level(logging.INFO):
        train.main(["--init_from=resume", "--out_dir=part"])

    assert run_hash("part") == run_hash("whole")
    assert (
        "resume: with the options saved in part/ckpt-000002.pt; to change one, give the config file again\n"
        in capsys.readouterr().err
    )
    assert "differ" not in caplog.text


@pytest.mark.parametrize(
    "given", [[], ["--device=cpu"], ["--dtype=float32", "--compile=False", "--backend=gloo", "--time_limit=1.5"]]
)
def test_what_names_the_machine_is_taken_from_the_command_line(
    run_dir: Path, tiny_argv: list[str], given: list[str]
) -> None:
    train.main([*tiny_argv, "--max_iters=2"])
    options = options_of("--init_from=resume", "--out_dir=out", *given)

    assert (options.dataset, options.n_embd, options.max_iters, options.init_from) == ("tiny", 32, 2, "resume")
    assert options.time_limit == (1.5 if len(given) > 1 else None)


def test_a_resume_can_do_without_the_callbacks_file_of_the_run(run_dir: Path, tiny_argv: list[str]) -> None:
    Path("mine.py").write_text("class Mine:\n    def on_epoch_end(self, epoch): ...")
    train.main([*tiny_argv, "--max_iters=2", "--callbacks_file=mine.py"])

    assert options_of("--init_from=resume", "--out_dir=out").callbacks_file == "mine.py"
    without = options_of("--init_from=resume", "--out_dir=out", "--callbacks_file=None")
    assert (without.callbacks_file, without.dataset) == (None, "tiny")


@pytest.mark.parametrize(
    "given", ["--local-rank=0", "--temperature=1", "--system.device=cpu", "--training.use_torch_compile=False"]
)
def test_a_flag_that_sets_no_option_or_has_a_section_changes_nothing(
    run_dir: Path, tiny_argv: list[str], given: str
) -> None:
    train.main([*tiny_argv, "--max_iters=2"])
    assert options_of("--init_from=resume", "--out_dir=out", given).dataset == "tiny"


def test_a_run_that_does_not_go_on_with_its_options_says_so(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*tiny_argv, "--max_iters=2"])
    capsys.readouterr()
    note = (
        "resume: as max_iters is given, all other options have their defaults, such as dataset=openwebtext, and not "
        "the values saved in out/ckpt-000001.pt: give the config file and flags of that run, too\n"
    )

    options_of("--init_from=resume", "--out_dir=out", "--max_iters=9")
    assert capsys.readouterr().err == note
    options_of("--init_from=resume", "--out_dir=out", "--max_iters=9", "--dataset=tiny")
    assert capsys.readouterr().err == ""
    Path("mine.py").write_text("learning_rate = 0.5\n")
    options_of("--init_from=resume", "--out_dir=out", "mine.py", "--max_iters=9")
    assert capsys.readouterr().err == ""


def test_only_rank_0_says_it(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main([*tiny_argv, "--max_iters=2"])
    capsys.readouterr()
    monkeypatch.setenv("RANK", "1")
    options_of("--init_from=resume", "--out_dir=out")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("more", [["--max_iters=9"], ["mine.py"], ["--model.n_layer=3"], ["--lr_decay_iters=9"]])
def test_more_on_the_command_line_has_nanogpts_meaning(run_dir: Path, tiny_argv: list[str], more: list[str]) -> None:
    Path("mine.py").write_text("learning_rate = 0.5\n")
    train.main([*tiny_argv, "--max_iters=2"])

    assert options_of("--init_from=resume", "--out_dir=out", *more).dataset == "openwebtext"


@pytest.mark.parametrize("init_from", ["auto", "scratch"])
def test_other_starts_take_no_saved_options(run_dir: Path, tiny_argv: list[str], init_from: str) -> None:
    train.main([*tiny_argv, "--max_iters=2"])
    assert options_of(f"--init_from={init_from}", "--out_dir=out").dataset == "openwebtext"


def test_the_newest_checkpoint_has_the_highest_number(run_dir: Path) -> None:
    for number, n_layer in ((999999, 3), (1000000, 4)):
        save(dataset="tiny", n_layer=n_layer)
        Path("out/ckpt.pt").rename(f"out/ckpt-{number}.pt")
        Path(f"out/ckpt-{number}.json").touch()

    assert options_of("--init_from=resume", "--out_dir=out").n_layer == 4


def save(**config: Any) -> None:
    Path("out").mkdir(exist_ok=True)
    torch.save({"model": {}, "model_args": {}, "config": config}, "out/ckpt.pt")


def test_nanogpts_checkpoint_brings_its_options(run_dir: Path) -> None:
    save(dataset="tiny", n_layer=3, out_dir="elsewhere", init_from="scratch", device="cuda", of_a_fork=1)
    options = options_of("--init_from=resume", "--out_dir=out", "--device=cpu")

    assert (options.n_layer, options.out_dir, options.init_from, options.device) == (3, "out", "resume", "cpu")


def test_without_saved_options_the_given_ones_are_used(run_dir: Path) -> None:
    assert options_of("--init_from=resume", "--out_dir=none").dataset == "openwebtext"
    save()
    assert options_of("--init_from=resume", "--out_dir=out").dataset == "openwebtext"


def test_saved_options_that_are_not_valid_are_refused(run_dir: Path) -> None:
    save(dataset="tiny", n_layer=-3)
    reason = r"the options saved in out/ckpt\.pt are not valid here \(n_layer: got -3, wanted int >= 1\): give"
    with pytest.raises(ConfigError, match=reason):
        options_of("--init_from=resume", "--out_dir=out")


def test_damaged_checkpoints_are_passed_over(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--max_iters=4", "--save_interval=1"])
    newest = CheckpointManager("out").load().path
    newest.write_bytes(newest.read_bytes()[:999])

    assert options_of("--init_from=resume", "--out_dir=out").max_iters == 4
