"""A trained model and the way in which it answers, from sample.py's options."""

from pathlib import Path
from typing import Any

import pytest

import core
import train
from config.options import SampleOptions
from model import GPT, GPTConfig
from wiring.sampling import find_vocabulary, load_trained_model, masked_prompt, read_text, texts_to_score


@pytest.fixture
def trained_run(run_dir: Path, tiny_argv: list[str]) -> Path:
    train.main([*tiny_argv, "--training_type=unmasking", "--max_iters=1", "--eval_interval=1"])
    return run_dir


def options(**changes: Any) -> SampleOptions:
    return SampleOptions(**{"device": "cpu", "compile": False, **changes})


def initializer(run: core.Runtime) -> core.ModelInitializer:
    return core.ModelInitializer(GPT, GPTConfig, run.device)


def test_a_checkpoint_brings_its_kind_tokenizer_and_vocabulary(trained_run: Path) -> None:
    with core.Runtime(device="cpu") as run:
        trained = load_trained_model(options(), initializer(run))
        ids = masked_prompt("ab", trained, 17, options(max_new_tokens=5), run.device)

    assert trained.kind == "unmasking" and not trained.model.training
    assert find_vocabulary(trained).mask == 17
    assert ids.tolist() == [1, 2, 17, 17, 17, 17, 17]


def test_options_of_another_kind_are_refused(trained_run: Path) -> None:
    with (
        core.Runtime(device="cpu") as run,
        pytest.raises(
            core.ConfigError,
            match="^show_probabilities: for checkpoints of the kind token_classifier, and this one is of",
        ),
    ):
        load_trained_model(options(show_probabilities=True), initializer(run))


def test_a_prompt_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("abc", encoding="utf-8")

    assert read_text("abc", "start") == read_text(f"FILE:{tmp_path}/prompt.txt", "start") == "abc"
    with pytest.raises(core.ConfigError, match="^--original=FILE:nowhere: the prompt cannot be read"):
        read_text("FILE:nowhere", "original")


def test_of_a_file_each_line_is_scored() -> None:
    assert texts_to_score("one", "one") == [("--start", "one")]
    assert texts_to_score("one\n\ntwo\n", "FILE:x") == [
        ("--start=FILE:x line 1", "one"),
        ("--start=FILE:x line 3", "two"),
    ]
    assert texts_to_score("\n", "FILE:x") == [("--start", "")]
