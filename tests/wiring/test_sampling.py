"""A trained model and the way in which it answers, from sample.py's options."""

from pathlib import Path
from typing import Any

import pytest

import core
import train
from config.options import SampleOptions
from wiring.sampling import find_vocabulary, load_trained, make_answer, read_prompt


@pytest.fixture
def trained_run(run_dir: Path, tiny_argv: list[str]) -> Path:
    train.main([*tiny_argv, "--training_type=unmasking", "--max_iters=1", "--eval_interval=1"])
    return run_dir


def options(**changes: Any) -> SampleOptions:
    return SampleOptions(**{"device": "cpu", "compile": False, **changes})


def test_the_kind_of_a_checkpoint_decides_the_answer(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with core.Runtime(device="cpu") as run:
        trained = load_trained(options(), run)
        capsys.readouterr()
        make_answer(options(num_samples=1, max_new_tokens=5), run, trained, "ignored: --start was not given")()

    assert trained.kind == "unmasking" and not trained.model.training
    assert find_vocabulary(trained).mask == 17
    text, separator = capsys.readouterr().out.split("\n-")
    assert len(text) == 5 and separator == "-" * 14 + "\n"


def test_options_of_another_kind_are_refused(trained_run: Path) -> None:
    with (
        core.Runtime(device="cpu") as run,
        pytest.raises(
            core.ConfigError,
            match="^show_probabilities: for checkpoints of the kind token_classifier, and this one is of",
        ),
    ):
        load_trained(options(show_probabilities=True), run)


def test_a_prompt_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("abc", encoding="utf-8")

    assert read_prompt("abc") == read_prompt(f"FILE:{tmp_path}/prompt.txt") == "abc"
    with pytest.raises(core.ConfigError, match="^--original=FILE:nowhere: the prompt cannot be read"):
        read_prompt("FILE:nowhere", "original")
