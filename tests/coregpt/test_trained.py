"""A trained model, loaded and asked to write."""

from pathlib import Path

import pytest

import coregpt


def test_a_run_is_loaded_ready_to_write(run_dir: Path, tiny_argv: list[str]) -> None:
    coregpt.train([*tiny_argv, "--eval_interval=1", "--n_layer=1"])
    trained = coregpt.load("out", device="cpu")
    assert trained.kind == "language_model" and trained.options is not None and trained.options.n_layer == 1
    assert not trained.model.training

    text = trained.generate("ab", max_new_tokens=12)
    assert len(text) == 12 and trained.generate("ab", 12) == text != trained.generate("ab", 12, seed=2)
    with pytest.raises(coregpt.ConfigError, match="^generate: the prompt is empty"):
        trained.generate("")


def test_a_folder_without_a_checkpoint_is_one_message(run_dir: Path) -> None:
    with pytest.raises(coregpt.CheckpointError, match="^no checkpoint at gone/ckpt.pt"):
        coregpt.load("gone", device="cpu")


def test_another_kind_of_model_does_not_write_text(run_dir: Path, tiny_argv: list[str]) -> None:
    coregpt.train([*tiny_argv, "--eval_interval=1", "--training_type=token_classification"])

    with pytest.raises(coregpt.ConfigError, match="^generate: the model is of the kind token_classifier"):
        coregpt.load("out", device="cpu").generate("ab")
